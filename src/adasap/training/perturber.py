"""Which perturbation a training step gets, and when its radii are refreshed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from adasap.criteria import build_criterion
from adasap.errors import RecipeError
from adasap.groups import ChannelGroup, prunable
from adasap.sharpness import (
    AdaptivePerturbation,
    Perturbation,
    PerturbationOptions,
    PrunedPoint,
    RemovalPerturbation,
    StalePerturbation,
    StepForm,
    UniformPerturbation,
    adaptive_radius,
    even_radii,
)
from adasap.training.seed import derived_seed


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
        pruned: Fractions of channels, one of which is drawn for each step: so many of every group's, those of the least
            `radius_score`, are gone at the perturbed point (`PrunedPoint`, after CrAM). Empty for none.
        refresh: Sharpness-aware steps between refreshed radii.
        perturbation: Geometry, scope, weighting, rescale, norms, norm_only.
        form: Where the direction comes from and how often: what makes a step cheaper.
    """

    kind: Literal["adaptive", "uniform", "plain"] = "adaptive"
    rho: float = 0.5
    rho_min: float = 0.01
    rho_max: float = 2.0
    radius_score: str = "l2"
    extremes: Literal["group", "model"] = "group"
    arrangement: Literal["ranked", "shuffled", "even"] = "ranked"
    pruned: tuple[float, ...] = ()
    refresh: int = 1
    perturbation: PerturbationOptions = field(default_factory=PerturbationOptions)
    form: StepForm = field(default_factory=StepForm)

    def __post_init__(self) -> None:
        if not 0 <= self.rho_min <= self.rho_max:
            raise RecipeError(f"rho_min {self.rho_min} and rho_max {self.rho_max}: wanted 0 <= rho_min <= rho_max")
        if self.rho < 0 or self.refresh < 1:
            raise RecipeError(f"rho is {self.rho} and refresh {self.refresh}: wanted rho >= 0 and refresh >= 1")
        if any(not 0 < fraction < 1 for fraction in self.pruned):
            raise RecipeError(f"pruned is {list(self.pruned)}; give fractions of channels between 0 and 1, such as 0.5")
        if self.pruned and self.kind == "plain":
            raise RecipeError("pruned needs a second pass, which kind `plain` has not; give kind uniform, with rho 0")
        needs = build_criterion(self.radius_score).needs if self.kind == "adaptive" or self.pruned else ()
        if needs:
            raise RecipeError(f"radius_score {self.radius_score!r} needs {min(needs)}; use l2, l1 or norm_scale")
        if self.kind == "plain" and (self.form != StepForm() or self.perturbation.norm_only):
            raise RecipeError("kind plain has no perturbation that could be cheaper; leave out form and norm_only")
        if self.pruned and self.form.direction != "gradient":
            raise RecipeError("pruned needs the gradient at w first; leave out form.direction, or pruned")
        if self.form.direction == "removal" and (self.kind != "adaptive" or self.perturbation.norm_only):
            raise RecipeError(
                "form.direction removal takes each channel's radius and the slices that read it; give kind: adaptive "
                "and leave out norm_only"
            )

    @property
    def passes(self) -> float:
        """Forward-backward passes of a sharpness-aware step, the cost in plain-step units: 2 for the exact form."""
        if self.kind == "plain" or (self.kind == "uniform" and self.rho == 0 and not self.pruned):
            return 1
        return self.form.passes(norm_only=self.perturbation.norm_only)

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
        return self.kind == "plain" or self.form.own_pass


_Radial = UniformPerturbation | AdaptivePerturbation | RemovalPerturbation


class Perturber:
    """Gives each step its perturbation; radii follow the weights every `refresh` steps and after every cut.

    What is random in it is a function of the seed, the step and the groups, so that a resumed run draws the same.

    Args:
        options: Of the phase.
        steps: The steps of the run that the phase has, for a form with a window.
        directions: The gradients of the last step, for a form that is stale; of the run's state.
        seed: Of shuffled radii and of the fractions that `pruned` draws.
    """

    def __init__(
        self,
        options: SharpnessOptions,
        steps: range = range(0),
        directions: dict[str, Tensor] | None = None,
        *,
        seed: int = 0,
    ) -> None:
        self.options, self.steps, self.seed = options, steps, seed
        self.directions: dict[str, Tensor] = {} if directions is None else directions
        self._score = build_criterion(options.radius_score)
        self._groups: Sequence[ChannelGroup] | None = None
        self._radial: _Radial
        self._perturbation: Perturbation
        self._order: dict[str, Tensor] = {}

    def at(self, step: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> Perturbation | None:
        """The perturbation of a step, None for a plain one. `model` is the plain module, without wrappers."""
        form = self.options.form
        if self.options.kind == "plain" or not form.is_due(step, self.steps):
            return None
        if groups is not self._groups:
            self._groups, self._order = groups, self._orders(groups)
            self._radial = self._build(model, groups)
            stale = form.direction == "stale"
            self._perturbation = StalePerturbation(self._radial, self.directions) if stale else self._radial
        elif not isinstance(self._radial, UniformPerturbation) and step // form.every % self.options.refresh == 0:
            self._radial.update(self._radii(model, groups))
        if not self.options.pruned:
            return self._perturbation
        return PrunedPoint(self._perturbation, groups, self._kept(step, model, groups))

    def _build(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> _Radial:
        options, form = self.options, self.options.form
        if options.kind == "uniform":
            return UniformPerturbation(options.rho, options.perturbation, groups=groups)
        radii = self._radii(model, groups)
        if form.direction == "removal":
            return RemovalPerturbation(groups, radii, rho_max=options.rho_max, removal=form.removal, share=form.share)
        midpoint = (options.rho_min + options.rho_max) / 2
        return AdaptivePerturbation(groups, radii, options.perturbation, midpoint=midpoint)

    def _radii(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        scored = [group for group in groups if not group.is_output]
        scores = self._score.score(model, scored, None)
        options = self.options
        radii = adaptive_radius(scores, rho_min=options.rho_min, rho_max=options.rho_max, extremes=options.extremes)
        if options.arrangement == "even":
            return even_radii(radii)
        if options.arrangement == "shuffled":
            return {name: radius[self._order[name].to(radius.device)] for name, radius in radii.items()}
        return radii

    def _orders(self, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """A permutation of each group's channels, int64 [C]; needed by shuffled radii alone."""
        if self.options.arrangement != "shuffled":
            return {}
        widths = {group.name: group.num_channels for group in groups}
        return {name: torch.randperm(width, generator=self._draws(name, width)) for name, width in widths.items()}

    def _kept(self, step: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """The channels that are there at the perturbed point: without the drawn fraction of the least ones."""
        fractions = self.options.pruned
        drawn = torch.randint(len(fractions), (1,), generator=self._draws("pruned", step))
        scores = self._score.score(model, prunable(groups), None)
        return {
            name: score.argsort(descending=True)[: len(score) - int(fractions[int(drawn)] * len(score))].sort().values
            for name, score in scores.items()
        }

    def _draws(self, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, "perturber", purpose, number))
