"""The shape of a perturbation and the form of a step, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from adasap.errors import RecipeError

Geometry = Literal["euclidean", "elementwise"]
Scope = Literal["model", "group", "channel"]
Weighting = Literal["ellipsoid", "linear"]
Norms = Literal["channel", "midpoint", "none"]
Direction = Literal["gradient", "stale", "removal"]
Removal = Literal["attenuate", "drop"]


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
        norm_only: Only the scales and shifts of norm layers are moved, so the first pass makes no other gradients:
            about 2/3 of a pass. A scale is its channel's gate: flatness along it is flatness along the removal.

    Raises:
        ValueError: If a value is not one of those, or norms take no part and are to be all that is moved.
    """

    geometry: Geometry = "elementwise"
    scope: Scope = "model"
    weighting: Weighting = "ellipsoid"
    rescale: bool = True
    norms: Norms = "channel"
    eta: float = 0.01
    norm_only: bool = False

    def __post_init__(self) -> None:
        choices = {"geometry": Geometry, "scope": Scope, "weighting": Weighting, "norms": Norms}
        for field, literal in choices.items():
            if getattr(self, field) not in get_args(literal):
                raise ValueError(f"{field} must be one of {get_args(literal)}, got {getattr(self, field)!r}")
        if not 0 <= self.eta < float("inf"):
            raise ValueError(f"eta must be finite and >= 0, got {self.eta}")
        if self.norm_only and self.norms == "none":
            raise ValueError("norm_only moves norms alone, and norms is 'none'; give norms: channel or midpoint")


@dataclass(frozen=True)
class StepForm:
    """How a sharpness-aware step is made cheaper: where its direction comes from, and how often it is taken.

    Which parameters it moves is said by `PerturbationOptions.norm_only`. The default is the exact form.

    Attributes:
        direction: `gradient`: of a first pass over the batch. `stale`: the gradient that the step before ended with
            (S2-SAM); no pass of its own. `removal`: no gradient; channels are attenuated or dropped where they are
            read, the more the wider their radius.
        subbatch: Of `gradient`: the share of each process's batch that the first pass sees, from its start.
        every: Of `gradient`: steps from one sharpness-aware step to the next; those between are plain.
        window: The last share of the phase's steps that is sharpness-aware; those before are plain.
        removal: Of `removal`: `attenuate` multiplies what a channel gives by 1 - share * rho_i / rho_max; `drop`
            removes it with the probability share * rho_i / rho_max, drawn anew at each step.
        share: Of `removal`: what a channel of the widest radius loses, in (0, 1].

    Raises:
        RecipeError: If a value is out of range, or options exclude each other.
    """

    direction: Direction = "gradient"
    subbatch: float = 1.0
    every: int = 1
    window: float = 1.0
    removal: Removal = "attenuate"
    share: float = 0.5

    def __post_init__(self) -> None:
        for field, literal in {"direction": Direction, "removal": Removal}.items():
            if getattr(self, field) not in get_args(literal):
                raise RecipeError(f"form.{field} is {getattr(self, field)!r}; give one of {get_args(literal)}")
        for field in ("subbatch", "window", "share"):
            if not 0 < getattr(self, field) <= 1:
                raise RecipeError(f"form.{field} is {getattr(self, field)}; give a share above 0 and at most 1")
        if self.every < 1:
            raise RecipeError(f"form.every is {self.every}; give 1 or more steps")
        if self.direction != "gradient" and (self.subbatch < 1 or self.every > 1):
            raise RecipeError(
                f"form.direction {self.direction!r} makes no first pass, so subbatch and every would save nothing; "
                "leave them out, or give direction: gradient"
            )

    @property
    def own_pass(self) -> bool:
        """Whether a first pass over the whole batch is made, whose norm statistics are those of the step."""
        return self.direction == "gradient" and self.subbatch == 1

    def is_due(self, step: int, steps: range) -> bool:
        """Whether a step of the run is sharpness-aware; `steps` are those of its phase, counted over the run.

        Example:
            >>> form = StepForm(every=2, window=0.5)
            >>> [step for step in range(10, 20) if form.is_due(step, range(10, 20))]
            [16, 18]
        """
        return step % self.every == 0 and step >= steps.stop - round(self.window * len(steps))

    def passes(self, *, norm_only: bool = False) -> float:
        """Cost of a sharpness-aware step in plain steps, at the least: its own work comes on top.

        Example:
            >>> StepForm().passes(), StepForm(subbatch=0.25).passes(), StepForm(direction="stale").passes()
            (2, 1.25, 1)
        """
        if self.direction != "gradient":
            return 1
        if self.own_pass and not norm_only:
            return 2
        return 1 + self.subbatch * (2 / 3 if norm_only else 1)
