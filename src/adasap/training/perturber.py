"""Which perturbation a training step gets, and when its radii are refreshed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

from adasap.criteria import build_criterion
from adasap.errors import RecipeError
from adasap.groups import ChannelGroup
from adasap.sharpness import (
    AdaptivePerturbation,
    Perturbation,
    PerturbationOptions,
    UniformPerturbation,
    adaptive_radius,
)


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
        refresh: Steps between refreshed radii.
        perturbation: Geometry, scope, weighting, rescale, norms.
    """

    kind: Literal["adaptive", "uniform", "plain"] = "adaptive"
    rho: float = 0.5
    rho_min: float = 0.01
    rho_max: float = 2.0
    radius_score: str = "l2"
    extremes: Literal["group", "model"] = "group"
    refresh: int = 1
    perturbation: PerturbationOptions = field(default_factory=PerturbationOptions)

    def __post_init__(self) -> None:
        if not 0 <= self.rho_min <= self.rho_max:
            raise RecipeError(f"rho_min {self.rho_min} and rho_max {self.rho_max}: wanted 0 <= rho_min <= rho_max")
        if self.rho < 0 or self.refresh < 1:
            raise RecipeError(f"rho is {self.rho} and refresh {self.refresh}: wanted rho >= 0 and refresh >= 1")
        needs = build_criterion(self.radius_score).needs if self.kind == "adaptive" else ()
        if needs:
            raise RecipeError(f"radius_score {self.radius_score!r} needs {min(needs)}; use l2, l1 or norm_scale")

    @property
    def passes(self) -> int:
        """Forward-backward passes of a step, the cost in plain-step units."""
        return 1 if self.kind == "plain" or (self.kind == "uniform" and self.rho == 0) else 2


class Perturber:
    """Gives each step its perturbation; radii follow the weights every `refresh` steps and after every cut."""

    def __init__(self, options: SharpnessOptions) -> None:
        self.options = options
        self._score = build_criterion(options.radius_score)
        self._groups: Sequence[ChannelGroup] | None = None
        self._perturbation: Perturbation | None = None

    def at(self, step: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> Perturbation | None:
        """The perturbation of a step, None for a plain one. `model` is the plain module, without wrappers."""
        if self.options.kind == "plain":
            return None
        if groups is not self._groups:
            self._groups, self._perturbation = groups, self._build(model, groups)
        elif isinstance(self._perturbation, AdaptivePerturbation) and step % self.options.refresh == 0:
            self._perturbation.update(self._radii(model, groups))
        return self._perturbation

    def _build(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> Perturbation:
        options = self.options
        if options.kind == "uniform":
            return UniformPerturbation(options.rho, options.perturbation, groups=groups)
        midpoint = (options.rho_min + options.rho_max) / 2
        return AdaptivePerturbation(groups, self._radii(model, groups), options.perturbation, midpoint=midpoint)

    def _radii(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        scored = [group for group in groups if not group.is_output]
        scores = self._score.score(model, scored, None)
        options = self.options
        return adaptive_radius(scores, rho_min=options.rho_min, rho_max=options.rho_max, extremes=options.extremes)
