"""Trace and spectral density of a symmetric matrix that is known by its products alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adasap.analysis.lanczos import Krylov, Product
from adasap.errors import RecipeError


@dataclass(frozen=True, eq=False)
class Density:
    """A spectrum as weighted points: the mean over probes of sum_j weight_j * delta(t - node_j).

    Attributes:
        nodes: Ritz values, float64 [probes, steps].
        weights: Squared first components, each row sums to 1, float64 [probes, steps].
        size: n.
    """

    nodes: Tensor
    weights: Tensor
    size: int

    def at(self, points: Tensor, *, width: float) -> Tensor:
        """Density per eigenvalue, smoothed by a Gaussian of this standard deviation; integrates to 1."""
        bells = torch.exp(-0.5 * ((points[:, None, None] - self.nodes) / width) ** 2) / (width * (2 * torch.pi) ** 0.5)
        density: Tensor = (bells * self.weights).sum(-1).mean(-1)
        return density

    def to_json(self) -> dict[str, Any]:
        """Nodes and weights of every probe."""
        return {"nodes": self.nodes.tolist(), "weights": self.weights.tolist(), "size": self.size}


@dataclass(frozen=True, eq=False)
class Trace:
    """A Monte Carlo estimate of a trace, and of its parts.

    Attributes:
        samples: z . A z, float64 [draws].
        parts: Name -> the same sum over a part of the coordinates, float64 [draws].
        size: n.
    """

    samples: Tensor
    parts: dict[str, Tensor]
    size: int

    @property
    def value(self) -> float:
        """The estimate."""
        return float(self.samples.mean())

    @property
    def standard_error(self) -> float:
        """s / sqrt(draws)."""
        return _standard_error(self.samples)

    def to_json(self) -> dict[str, Any]:
        """Estimates with their standard errors."""
        parts = {
            name: {"value": values.mean().item(), "standard_error": _standard_error(values)}
            for name, values in self.parts.items()
        }
        own = {"value": self.value, "standard_error": self.standard_error, "draws": len(self.samples)}
        return {**own, "size": self.size, "parts": parts}


def spectral_density(product: Product, probes: list[Tensor], *, steps: int = 20) -> Density:
    """The spectrum as a measure, by stochastic Lanczos quadrature (Lin, Saad, Yang 2016; Ghorbani et al. 2019).

    Each probe z gives a Gauss quadrature of the measure sum_i (z . v_i)^2 delta(lambda_i): its Ritz values, weighted
    by the squared first components of the tridiagonal matrix's eigenvectors. Its first 2 m - 1 moments are exact.

    Args:
        product: The matrix.
        probes: Random vectors with independent entries of equal variance, each float [n].
        steps: m, products per probe; a probe whose Krylov space is exhausted uses fewer.
    Example:
        >>> matrix = torch.diag(torch.tensor([3.0, 1.0, -2.0]))
        >>> found = spectral_density(lambda v: matrix @ v, [torch.ones(3)], steps=3)
        >>> round((found.nodes * found.weights).sum().item() * 3, 4)  # the trace
        2.0
    """
    if steps < 1 or not probes:
        raise RecipeError(f"steps is {steps} with {len(probes)} probes; give 1 or more of both")
    nodes, weights = [], []
    for vector in probes:
        space = Krylov(product, vector)
        for _ in range(min(steps, len(vector))):
            space.grow()
            if space.exhausted:
                break
        values, components, _ = space.ritz()
        missing = steps - len(values)
        nodes.append(torch.nn.functional.pad(values, (0, missing)))
        weights.append(torch.nn.functional.pad(components[0].square(), (0, missing)))
    return Density(torch.stack(nodes), torch.stack(weights), len(probes[0]))


def hutchinson_trace(
    product: Product,
    size: int,
    *,
    draws: int = 16,
    seed: int = 0,
    parts: Mapping[str, Tensor] | None = None,
    like: Tensor | None = None,
) -> Trace:
    """The trace as the mean of z . A z over random signs z (Hutchinson 1990).

    The variance of a draw is 2 sum_{i != j} A_ij^2. A part's trace comes from the same draws, since the entries
    outside the part have expectation zero; they add to its variance.

    Args:
        product: The matrix.
        size: n.
        draws: At least 2.
        seed: Of z.
        parts: Name -> int64 coordinates.
        like: A tensor of the type and device that `product` takes.
    Example:
        >>> hutchinson_trace(lambda v: torch.tensor([3.0, 1.0]) * v, 2, parts={"first": torch.tensor([0])}).to_json()
        {'value': 4.0, 'standard_error': 0.0, 'draws': 16, 'size': 2, 'parts': {'first': {'value': 3.0, ...}}}
    """
    if draws < 2:
        raise RecipeError(f"draws is {draws}; give 2 or more, so that there is a standard error")
    generator, parts = torch.Generator().manual_seed(seed), parts or {}
    samples: list[Tensor] = []
    of_parts: dict[str, list[Tensor]] = {name: [] for name in parts}
    for _ in range(draws):
        signs = random_signs(size, generator, like)
        each = (signs * product(signs)).double()
        samples.append(each.sum().cpu())
        for name, coordinates in parts.items():
            of_parts[name].append(each[coordinates.to(each.device)].sum().cpu())
    return Trace(torch.stack(samples), {name: torch.stack(found) for name, found in of_parts.items()}, size)


def random_signs(size: int, generator: torch.Generator, like: Tensor | None = None) -> Tensor:
    """Independent +1 and -1, float [n], drawn on the CPU."""
    signs = torch.randint(0, 2, (size,), generator=generator) * 2 - 1
    return signs.to(like) if like is not None else signs.float()


def _standard_error(samples: Tensor) -> float:
    return float(samples.std()) / math.sqrt(len(samples))
