"""The selection of a recipe: which channels stay under a limit, by its own floors, multiples and ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import Tensor, nn

from adasap.groups.group import ChannelGroup, Scores, widths
from adasap.pruning.budget import Budget
from adasap.pruning.candidates import draw_candidate
from adasap.pruning.cost import CostModel
from adasap.pruning.knapsack import solve_knapsack
from adasap.pruning.options import PruningOptions, build_cost
from adasap.pruning.plan import PruningPlan
from adasap.pruning.ranking import ranking_classes
from adasap.pruning.select import select_channels


@dataclass(frozen=True, eq=False)
class Selection:
    """What every pruning event of a run selects by.

    Attributes:
        options: Of the recipe.
        cost: What its budget counts.
        dense_groups: From which floors and fractions are counted.
        classes: Group name -> class of its ranking; None for one ranking over the model.
    """

    options: PruningOptions
    cost: CostModel
    dense_groups: Sequence[ChannelGroup]
    classes: Mapping[str, str] | None

    @classmethod
    def of(cls, options: PruningOptions, model: nn.Module, groups: Sequence[ChannelGroup], inputs: Tensor) -> Self:
        """For a dense model and its groups; `inputs` are one preprocessed image, for counting."""
        cost = build_cost(options.budget, model, groups, inputs)
        return cls(options, cost, groups, ranking_classes(options.ranking, model, groups))

    def plan(self, groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> PruningPlan:
        """What stays of the present groups under a limit in the cost's unit; with `candidates` by the ranking.

        Raises:
            BudgetError: If the limit cannot be met.
        """
        budget, floors = Budget(self.cost, limit=limit), self.options.floors(self.dense_groups)
        step = self.options.multiple_of
        if self.options.selection == "knapsack":
            return solve_knapsack(groups, scores, budget, floors=floors, multiple_of=step).plan
        dense = widths(self.dense_groups)
        return select_channels(
            groups, scores, budget, floors=floors, multiple_of=step, classes=self.classes, dense=dense
        )

    def candidate(self, groups: Sequence[ChannelGroup], scores: Scores, limit: float, *, seed: int) -> PruningPlan:
        """A random division of a limit in the cost's unit, with the same floors and multiples.

        Raises:
            BudgetError: If the limit cannot be met.
        """
        return draw_candidate(
            groups,
            scores,
            Budget(self.cost, limit=limit),
            seed=seed,
            multiple_of=self.options.multiple_of,
            floors=self.options.floors(self.dense_groups),
        )
