"""Preparing channels for their removal: what training does to those that are to go, in the steps before they go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from adasap.criteria.registry import build_criterion, validate_criterion
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup, Scores, prunable
from adasap.pruning.plan import PruningPlan

Choose = Callable[[Sequence[ChannelGroup], Scores], PruningPlan]
"""What would stay at the end of all events, by these scores."""


@dataclass(frozen=True)
class PreparingOptions:
    """What happens to the channels that are to go, from the first step to the last pruning event.

    Attributes:
        kind: `none`; `growing_l2`: a growing L2 penalty on them (GReg-1, arXiv:2012.09243); or `soft_masks`: all
            events but the last mask channels in place of removing them, and those may come back (SMCP,
            arXiv:2211.02206).
        score: Of `growing_l2`, as all that follow: the criterion that says which channels are to go; of weights
            alone.
        growth: By how much the penalty's factor grows each time.
        every: Steps between two growths; the channels are chosen anew at each, and after every cut. Checkpoints
            fall on its multiples.
        ceiling: Largest factor.
    """

    kind: Literal["none", "growing_l2", "soft_masks"] = "none"
    score: str = "l1"
    growth: float = 1e-4
    every: int = 5
    ceiling: float = 1.0

    def __post_init__(self) -> None:
        if self.growth < 0 or self.ceiling < 0 or self.every < 1:
            raise RecipeError(
                f"prepare: growth is {self.growth}, ceiling {self.ceiling}, every {self.every}; "
                "give growth and ceiling of at least 0 and every of at least 1"
            )
        if needs := build_criterion(self.score).needs:
            raise RecipeError(f"prepare.score {self.score!r} needs {min(needs)}; use l1, l2, fpgm or lamp")

    @property
    def interval(self) -> int:
        """Steps at whose multiples a run can be taken up again."""
        return self.every if self.kind == "growing_l2" else 1

    @property
    def masks(self) -> bool:
        """Whether events before the last only mask."""
        return self.kind == "soft_masks"

    def factor(self, step: int) -> float:
        """min(ceiling, growth * number of growths so far).

        Example:
            >>> [PreparingOptions(growth=0.25, every=2, ceiling=0.6).factor(step) for step in (0, 1, 2, 4, 6, 8)]
            [0.0, 0.0, 0.25, 0.5, 0.6, 0.6]
        """
        return min(self.ceiling, self.growth * (step // self.every))


class Preparation(Protocol):
    """Something that training does for the sake of the cut to come."""

    def before_step_(self, step: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """May change `.grad`, which holds the final gradients, after `step` steps were made.

        Called before every optimizer step, also of one that is then skipped. Nothing that it remembers may
        outlive a multiple of its interval or a cut, so that a resumed run does the same.
        """
        ...


def build_preparation(
    options: PreparingOptions, model: nn.Module, groups: Sequence[ChannelGroup], choose: Choose
) -> Preparation | None:
    """The preparation of a recipe, None if nothing is done between the events.

    Raises:
        ValueError: If its score says that it cannot score these groups.
    """
    if options.kind != "growing_l2":
        return None
    validate_criterion(build_criterion(options.score), model, groups)
    return GrowingPenalty(options, choose)


class GrowingPenalty:
    """factor(step) / 2 * sum of w^2 over all that the channels to go produce with, added to the loss: its
    gradient factor * w is added to `.grad`, like a weight decay of those channels alone    (arXiv:2012.09243)

    What a channel produces with are its producer rows, and the scales, shifts and biases behind them: with a norm
    layer behind it, small rows alone would change nothing. Channels to go are those that the last event would
    remove if it came now, by a score of the weights; penalised ones shrink and so stay chosen.
    """

    def __init__(self, options: PreparingOptions, choose: Choose) -> None:
        self.options, self._choose = options, choose
        self._score = build_criterion(options.score)
        self._groups: Sequence[ChannelGroup] | None = None
        self._going: dict[tuple[str, int], Tensor] = {}

    def before_step_(self, step: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Adds factor(step) * w to the gradients of the channels to go."""
        if groups is not self._groups or step % self.options.every == 0:
            plan = self._choose(groups, self._score.score(model, groups, None))
            self._groups, self._going = groups, _entries_to_go(groups, plan)
        add_penalty_(model, self._going, self.options.factor(step))


@torch.no_grad()
def add_penalty_(model: nn.Module, going: dict[tuple[str, int], Tensor], factor: float) -> None:
    """Adds factor * w to the gradient of these indices of these axes; nothing to a parameter without gradient.

    Args:
        model: Its `.grad` change.
        going: (parameter name, axis) -> indices, int64 [K], each once.
        factor: Of the penalty factor / 2 * sum of w^2.
    """
    if factor == 0:
        return
    parameters = dict(getattr(model, "_orig_mod", model).named_parameters())
    for (name, dim), indices in going.items():
        parameter = parameters.get(name)
        if parameter is not None and parameter.grad is not None and indices.numel():
            places = indices.to(parameter.device)
            parameter.grad.index_add_(dim, places, parameter.index_select(dim, places), alpha=factor)


def _entries_to_go(groups: Sequence[ChannelGroup], plan: PruningPlan) -> dict[tuple[str, int], Tensor]:
    """(parameter name, axis) -> indices of all that the channels produce with which the plan lets go."""
    going: dict[tuple[str, int], Tensor] = {}
    for group in prunable(groups):
        stays = torch.zeros(group.num_channels, dtype=torch.bool)
        stays[plan.kept.get(group.name, torch.arange(group.num_channels))] = True
        for slot in group.with_role("producer", "scale", "shift"):
            earlier = going.get((slot.name, slot.dim), slot.positions.new_empty(0))
            both = torch.cat([earlier, slot.positions[~stays].flatten()])
            going[slot.name, slot.dim] = torch.unique(both)  # two slots may share an index
    return going
