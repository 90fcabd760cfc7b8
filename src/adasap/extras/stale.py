"""The ascent direction of the step before: a sharpness-aware step of one pass    (S2-SAM)"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.sharpness.budget import Strength
from adasap.sharpness.layout import Kind
from adasap.sharpness.perturbation import Perturbation, SinglePassPerturbation
from adasap.sharpness.phase import Moment, Variant
from adasap.sharpness.swap import Offsets


@dataclass(frozen=True)
class Stale(Variant):
    """`stale: {}` of a recipe: the direction is the gradient that the step before ended with."""

    first_pass = 0
    remembers = True

    def perturbation(self, inner: Perturbation, moment: Moment) -> StalePerturbation:
        """That of the recipe's radii, by the gradient that the run remembers."""
        return StalePerturbation(inner, moment.directions)


class StalePerturbation(SinglePassPerturbation):
    """eps_t by another perturbation's formula from the gradient that step t-1 ended with, at w_{t-1} + eps_{t-1}
    (S2-SAM)

    Radii and geometry are those of the present weights. The first step, and one after a step whose gradient was not
    finite, is plain. Under data parallelism the gradient is the reduced one: all ranks are moved alike. A step needs
    memory for one copy of the weights, as the exact one: the gradient's keeps the weights while they are moved.

    Args:
        inner: Gives the offsets.
        directions: Parameter name -> gradient of the last step; filled and emptied here. The caller owns it: it belongs
            into checkpoints, and `apply_plan_(..., carried=[directions])` cuts it.
    Example:
        >>> from adasap.sharpness import PerturbationOptions, UniformPerturbation, sharpness_aware_gradients
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> def loss_and_backward():
        ...     loss = layer.weight.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> stale = StalePerturbation(UniformPerturbation(0.5, PerturbationOptions(geometry="euclidean")), {})
        >>> [sharpness_aware_gradients(layer, stale, loss_and_backward).loss for _ in range(2)]
        [1.0, 2.25]
    """

    def __init__(self, inner: Perturbation, directions: dict[str, Tensor]) -> None:
        self.inner, self.directions = inner, directions
        self._memory: dict[str, Tensor] = {}

    @property
    def is_zero(self) -> bool:
        """Whether there is no gradient of a step before, or all radii are zero."""
        return not self.directions or self.inner.is_zero

    def load_gradients_(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """The gradients of the last step; from here on they are used up, also if this step fails."""
        self._memory = dict(self.directions)
        self.directions.clear()
        for name, direction in self._memory.items():
            parameters[name].grad = direction

    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """Those of the inner perturbation."""
        strength, scale = self.strength, self._loss_scale
        if strength is not None:
            strength.loss_scale = 1.0  # the gradients of the last step are kept without theirs
        try:
            return self.inner.offsets(parameters, consume_gradients=consume_gradients)
        finally:
            if strength is not None:
                strength.loss_scale = scale

    @torch.no_grad()
    def end_step(self, parameters: Mapping[str, nn.Parameter], *, finite: bool) -> None:
        """Copies the gradients, before clipping or anything else changes them."""
        memory, self._memory = self._memory or dict(self.directions), {}
        self.directions.clear()
        if not finite:
            return
        moved = self.moves(parameters)
        for name, parameter in parameters.items():
            if parameter.grad is not None and (moved is None or name in moved):
                kept = memory.get(name)
                fits = kept is not None and kept.shape == parameter.shape
                self.directions[name] = kept if kept is not None and fits else torch.empty_like(parameter)
        if self.directions:
            gradients = [p.grad for name, p in parameters.items() if name in self.directions and p.grad is not None]
            torch._foreach_copy_(list(self.directions.values()), gradients)
            if self._loss_scale != 1:  # that of the next step may be another
                torch._foreach_div_(list(self.directions.values()), self._loss_scale)

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """As the inner perturbation."""
        return self.inner.moves(parameters)

    def shares(self) -> dict[Kind, float]:
        """As the inner perturbation."""
        return self.inner.shares()

    @property
    def strength(self) -> Strength | None:
        """As the inner perturbation; the rise is that along the gradient of the step before."""
        return self.inner.strength

    @property
    def _loss_scale(self) -> float:
        return 1.0 if self.strength is None else self.strength.loss_scale
