"""Strength of a perturbation: radii as they are given, or all of them times one factor that keeps a budget of loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from adasap.checks import MOST_STEPS, finite_number, require_declared, whole_number
from adasap.errors import ArgumentError


@dataclass(frozen=True)
class LossBudget:
    """By how much the perturbation may raise the loss; in a recipe `loss_budget: 0.1` or `{sigma: 0.1, when: start}`.

    All radii are multiplied by c = min(sigma / L, max_factor) with L = <g, eps>, the rise of the linearised loss for
    the radii as they are given. The differences between channels stay those of the radius rule.

    Attributes:
        sigma: The rise, in the unit of the loss (nats for cross-entropy), above 0. Usual: 0.01 to 0.3.
        when: A factor for each `step`, from its own gradient (after LE-SAM, arXiv:2605.10183), or one from the `start`
            of the phase: sigma over the mean of L over the first batches. It stays through the cuts.
        max_factor: The largest c; 1 makes the radii that are given the largest ones.
        batches: With `start`: sharpness-aware steps over which L is averaged; each of them has its own factor.
        follow_size: With `start`: also multiply by sqrt(N / N_start), N the number of weights that are perturbed, now
            and at the start. In the elementwise geometry this keeps the relative change of a weight.

    Raises:
        ArgumentError: If a value is out of range.
    """

    sigma: float
    when: Literal["step", "start"] = "step"
    max_factor: float = 1.0
    batches: int = 20
    follow_size: bool = False

    def __post_init__(self) -> None:
        require_declared(self, ArgumentError, place="loss_budget.")
        for name in ("sigma", "max_factor"):
            finite_number(getattr(self, name), f"loss_budget.{name}", above=0, most=1e6)
        whole_number(self.batches, "loss_budget.batches", least=1, most=MOST_STEPS)
        if self.follow_size and self.when != "start":
            raise ArgumentError(
                "loss_budget.follow_size is for a factor of the start; give when: start, or leave it out"
            )


class Strength:
    """The factor of all radii, step by step, and the rise that the last offsets promised.

    It outlives the perturbation: after a cut give the old one's to the new one, and keep `state` in checkpoints, so
    that a factor of the start stays.

    Args:
        budget: The budget of loss; None takes the radii as they are given.
    Attributes:
        loss_scale: What the loss is multiplied with before `backward`; the rise is divided by it.
        numel: Number of weights that were perturbed when measuring began.
    Example:
        >>> import torch
        >>> from adasap.sharpness import PerturbationOptions, UniformPerturbation
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> layer.weight.grad = torch.tensor([[3.0, 4.0]])
        >>> options = PerturbationOptions(geometry="euclidean", loss_budget=0.1)  # 0.5 * ||g|| would be 2.5
        >>> perturbation = UniformPerturbation(0.5, options)
        >>> perturbation.epsilon(layer)
        {'weight': tensor([[0.0120, 0.0160]])}
    """

    def __init__(self, budget: LossBudget | None = None) -> None:
        self.budget = budget
        self.loss_scale = 1.0
        self.numel = 0
        self._total, self._count = 0.0, 0
        self._last_numel = 0
        self._rise: Tensor | None = None
        self._factor: Tensor | float = 1.0

    @property
    def is_measuring(self) -> bool:
        """Whether rises are still averaged for a factor of the start."""
        return self.budget is not None and self.budget.when == "start" and self._count < self.budget.batches

    def factor(self, rise: Tensor, numel: int) -> Tensor | float | None:
        """What the offsets are to be multiplied with, without waiting for the device; None without a budget.

        Args:
            rise: <g, eps> for the radii as they are given, times the loss scale, []. 0 where the gradient is zero, NaN
                where it is not finite.
            numel: Number of weights that are perturbed.
        """
        self._rise = rise = rise if self.loss_scale == 1 else rise / self.loss_scale
        self._last_numel, self._factor = numel, 1.0
        if self.budget is None:
            return None
        if self.budget.when == "start" and not self.is_measuring:
            self._factor = self._fixed(self.budget, numel)
        else:  # without a rise the offsets are zero whatever the factor; 0 * NaN would not be
            self._factor = (self.budget.sigma / rise).clamp(max=self.budget.max_factor).nan_to_num(0.0)
        return self._factor

    def nothing(self) -> None:
        """No weight takes part in this step, so that there is no rise."""
        self._rise = None

    def _fixed(self, budget: LossBudget, numel: int) -> float:
        mean = self._total / self._count
        factor = min(budget.sigma / mean, budget.max_factor) if mean else budget.max_factor
        return factor * math.sqrt(numel / self.numel) if budget.follow_size and self.numel else factor

    def seen(self) -> tuple[Tensor | float, Tensor | float] | None:
        """Of the last offsets: <g, eps> for the radii as they are given, and the factor; on the device."""
        return None if self._rise is None else (self._rise, self._factor)

    def add(self, rise: float) -> None:
        """Takes the rise of a step into the average; one that is not finite is left out."""
        if self.is_measuring and math.isfinite(rise):
            if not self._count:
                self.numel = self._last_numel
            self._total, self._count = self._total + rise, self._count + 1

    def state(self) -> dict[str, float]:
        """What a resumed run needs to go on with the same factor; ready for JSON."""
        return {"total": self._total, "count": self._count, "numel": self.numel}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave."""
        self._total, self._count, self.numel = float(state["total"]), int(state["count"]), int(state["numel"])
