"""Which perturbation a training step gets, and when its radii are refreshed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adasap.criteria import build_criterion
from adasap.groups import ChannelGroup
from adasap.sharpness import (
    AdaptivePerturbation,
    Moment,
    Perturbation,
    SharpnessOptions,
    Strength,
    UniformPerturbation,
    adaptive_radius,
    even_radii,
)
from adasap.training.seed import derived_seed


class Perturber:
    """Gives each step its perturbation; radii follow the weights every `refresh` steps and after every cut.

    What is random in it is a function of the seed, the step and the groups, so that a resumed run draws the same.

    Args:
        options: Of the phase.
        steps: The steps of the run that the phase has, for a form with a window.
        directions: The gradients of the last step, for variants that remember them; of the run's state.
        seed: Of shuffled radii and of what variants draw.
        strength: What a `loss_budget` of the start has measured so far; of the run's state.
    """

    def __init__(
        self,
        options: SharpnessOptions,
        steps: range = range(0),
        directions: dict[str, Tensor] | None = None,
        *,
        seed: int = 0,
        strength: Strength | None = None,
    ) -> None:
        self.options, self.steps, self.seed = options, steps, seed
        self.directions: dict[str, Tensor] = {} if directions is None else directions
        self._strength = Strength(options.perturbation.budget) if strength is None else strength
        self._score = build_criterion(options.radius_score)
        self._groups: Sequence[ChannelGroup] | None = None
        self._radial: UniformPerturbation | AdaptivePerturbation
        self._order: dict[str, Tensor] = {}

    def at(self, step: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> Perturbation | None:
        """The perturbation of a step, None for a plain one. `model` is the plain module, without wrappers."""
        form = self.options.form
        if self.options.kind == "plain" or not form.is_due(step, self.steps):
            return None
        if groups is not self._groups:
            self._groups, self._order = groups, self._orders(groups)
            self._radial = self._build(model, groups)
        elif isinstance(self._radial, AdaptivePerturbation) and step // form.every % self.options.refresh == 0:
            self._radial.update(self._radii(model, groups))
        perturbation: Perturbation = self._radial
        moment = Moment(step, model, groups, self.options, self.directions, self._draws)
        for variant in self.options.varied:
            perturbation = variant.perturbation(perturbation, moment)
        return perturbation

    def _build(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> UniformPerturbation | AdaptivePerturbation:
        options = self.options
        if options.kind == "uniform":
            return UniformPerturbation(options.rho, options.perturbation, groups=groups, strength=self._strength)
        midpoint = (options.rho_min + options.rho_max) / 2
        radii, shape = self._radii(model, groups), options.perturbation
        return AdaptivePerturbation(groups, radii, shape, midpoint=midpoint, strength=self._strength)

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

    def _draws(self, purpose: str, number: int) -> torch.Generator:
        return torch.Generator().manual_seed(derived_seed(self.seed, "perturber", purpose, number))
