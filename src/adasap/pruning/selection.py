"""The selection of a recipe: which channels stay under a limit, by its own floors, multiples and ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import nn

from adasap.errors import BudgetError
from adasap.groups.group import ChannelGroup, Scores, widths
from adasap.groups.inputs import ExampleInputs
from adasap.groups.past import branches_of, removed_before
from adasap.groups.stand_ins import Removed, left_of
from adasap.pruning.budget import Budget, build_cost
from adasap.pruning.cost import CostModel, CostWithout
from adasap.pruning.damage import Damage
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
        whole: Names of groups that lose nothing.
        damages: Group name -> measured damage, for a knapsack that does the least.
    """

    options: PruningOptions
    cost: CostModel
    dense_groups: Sequence[ChannelGroup]
    classes: Mapping[str, str] | None
    whole: frozenset[str] = frozenset()
    damages: Mapping[str, Damage] | None = None

    @classmethod
    def of(
        cls, options: PruningOptions, model: nn.Module, groups: Sequence[ChannelGroup], inputs: ExampleInputs
    ) -> Self:
        """For a dense model and its groups; `inputs` are one preprocessed image, for counting."""
        cost = build_cost(options.budget, model, groups, inputs)
        return cls(options, cost, groups, ranking_classes(options.ranking, model, groups))

    def plan(self, groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> PruningPlan:
        """What stays of the present groups under a limit in the cost's unit, by the scores alone.

        Branches are taken out, and all of them, only where a budget with `depth` cannot be met by width alone: which of
        them go is not told by scores (`choose_depth`).

        Raises:
            BudgetError: If the limit cannot be met.
        """
        try:
            return self.plan_without({}, groups, scores, limit)
        except BudgetError:
            all_of_them = {name: gives for b in branches_of(groups) for name, gives in b.modules.items()}
            if not (self.options.budget.depth and all_of_them):
                raise
            return self.plan_without(all_of_them, groups, scores, limit)

    def plan_without(
        self, removed: Removed, groups: Sequence[ChannelGroup], scores: Scores, limit: float
    ) -> PruningPlan:
        """The same where these modules are taken out, too.

        Raises:
            BudgetError: If the limit cannot be met.
        """
        gone = {**removed_before(groups), **removed}
        if not gone:
            return self._plan(groups, scores, limit)
        there = replace(self, cost=CostWithout(self.cost, gone), dense_groups=left_of(self.dense_groups, gone))
        plan = there._plan(left_of(groups, removed), scores, limit)
        return PruningPlan.of(groups, plan.kept, removed)

    def _plan(self, groups: Sequence[ChannelGroup], scores: Scores, limit: float) -> PruningPlan:
        inexact = frozenset(group.name for group in groups if group.inexact and not group.frozen)
        if inexact and self.options.inexact == "last":
            try:
                return self.options.method.plan(replace(self, whole=inexact), groups, scores, limit)
            except BudgetError:
                pass  # the exact groups alone cannot meet it
        return self.options.method.plan(self, groups, scores, limit)

    @property
    def floors(self) -> dict[str, int]:
        """Group name -> fewest channels it keeps."""
        floors = self.options.floors(self.dense_groups)
        return floors | {group.name: group.num_channels for group in self.dense_groups if group.name in self.whole}


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
        """Over all groups at once; where damages were measured, what does the least instead."""
        return solve_knapsack(
            groups,
            scores,
            Budget(selection.cost, limit=limit),
            floors=selection.floors,
            multiple_of=selection.options.multiple_of,
            damages=selection.damages,
        ).plan
