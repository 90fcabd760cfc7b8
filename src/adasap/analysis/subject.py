"""A model on the bench: with its batches, its groups, and what is known about the channels that go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from adasap.analysis.objective import Objective
from adasap.analysis.options import ChannelOptions
from adasap.criteria import build_criterion
from adasap.criteria.gathering import collect_evidence
from adasap.groups import ChannelGroup, Scores, prunable
from adasap.pruning import Budget, Parameters, PruningPlan, select_channels


@dataclass(frozen=True, eq=False)
class Subject:
    """One model of an analysis.

    Attributes:
        objective: The model and its loss over all batches.
        groups: Its channel groups.
        plan: Which channels stay later on; None lets a criterion decide.
        images_per_batch: m, for the record.
    """

    objective: Objective
    groups: Sequence[ChannelGroup]
    plan: PruningPlan | None = None
    images_per_batch: int | None = None

    def importance(self, criterion: str, num_batches: int) -> dict[str, Tensor]:
        """Group name -> importance, float [C], on the CPU; a criterion that needs gradients clears the model's own."""
        built, model, some = build_criterion(criterion), self.objective.model, self.objective.first(num_batches)
        with self.objective.measuring():
            evidence = collect_evidence(built, model, self.groups, some.batches, some.loss)
        return {name: values.detach().cpu() for name, values in built.score(model, self.groups, evidence).items()}

    def kept(self, options: ChannelOptions, scores: Scores) -> dict[str, set[int]]:
        """Group name -> channels that stay, for groups that can be pruned: by the plan, else by these scores."""
        plan = self.plan if self.plan is not None and fits(self.plan, self.groups) else None
        if plan is None:
            budget = Budget(Parameters(self.objective.model, self.groups), kept=options.kept)
            plan = select_channels(self.groups, scores, budget)
        every = {group.name: set(range(group.num_channels)) for group in prunable(self.groups)}
        return every | {name: set(indices.tolist()) for name, indices in plan.kept.items()}


def fits(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> bool:
    """Whether a plan names these groups at these widths, so that it says which of their channels stay."""
    widths = {group.name: group.num_channels for group in prunable(groups)}
    return not plan.keeps_all and all(widths.get(name) == count for name, count in plan.num_channels.items())


def first_fitting(plans: Mapping[str, PruningPlan], groups: Sequence[ChannelGroup]) -> PruningPlan | None:
    """The first plan that fits."""
    return next((plan for plan in plans.values() if fits(plan, groups)), None)
