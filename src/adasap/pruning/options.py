"""The options of step 2: what is removed, by which criterion, down to which budget, how gradually."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from adasap.errors import BudgetError, RecipeError
from adasap.groups.group import ChannelGroup, prunable
from adasap.pruning.budget import Budget
from adasap.pruning.candidates import CandidateOptions
from adasap.pruning.cost import CostModel, Parameters
from adasap.pruning.macs import MACs
from adasap.pruning.preparing import PreparingOptions
from adasap.pruning.ranking import Ranking
from adasap.pruning.schedule import build_schedule, event_steps


@dataclass(frozen=True)
class BudgetOptions:
    """Exactly one of the costs: up to 1 it is the fraction kept, above 1 an absolute number.

    Attributes:
        parameters: Parameters of the whole model.
        macs: Multiply-accumulates of one image.

    Example:
        >>> BudgetOptions(macs=0.5).unit, BudgetOptions(parameters=1_000_000).value
        ('macs', 1000000)
    """

    parameters: float | None = None
    macs: float | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.parameters, self.macs) if value is not None]
        if len(given) != 1 or not given[0] > 0:
            raise RecipeError(
                f"the budget gives parameters={self.parameters} and macs={self.macs}; give exactly one of them, "
                "as a kept fraction such as 0.4 or as an absolute number"
            )

    @property
    def unit(self) -> Literal["parameters", "macs"]:
        """Which cost is limited."""
        return "macs" if self.parameters is None else "parameters"

    @property
    def value(self) -> float:
        """The fraction or absolute number."""
        value = self.macs if self.parameters is None else self.parameters
        assert value is not None
        return value


@dataclass(frozen=True)
class PruningOptions:
    """Step 2 of the method.

    Attributes:
        epochs: Length of the pruning window.
        criterion: Name in the registry of criteria.
        criterion_options: Arguments of the criterion.
        ranking: Over which channels the scores are compared: those of the whole model (`global`), of each group
            (`uniform`), or of each class of groups that are built alike (`isomorphic`).
        selection: `ranking` removes the lowest scores until the budget is met; `knapsack` keeps the widths whose
            summed importance is largest within it; `candidates` tries random divisions of it and takes the one
            that works best.
        candidates: How many `candidates` are tried, and on what.
        budget: What may be left at the end.
        prepare: What is done to the channels that are to go before they go for good.
        schedule: How the kept cost falls from event to event.
        events: Number of pruning events (fewer where they do not fit).
        every: Least number of steps between two events.
        min_channels: Channels that every group keeps.
        min_kept: Fraction of its dense width that every group keeps.
        multiple_of: Widths are multiples of it.
        keep: Patterns of module names whose channels stay.
        recalibration_batches: Batches for re-estimating norm statistics after each event; 0 for none.
    """

    epochs: float = 2.0
    criterion: str = "l2"
    criterion_options: dict[str, Any] = field(default_factory=dict)
    ranking: Ranking = "global"
    selection: Literal["ranking", "knapsack", "candidates"] = "ranking"
    candidates: CandidateOptions = field(default_factory=CandidateOptions)
    budget: BudgetOptions = field(default_factory=lambda: BudgetOptions(parameters=0.5))
    prepare: PreparingOptions = field(default_factory=PreparingOptions)
    schedule: Literal["exponential", "cubic", "linear", "one_shot"] = "exponential"
    events: int = 30
    every: int = 30
    min_channels: int = 1
    min_kept: float = 0.0
    multiple_of: int = 1
    keep: tuple[str, ...] = ()
    recalibration_batches: int = 8

    def __post_init__(self) -> None:
        if min(self.events, self.every, self.min_channels, self.multiple_of) < 1 or not self.epochs >= 0:
            raise RecipeError(
                "pruning: events, every, min_channels and multiple_of must be at least 1, epochs at least 0"
            )
        if self.recalibration_batches < 0:
            raise RecipeError(f"pruning.recalibration_batches is {self.recalibration_batches}; give 0 or more")
        if self.selection != "ranking" and self.ranking != "global":
            does = "weighs all groups together" if self.selection == "knapsack" else "draws what each group loses"
            raise RecipeError(
                f"pruning.selection {self.selection} {does}, so pruning.ranking {self.ranking!r} has no "
                "part in it; leave ranking out, or take selection `ranking`"
            )
        if self.prepare.masks and (self.events == 1 or self.schedule == "one_shot"):
            raise RecipeError(
                "pruning.prepare.kind soft_masks masks at all events but the last, and there is only one; give "
                "pruning.events of at least 2 with schedule exponential, cubic or linear"
            )
        if not 0 <= self.min_kept <= 1:
            raise RecipeError(f"pruning.min_kept is {self.min_kept}; give a fraction from 0 to 1")

    def event_steps(self, start: int, stop: int) -> tuple[int, ...]:
        """After which steps of the run an event comes."""
        return event_steps(start, stop, 1 if self.schedule == "one_shot" else self.events, self.every)

    def limits(self, cost: CostModel, num_events: int) -> list[float]:
        """The cost allowed after each event, in the cost's unit.

        Raises:
            BudgetError: If the budget is above the dense model's cost.
        """
        value = self.budget.value
        budget = Budget(cost, kept=value) if value <= 1 else Budget(cost, limit=value)
        if budget.limit > cost.dense:
            raise BudgetError(
                f"the budget of {budget.limit:,.0f} {cost.unit} is above the dense model's {cost.dense:,.0f}: nothing "
                "would be removed; give a smaller number, or a kept fraction up to 1"
            )
        schedule = build_schedule(self.schedule)
        kept = budget.limit / cost.dense
        return [cost.dense * schedule.kept_after(event + 1, num_events, kept) for event in range(num_events)]

    def floors(self, groups: Sequence[ChannelGroup]) -> dict[str, int]:
        """Group name -> fewest channels it keeps."""
        return {
            group.name: max(min(self.min_channels, group.num_channels), math.ceil(self.min_kept * group.num_channels))
            for group in prunable(groups)
        }


def build_cost(budget: BudgetOptions, model: nn.Module, groups: Sequence[ChannelGroup], inputs: Tensor) -> CostModel:
    """The cost a budget limits."""
    return MACs(model, groups, inputs) if budget.unit == "macs" else Parameters(model, groups)
