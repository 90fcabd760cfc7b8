"""The gradient of a model that has already lost channels: the perturbed point, pruned."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.checks import require_declared
from adasap.criteria import build_criterion
from adasap.errors import RecipeError
from adasap.groups.cutting import removed_channels
from adasap.groups.group import ChannelGroup, prunable
from adasap.sharpness.budget import Strength
from adasap.sharpness.layout import Kind
from adasap.sharpness.perturbation import Perturbation
from adasap.sharpness.phase import Moment, SharpnessOptions, Variant
from adasap.sharpness.swap import Offsets


@dataclass(frozen=True)
class Pruned(Variant):
    """`pruned: {fractions: [0.25, 0.5]}` of a recipe: at the perturbed point the least channels are gone.

    Attributes:
        fractions: One of them is drawn for each step: so many of every group's channels, those of the least
            `radius_score`.
    """

    fractions: tuple[float, ...] = (0.25, 0.5, 0.75)

    moves_without_radius = True

    def __post_init__(self) -> None:
        require_declared(self, RecipeError, place="variants.pruned.")
        if not self.fractions or any(not 0 < fraction < 1 for fraction in self.fractions):
            raise RecipeError(
                f"variants.pruned.fractions is {list(self.fractions)}; give fractions of channels between 0 and 1"
            )
        object.__setattr__(self, "fractions", tuple(self.fractions))  # a recipe gives a list

    def check(self, sharpness: SharpnessOptions) -> None:
        """It needs the gradient at w, and scores of the weights."""
        if not sharpness.first_pass:
            raise RecipeError("variants.pruned needs the gradient at w first; leave out stale and removal, or pruned")
        if needs := build_criterion(sharpness.radius_score).needs:
            raise RecipeError(f"radius_score {sharpness.radius_score!r} needs {min(needs)}; use l2, l1 or norm_scale")

    def perturbation(self, inner: Perturbation, moment: Moment) -> PrunedPoint:
        """After the ascent, without the drawn fraction of the channels."""
        return PrunedPoint(inner, moment.groups, self.kept(moment))

    def kept(self, moment: Moment) -> dict[str, Tensor]:
        """Group name -> the channels that are there at the perturbed point, int64 [k]."""
        drawn = torch.randint(len(self.fractions), (1,), generator=moment.draws("pruned", moment.step))
        scores = build_criterion(moment.sharpness.radius_score).score(moment.model, prunable(moment.groups), None)
        fraction = self.fractions[int(drawn)]
        return {
            name: score.argsort(descending=True)[: len(score) - int(fraction * len(score))].sort().values
            for name, score in scores.items()
        }


class PrunedPoint(Perturbation):
    """A perturbation after which some channels are gone: every weight that reads them is zero at w + eps.

    After CrAM (Peste et al., ICLR 2023, arXiv:2207.14200), w <- w - rate * grad L(C(w + eps)) with C the removal, here
    of whole channels and not of single weights. As there, the gradient at the pruned point is applied to w as it is.

    Args:
        base: Moves the weights first; radius 0 for no ascent.
        groups: The channel groups as they are now.
        kept: Group name -> int64 [k] channels that stay at that point; absent groups stay whole.
    Raises:
        PlanError: If a frozen group is to lose channels, or the indices are not the group's.
    Example:
        >>> from adasap.groups import trace_groups
        >>> from adasap.sharpness import UniformPerturbation
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> groups = trace_groups(net, torch.zeros(1, 1))
        >>> point = PrunedPoint(UniformPerturbation(0.0), groups, {"0": torch.tensor([1])})
        >>> offsets = point.offsets(dict(net.named_parameters()))
        >>> moved = dict(zip(offsets.names, offsets.multiplied(), strict=True))
        >>> (net[2].weight + moved["2.weight"])[0, 0].item()
        0.0
    """

    def __init__(self, base: Perturbation, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> None:
        removed = removed_channels(groups, kept)
        self.base = base
        self._read = [
            (slot.name, slot.dim, slot.positions[removed[group.name]].flatten())
            for group in groups
            if group.name in removed
            for slot in group.with_role("consumer")
        ]

    @property
    def is_zero(self) -> bool:
        """Whether nothing is removed and nothing moved."""
        return not self._read and self.base.is_zero

    @torch.no_grad()
    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """Those of the base, and -w where a removed channel is read."""
        moved = self.base.offsets(parameters, consume_gradients=consume_gradients)
        epsilon = dict(zip(moved.names, moved.multiplied(), strict=True))
        for name, dim, index in self._read:
            if name in parameters:
                weight = parameters[name].detach()
                index = index.to(weight.device)
                offset = epsilon.setdefault(name, torch.zeros_like(weight))
                offset.index_copy_(dim, index, weight.index_select(dim, index).neg_())  # w + (-w) is 0, to the bit
        return Offsets(tuple(epsilon), [parameters[name] for name in epsilon], list(epsilon.values()))

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """Those of the base: what is removed needs no gradient."""
        return self.base.moves(parameters)

    def shares(self) -> dict[Kind, float]:
        """Those of the base."""
        return self.base.shares()

    @property
    def strength(self) -> Strength | None:
        """That of the base: a budget of loss is for the ascent, and what the removal adds comes on top."""
        return self.base.strength
