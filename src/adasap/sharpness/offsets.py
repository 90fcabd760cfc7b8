"""The arithmetic of a perturbation: row norms, one coefficient per row, offsets.

Small vectors over all rows of the model carry radii, norms and coefficients; only `scaled_gradients` and
`apply_coefficients` touch memory of the size of the weights, and each of them reads it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasap.sharpness.options import PerturbationOptions, Weighting
from adasap.sharpness.rows import KINDS, Kind, RowLayout, TensorRows
from adasap.sharpness.swap import chunks


@dataclass(frozen=True, eq=False)
class RowNorms:
    """What the last perturbation spent, per row: norm ||T g||, radius, coefficient. All float [rows]."""

    norms: Tensor
    radii: Tensor
    coefficients: Tensor
    layout: RowLayout

    def shares(self) -> dict[Kind, float]:
        """Shares of sum_i ||eps_i / T_i||^2 / rho_i^2 by kind of tensor."""
        spent = (self.coefficients * self.norms / self.radii).square().nan_to_num(0.0, 0.0, 0.0)
        total = dict.fromkeys(KINDS, 0.0)
        for rows, part in zip(self.layout.tensors, self.layout.split(spent.double()), strict=True):
            total[rows.kind] += float(part.sum())
        whole = sum(total.values())
        return {kind: value / whole if whole else 0.0 for kind, value in total.items()}


def scaled_gradients(
    weights: Sequence[Tensor], layout: RowLayout, options: PerturbationOptions
) -> tuple[list[Tensor], Tensor]:
    """T^2 g of each weight, and the norm ||T g|| of each row, float [rows].

    Where T is 1 the gradient itself is returned, not a copy.
    """
    scaled = [_wide(_gradient(weight)) for weight in weights]
    norms: dict[int, Tensor] = {}
    stretched = [
        i for i, rows in enumerate(layout.tensors) if options.geometry == "elementwise" and rows.kind != "shifts"
    ]
    for part in chunks([weights[i] for i in stretched]):
        positions = stretched[part]
        stretch = torch._foreach_abs([_wide(weights[i]) for i in positions])
        torch._foreach_add_(stretch, options.eta)
        product = torch._foreach_mul(stretch, [scaled[i] for i in positions])
        norms |= {i: _row_norms(t, layout.tensors[i]) for i, t in zip(positions, product, strict=True)}
        torch._foreach_mul_(product, stretch)
        for i, tensor in zip(positions, product, strict=True):
            scaled[i] = tensor
    for i in range(len(weights)):
        if i not in norms:
            norms[i] = _row_norms(scaled[i], layout.tensors[i])
    return scaled, torch.cat([norms[i] for i in range(len(weights))])


def row_coefficients(norms: Tensor, radii: Tensor, layout: RowLayout, weighting: Weighting) -> tuple[Tensor, Tensor]:
    """What T^2 g is multiplied with, float [rows], and whether every gradient is finite, bool [].

    rho_i^2 / sqrt(sum rho_j^2 ||T g||_j^2) for `ellipsoid` and rho_i / sqrt(sum ||T g||_j^2) for `linear`,
    over the rows of the ellipsoid. Zero where that sum is zero; zero everywhere if a gradient is not finite.
    """
    weighted = radii * norms if weighting == "ellipsoid" else norms
    gain = radii.square() if weighting == "ellipsoid" else radii
    if layout.num_ellipsoids == 1:
        length = torch.linalg.vector_norm(weighted).expand(1)
    else:  # on an accelerator the order of the sums varies, unless torch.use_deterministic_algorithms is on
        length = weighted.new_zeros(layout.num_ellipsoids)
        length = length.index_add_(0, layout.ellipsoids, weighted.square()).sqrt_()
    finite = torch.linalg.vector_norm(norms).isfinite()
    smallest = torch.finfo(length.dtype).tiny  # below it the reciprocal is not finite
    inverse = torch.where((length >= smallest) & finite, length.reciprocal(), 0.0)
    return gain * (inverse if layout.num_ellipsoids == 1 else inverse[layout.ellipsoids]), finite


def apply_coefficients(
    scaled: list[Tensor], coefficients: Tensor, finite: Tensor, weights: Sequence[Tensor], layout: RowLayout
) -> list[Tensor]:
    """The offsets: each row of T^2 g times its coefficient. Overwrites `scaled`, gradients excepted."""
    on_cpu = finite.device.type == "cpu"
    if on_cpu and not finite:
        return [torch.zeros_like(weight) for weight in weights]
    split = layout.split(coefficients)
    factors = [part.view(rows.factor_shape) for part, rows in zip(split, layout.tensors, strict=True)]
    borrowed = [i for i, weight in enumerate(weights) if scaled[i] is weight.grad]
    own = [i for i, weight in enumerate(weights) if scaled[i] is not weight.grad]
    offsets = dict(zip(borrowed, _products([scaled[i] for i in borrowed], [factors[i] for i in borrowed]), strict=True))
    if own:
        torch._foreach_mul_([scaled[i] for i in own], [factors[i] for i in own])
    offsets |= {i: scaled[i] for i in own}
    if not on_cpu:  # asking whether all is finite would make the host wait; inf * 0 is NaN
        for offset in offsets.values():
            offset.nan_to_num_(0.0, 0.0, 0.0)
    return [_as_type(offsets[i], weight.dtype) for i, weight in enumerate(weights)]


def _products(tensors: list[Tensor], factors: list[Tensor]) -> Sequence[Tensor]:
    return torch._foreach_mul(tensors, factors) if tensors else ()


def _gradient(weight: Tensor) -> Tensor:
    assert weight.grad is not None
    return weight.grad


def _wide(tensor: Tensor) -> Tensor:
    """In float32 or wider, where squares neither overflow nor vanish."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _as_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _row_norms(tensor: Tensor, rows: TensorRows) -> Tensor:
    return torch.linalg.vector_norm(tensor, dim=rows.inner_dims) if rows.inner_dims else tensor.abs().reshape(-1)
