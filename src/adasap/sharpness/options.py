"""The shape of a perturbation and the form of a step, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from adasap.checks import MOST_STEPS, finite_number, require_declared, whole_number
from adasap.errors import ArgumentError, RecipeError
from adasap.sharpness.budget import LossBudget

Geometry = Literal["euclidean", "elementwise"]
Scope = Literal["model", "group", "channel"]
Weighting = Literal["ellipsoid", "linear"]
Norms = Literal["channel", "midpoint", "none"]


@dataclass(frozen=True)
class PerturbationOptions:
    """The shape of a perturbation.

    Attributes:
        geometry: `euclidean`, T = 1 (SAM), or `elementwise`, T = |w| + eta (ASAM). Shifts always have T = 1.
        scope: Which rows share a norm: all of the `model`, those of a `group`, or those of a `channel`.
        weighting: `ellipsoid`, the maximiser of `<g, eps>` under sum_i ||eps_i / T_i||^2 / rho_i^2 <= 1, or
            `linear`, a uniform step whose slices are scaled by rho_i.
        rescale: Divide the radii of the scopes `group` and `channel` by the square root of the number of
            ellipsoids.
        norms: Radius of norm scales, norm shifts and biases: that of their `channel`, the `midpoint`, or
            `none`: they take no part.
        eta: Floor of the elementwise geometry, >= 0.
        loss_budget: By how much the perturbation may raise the loss, a number or a `LossBudget`; the radii then say
            only how the channels differ. None takes the radii as they are.

    Raises:
        ArgumentError: If a value is not one of those.
    """

    geometry: Geometry = "elementwise"
    scope: Scope = "model"
    weighting: Weighting = "ellipsoid"
    rescale: bool = True
    norms: Norms = "channel"
    eta: float = 0.01
    loss_budget: LossBudget | float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.loss_budget, Mapping):
            raise ArgumentError(f"loss_budget is {self.loss_budget}; give a number or adasap.LossBudget(sigma=0.1)")
        require_declared(self, ArgumentError)
        finite_number(self.eta, "eta", least=0)
        if self.loss_budget is not None and not isinstance(self.loss_budget, LossBudget):
            object.__setattr__(self, "loss_budget", LossBudget(self.loss_budget))
        if self.budget is not None and self.budget.follow_size and self.geometry != "elementwise":
            raise ArgumentError(
                "loss_budget.follow_size keeps relative changes of weights; give geometry: elementwise, or leave it out"
            )

    @property
    def budget(self) -> LossBudget | None:
        """The budget of loss with all that belongs to it."""
        assert not isinstance(self.loss_budget, float | int)
        return self.loss_budget


@dataclass(frozen=True)
class StepForm:
    """How often a sharpness-aware step is taken, and how much of the batch its first pass sees; the default is exact.

    Attributes:
        subbatch: The share of each process's batch that the first pass sees, from its start.
        every: Steps from one sharpness-aware step to the next; those between are plain.
        window: The last share of the phase's steps that is sharpness-aware; those before are plain.

    Raises:
        RecipeError: If a value is out of range.
    """

    subbatch: float = 1.0
    every: int = 1
    window: float = 1.0

    def __post_init__(self) -> None:
        require_declared(self, RecipeError, place="form.")
        for name in ("subbatch", "window"):
            finite_number(getattr(self, name), f"form.{name}", above=0, most=1, error=RecipeError)
        whole_number(self.every, "form.every", least=1, most=MOST_STEPS, error=RecipeError)

    def is_due(self, step: int, steps: range) -> bool:
        """Whether a step of the run is sharpness-aware; `steps` are those of its phase, counted over the run.

        Example:
            >>> form = StepForm(every=2, window=0.5)
            >>> [step for step in range(10, 20) if form.is_due(step, range(10, 20))]
            [16, 18]
        """
        return step % self.every == 0 and step >= steps.stop - round(self.window * len(steps))
