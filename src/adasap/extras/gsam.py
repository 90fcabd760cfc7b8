"""Surrogate gap guided sharpness-aware steps (Zhuang et al., ICLR 2022, arXiv:2203.08065)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.checks import finite_number
from adasap.errors import ArgumentError, RecipeError
from adasap.sharpness.budget import Strength
from adasap.sharpness.layout import Kind
from adasap.sharpness.perturbation import CombiningPerturbation, Perturbation, SinglePassPerturbation
from adasap.sharpness.phase import Moment, SharpnessOptions, Variant
from adasap.sharpness.swap import Offsets


@dataclass(frozen=True)
class GSAM(Variant):
    """`gsam: {alpha: 0.1}` of a recipe: the step also descends the gap L(w + eps) - L(w).

    Attributes:
        alpha: How strongly; 0 is the step without it, bit for bit. The paper takes 0.1 to 0.4 with SAM.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        finite_number(self.alpha, "variants.gsam.alpha", least=0, error=RecipeError)

    def check(self, sharpness: SharpnessOptions) -> None:
        """It needs both gradients, of all parameters and of the same images, and has the last word on them."""
        if not sharpness.first_pass or sharpness.partial_gradients or sharpness.form.subbatch < 1:
            raise RecipeError(
                "variants.gsam combines the gradients of two passes over the whole batch; leave out stale, removal, "
                "norm_only and form.subbatch"
            )
        if sharpness.varied[-1] is not self:
            raise RecipeError("variants.gsam combines the gradients that the other variants lead to; name it last")

    def perturbation(self, inner: Perturbation, moment: Moment) -> Perturbation:
        """The same way, with another gradient at its end."""
        return SurrogateGapPerturbation(inner, alpha=self.alpha) if self.alpha else inner


class SurrogateGapPerturbation(CombiningPerturbation):
    """Another perturbation, after which the gradient is g_p - alpha * (g - <g, g_p> / ||g_p||^2 * g_p)

    with g the gradient at w and g_p that at w + eps (arXiv:2203.08065, algorithm 1). The part of g that is orthogonal
    to g_p is climbed, which lowers the surrogate gap L(w + eps) - L(w) and leaves the descent of L(w + eps) as it is,
    to first order. The inner product runs over the whole model.

    Args:
        inner: Gives the offsets; its step has two passes.
        alpha: How strongly the gap is descended, >= 0.
    Raises:
        ArgumentError: If alpha is negative or not finite, or the inner perturbation makes no two passes.
    Example:
        >>> from adasap.sharpness import PerturbationOptions, UniformPerturbation, sharpness_aware_gradients
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> def loss_and_backward():
        ...     loss = (layer.weight * torch.tensor([[1.0, 0.0]])).square().sum() / 2
        ...     loss.backward()
        ...     return loss
        >>> sam = UniformPerturbation(0.5, PerturbationOptions(geometry="euclidean"))
        >>> _ = sharpness_aware_gradients(layer, SurrogateGapPerturbation(sam, alpha=0.1), loss_and_backward)
        >>> layer.weight.grad  # of one direction alone: nothing is orthogonal
        tensor([[3.5000, 0.0000]])
    """

    def __init__(self, inner: Perturbation, *, alpha: float) -> None:
        finite_number(alpha, "alpha", least=0)
        if isinstance(inner, SinglePassPerturbation | CombiningPerturbation):
            raise ArgumentError(f"{type(inner).__name__} leaves no two gradients to combine; give one with two passes")
        self.inner, self.alpha = inner, alpha

    @property
    def is_zero(self) -> bool:
        """As the inner perturbation: where nothing is moved both gradients are the same."""
        return self.inner.is_zero

    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """Those of the inner perturbation."""
        return self.inner.offsets(parameters, consume_gradients=consume_gradients)

    @torch.no_grad()
    def combine_(self, clean: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
        """(1 + alpha * c) * g_p - alpha * g with c = <g, g_p> / ||g_p||^2, 0 where g_p is zero."""
        perturbed = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        both = [name for name in perturbed if name in clean]
        if not both:
            return
        length = _product(list(perturbed.values()), list(perturbed.values()))
        along = _product([clean[name] for name in both], [perturbed[name] for name in both]) / length
        along = along.where(length != 0, 0.0)
        torch._foreach_mul_(list(perturbed.values()), 1 + self.alpha * along)
        torch._foreach_add_([perturbed[name] for name in both], [clean[name] for name in both], alpha=-self.alpha)

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """Those of the inner perturbation."""
        return self.inner.moves(parameters)

    def shares(self) -> dict[Kind, float]:
        """Those of the inner perturbation."""
        return self.inner.shares()

    @property
    def strength(self) -> Strength | None:
        """That of the inner perturbation."""
        return self.inner.strength


def _product(left: Sequence[Tensor], right: Sequence[Tensor]) -> Tensor:
    """<left, right> over all tensors, in float32 or wider, without waiting for the device."""
    wide = [torch.promote_types(tensor.dtype, torch.float32) for tensor in left]
    parts = [(a.to(t) * b.to(t)).sum() for a, b, t in zip(left, right, wide, strict=True)]
    return torch.stack(parts).sum()
