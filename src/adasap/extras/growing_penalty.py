"""A growing L2 penalty on the channels that are to go    (GReg-1, arXiv:2012.09243)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.checks import MOST_STEPS, require_declared, require_within
from adasap.criteria import build_criterion, validate_criterion
from adasap.errors import RecipeError
from adasap.groups.bare import unwrap
from adasap.groups.group import ChannelGroup, prunable
from adasap.pruning.plan import PruningPlan
from adasap.pruning.protocols import Choose, Preparation


@dataclass
class GrowingPenalty(Preparation):
    """factor(step) / 2 * sum of w^2 over all that the channels to go produce with, added to the loss: its
    gradient factor * w is added to `.grad`, like a weight decay of those channels alone    (arXiv:2012.09243)

    What a channel produces with are its producer rows, and the scales, shifts and biases behind them: with a norm
    layer behind it, small rows alone would change nothing. Channels to go are those that the last event would
    remove if it came now, by a score of the weights; penalised ones shrink and so stay chosen.

    Attributes:
        score: The criterion that says which channels are to go; of weights alone.
        growth: By how much the penalty's factor grows each time.
        every: Steps between two growths; the channels are chosen anew at each, and after every cut. Checkpoints
            fall on its multiples.
        ceiling: Largest factor.
    """

    score: str = "l1"
    growth: float = 1e-4
    every: int = 5
    ceiling: float = 1.0

    def __post_init__(self) -> None:
        require_declared(self, RecipeError, place="prepare.")
        if self.growth < 0 or self.ceiling < 0 or self.every < 1:
            raise RecipeError(
                f"prepare: growth is {self.growth}, ceiling {self.ceiling}, every {self.every}; "
                "give growth and ceiling of at least 0 and every of at least 1"
            )
        require_within(RecipeError, 0, 1e9, growth=self.growth, ceiling=self.ceiling)
        require_within(RecipeError, 1, MOST_STEPS, every=self.every)
        self._score = build_criterion(self.score)
        if needs := self._score.needs:
            raise RecipeError(f"prepare.score {self.score!r} needs {min(needs)}; use l1, l2, fpgm or lamp")
        self._choose: Choose | None = None
        self._groups: Sequence[ChannelGroup] | None = None
        self._going: dict[tuple[str, int], Tensor] = {}

    @property
    def interval(self) -> int:
        """Channels are chosen at its multiples."""
        return self.every

    def factor(self, step: int) -> float:
        """min(ceiling, growth * number of growths so far).

        Example:
            >>> [GrowingPenalty(growth=0.25, every=2, ceiling=0.6).factor(step) for step in (0, 1, 2, 4, 6, 8)]
            [0.0, 0.0, 0.25, 0.5, 0.6, 0.6]
        """
        return min(self.ceiling, self.growth * (step // self.every))

    def begin(self, model: nn.Module, groups: Sequence[ChannelGroup], choose: Choose) -> None:
        """Its score says here if it cannot score these groups."""
        validate_criterion(self._score, model, groups)
        self._choose = choose

    def before_step_(self, step: int, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Adds factor(step) * w to the gradients of the channels to go."""
        assert self._choose is not None
        if groups is not self._groups or step % self.every == 0:
            plan = self._choose(groups, self._score.score(model, groups, None))
            self._groups, self._going = groups, _entries_to_go(groups, plan)
        add_penalty_(model, self._going, self.factor(step))


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
    parameters = dict(unwrap(model).named_parameters())
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
