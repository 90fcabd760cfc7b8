"""Optimal brain damage with the Hessian's own diagonal, estimated by random probes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from adasap.checks import require_declared
from adasap.convolutions import guard_convolutions
from adasap.criteria.channels import channel_sums, over_axis
from adasap.criteria.evidence import collected
from adasap.criteria.protocol import Loss, Need
from adasap.errors import RecipeError
from adasap.groups.bare import unwrap
from adasap.groups.exported import evaluating
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class Hutchinson:
    """s_i = max(0, 1/2 * sum of H_kk * w_k^2) over the producer rows of channel i    (LeCun, Denker, Solla 1989)

    H_kk is estimated as the mean of z_k * (H z)_k over random signs z (Bekas, Kokiopoulou, Saad 2007), H z by
    differentiating twice, in float32 and evaluation mode. The estimate is unbiased but noisy: signs are drawn
    for the producers' weights alone, and errors cancel in the sum over a channel. A channel whose sum is
    negative gives the loss no reason of second order to keep it. Parameters without gradient count 0.

    Attributes:
        num_batches: Batches over which the loss is averaged.
        num_probes: Draws of z for each batch.
        seed: Of the draws: the same at every event.
    Raises:
        RecipeError: Unless there is at least one probe.
    """

    num_batches: int = 2
    num_probes: int = 4
    seed: int = 0
    needs: frozenset[Need] = frozenset({"batches"})

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        if self.num_probes < 1:
            raise RecipeError(f"num_probes is {self.num_probes}; give 1 or more, such as 4")

    def gather(
        self, model: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[Any], loss: Loss
    ) -> dict[str, Tensor]:
        """Group name -> 1/2 * sum of H_kk * w_k^2, float [C], of either sign.

        Raises:
            RuntimeError: If an operator of the model cannot be differentiated twice.
        """
        guard_convolutions()
        model = unwrap(model)
        wanted = {slot.name for group in groups for slot in group.with_role("producer")}
        weights: dict[str, Tensor] = {
            name: p for name, p in model.named_parameters() if name in wanted and p.requires_grad
        }
        generator = torch.Generator().manual_seed(self.seed)
        sums = {name: torch.zeros_like(w, dtype=_wide(w)) for name, w in weights.items()}
        count = 0
        # attention by its formula: the fused kernels have no second derivative
        with evaluating(model), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for batch in batches:
                gradients = _gradients(loss(model, batch), weights)
                for _ in range(self.num_probes):
                    for name, estimate in _probe(gradients, weights, generator).items():
                        sums[name] += estimate
                    count += 1
        return _half_squares(groups, weights, {name: total / max(count, 1) for name, total in sums.items()})

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """The evidence, 0 where it is negative. Raises ArgumentError when there is none."""
        return {name: value.clamp_min(0) for name, value in collected(evidence, groups, self).items()}


def _gradients(loss: Tensor, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradients that can be differentiated once more, with their graph."""
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=True, allow_unused=True)
    pairs = zip(weights, found, strict=True)
    return {name: gradient for name, gradient in pairs if gradient is not None and gradient.requires_grad}


def _probe(gradients: dict[str, Tensor], weights: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """One estimate z * (H z) of the diagonal, by parameter."""
    if not gradients:
        return {}
    signs = {
        name: (torch.randint(0, 2, weights[name].shape, generator=generator) * 2 - 1).to(weights[name])
        for name in gradients
    }
    products = torch.autograd.grad(
        list(gradients.values()),
        [weights[name] for name in gradients],
        grad_outputs=list(signs.values()),
        retain_graph=True,
        allow_unused=True,
    )
    pairs = zip(signs.items(), products, strict=True)
    return {name: (z * product).detach() for (name, z), product in pairs if product is not None}


@torch.no_grad()
def _half_squares(
    groups: Sequence[ChannelGroup], weights: dict[str, Tensor], diagonal: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Group name -> 1/2 * sum of H_kk * w_k^2 over the producer rows."""

    def along(name: str, dim: int) -> Tensor:
        return over_axis(torch.sum, diagonal[name] * weights[name].to(diagonal[name]).square(), dim)

    sums = channel_sums(groups, ("producer",), weights, along)
    sums.flat.mul_(0.5)
    return sums.by_group()


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
