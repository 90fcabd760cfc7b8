"""The sharpness-aware part of a phase, as a recipe gives it: radii, form, and variants of the perturbation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

from adasap.checks import MOST_STEPS, require_declared, require_within
from adasap.criteria import build_criterion
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup
from adasap.registry import Registry, build, options_of
from adasap.sharpness.options import PerturbationOptions, StepForm
from adasap.sharpness.perturbation import Perturbation


@dataclass(frozen=True, eq=False)
class Moment:
    """A step that is about to be made, as a variant sees it.

    Attributes:
        step: Steps that were made.
        model: The plain module.
        groups: Its groups as they are now.
        sharpness: The options of the phase.
        directions: Parameter name -> what a variant remembers of the last step; kept in checkpoints, cut with the
            parameters, and emptied where no variant `remembers`.
        draws: `draws(purpose, number)` gives a generator of the run's seed, the same in a resumed run.
    """

    step: int
    model: nn.Module
    groups: Sequence[ChannelGroup]
    sharpness: SharpnessOptions
    directions: dict[str, Tensor]
    draws: Callable[[str, int], torch.Generator]


class Variant(Protocol):
    """Varies the perturbation of each step. A frozen dataclass, whose fields are its options in a recipe.

    Attributes:
        first_pass: What a first pass over the whole batch costs in plain passes; 0 if none is made.
        partial: Whether the first pass makes gradients of some parameters alone.
        moves_without_radius: Whether it moves weights though the radius is 0.
        remembers: Whether it keeps gradients from step to step.
    """

    first_pass: ClassVar[float] = 1
    partial: ClassVar[bool] = False
    moves_without_radius: ClassVar[bool] = False
    remembers: ClassVar[bool] = False

    def check(self, sharpness: SharpnessOptions) -> None:
        """Raises RecipeError for options of the phase that it does not go with."""

    def validate(self, model: nn.Module) -> None:
        """Raises RecipeError, before the first step, for a model that it cannot vary the steps of."""

    @abstractmethod
    def perturbation(self, inner: Perturbation, moment: Moment) -> Perturbation:
        """The perturbation of a step, from that of the recipe's radii or of the variant before it."""


VARIANTS: Registry[type[Variant]] = Registry(
    "variant of the sharpness-aware step", at="adasap.sharpness.VARIANTS", filled_by="adasap.extras"
)
"""Known under `variants:` of a recipe's `sharpness:`."""


@dataclass(frozen=True)
class SharpnessOptions:
    """The sharpness-aware part of a phase.

    Attributes:
        kind: `adaptive` (a radius per channel), `uniform` (one radius: SAM or ASAM), or `plain` (no perturbation).
        rho: The radius of `uniform`.
        rho_min: Radius of the most important channel.
        rho_max: Radius of the least important one.
        radius_score: The criterion psi that radii are made from; it may need nothing but the weights.
        extremes: Over which channels the scores' extremes are taken.
        arrangement: Which channel gets which of the radii: the least important the largest (`ranked`); in an order that
            is random within each group and stays until the group is cut (`shuffled`); or each their root mean
            square over the model (`even`). The last two tell what the ranking is worth.
        refresh: Sharpness-aware steps between refreshed radii.
        perturbation: Geometry, scope, weighting, rescale, norms, eta.
        form: How often, and how much of the batch the first pass sees: what makes a step cheaper.
        variants: Name -> options of what varies the perturbation, the first innermost: `stale`, `removal`, `pruned`,
            `norm_only`, `gsam` or a registered one of your own. See docs/extras.md.

    Raises:
        RecipeError: If a value is out of range, or options exclude each other.
    """

    kind: Literal["adaptive", "uniform", "plain"] = "adaptive"
    rho: float = 0.5
    rho_min: float = 0.01
    rho_max: float = 2.0
    radius_score: str = "l2"
    extremes: Literal["group", "model"] = "group"
    arrangement: Literal["ranked", "shuffled", "even"] = "ranked"
    refresh: int = 1
    perturbation: PerturbationOptions = field(default_factory=PerturbationOptions)
    form: StepForm = field(default_factory=StepForm)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        if not 0 <= self.rho_min <= self.rho_max:
            raise RecipeError(f"rho_min {self.rho_min} and rho_max {self.rho_max}: wanted 0 <= rho_min <= rho_max")
        require_within(RecipeError, 0, 1e6, rho=self.rho, rho_min=self.rho_min, rho_max=self.rho_max)
        require_within(RecipeError, 1, MOST_STEPS, refresh=self.refresh)
        if self.kind == "adaptive" and (needs := build_criterion(self.radius_score).needs):
            raise RecipeError(f"radius_score {self.radius_score!r} needs {min(needs)}; use l2, l1 or norm_scale")
        if self.kind == "plain" and (self.form != StepForm() or self.variants):
            raise RecipeError(
                "kind plain has no perturbation that could be cheaper or varied; leave out form and variants"
            )
        if not isinstance(self.variants, dict):
            raise RecipeError(f"variants is {self.variants}; give name and options of each, such as {{stale: {{}}}}")
        object.__setattr__(self, "variants", dict(zip(self.variants, map(options_of, self.varied), strict=True)))
        for variant in self.varied:
            variant.check(self)
        if not self.first_pass and (self.form.subbatch < 1 or self.form.every > 1):
            raise RecipeError(
                f"variants {', '.join(self.variants)}: no first pass is made, so form.subbatch and form.every would "
                "save nothing; leave them out"
            )

    @cached_property
    def varied(self) -> tuple[Variant, ...]:
        """The variants, in order."""
        return tuple(
            build(VARIANTS.get(name), given, place=f"variants.{name}.") for name, given in self.variants.items()
        )

    @property
    def first_pass(self) -> float:
        """What a first pass over the whole batch costs in plain passes; 0 if none is made."""
        return min((variant.first_pass for variant in self.varied), default=1)

    @property
    def partial_gradients(self) -> bool:
        """Whether the first pass makes gradients of some parameters alone."""
        return self.first_pass > 0 and any(variant.partial for variant in self.varied)

    @property
    def passes(self) -> float:
        """Forward-backward passes of a sharpness-aware step, the cost in plain-step units: 2 for the exact form.

        Example:
            >>> SharpnessOptions().passes, SharpnessOptions(form=StepForm(subbatch=0.25)).passes
            (2, 1.25)
        """
        still = self.kind == "uniform" and self.rho == 0 and not any(v.moves_without_radius for v in self.varied)
        if self.kind == "plain" or still:
            return 1
        return 1 + (self.first_pass if self.form.subbatch == 1 else self.form.subbatch * self.first_pass)

    def plain_steps(self, steps: range) -> float:
        """Cost in plain steps of these steps of the run, all those of the phase."""
        due = sum(self.form.is_due(step, steps) for step in steps)
        return len(steps) - due + due * self.passes

    @property
    def interval(self) -> int:
        """Steps at whose multiples a run can be taken up again: radii are refreshed there."""
        return 1 if self.refresh == 1 else self.refresh * self.form.every

    @property
    def clean_statistics(self) -> bool:
        """Whether norm statistics are those of passes over whole batches at w."""
        return self.kind == "plain" or (self.first_pass > 0 and self.form.subbatch == 1)
