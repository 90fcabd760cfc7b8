"""The selection of a recipe: which channels stay under a limit, by its own floors, multiples and ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from torch import nn

from adasap.groups.group import ChannelGroup, Scores, widths
from adasap.groups.inputs import ExampleInputs
from adasap.pruning.budget import Budget, build_cost
from adasap.pruning.cost import CostModel
from adasap.pruning.knapsack import solve_knapsack
from adasap.pruning.options import PruningOptions
from adasap.pruning.plan import PruningPlan
from adasap.pruning.protocols import SelectionMethod
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
    def of(
        cls, options: PruningOptions, model: nn.Module, groups: Sequence[ChannelGroup], inputs: ExampleInputs
    ) -> Self:
        """For a dense model and its groups; `inputs` are one preprocessed image, for counting."""
        cost = build_cost(options.budget, model, groups, inputs)
        return cls(options, cost, groups, ranking_classes(options.ranking, model, groups))

    def plan(self, groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> PruningPlan:
        """What stays of the present groups under a limit in the cost's unit, by the scores alone.

        Raises:
            BudgetError: If the limit cannot be met.
        """
        return self.options.method.plan(self, groups, scores, limit)

    @property
    def floors(self) -> dict[str, int]:
        """Group name -> fewest channels it keeps."""
        return self.options.floors(self.dense_groups)


@dataclass(frozen=True)
class LowestRanked(SelectionMethod):
    """`selection: ranking`: the lowest scores go until the limit is met."""

    def plan(self, selection: Selection, groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> PruningPlan:
        """By the classes of the recipe's ranking."""
        return select_channels(
            groups,
            scores,
            Budget(selection.cost, limit=limit),
            floors=selection.floors,
            multiple_of=selection.options.multiple_of,
            classes=selection.classes,
            dense=widths(selection.dense_groups),
        )


@dataclass(frozen=True)
class Knapsack(SelectionMethod):
    """`selection: knapsack`: the widths whose summed importance is largest within the limit stay."""

    instead_of_ranking = "weighs all groups together"

    def plan(self, selection: Selection, groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> PruningPlan:
        """Over all groups at once."""
        budget, step = Budget(selection.cost, limit=limit), selection.options.multiple_of
        return solve_knapsack(groups, scores, budget, floors=selection.floors, multiple_of=step).plan
