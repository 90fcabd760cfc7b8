"""The options of step 2: what is removed, by which criterion, down to which budget, how gradually."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from adasap.errors import BudgetError, RecipeError
from adasap.groups.group import ChannelGroup, prunable
from adasap.pruning.budget import Budget
from adasap.pruning.candidates import CandidateOptions
from adasap.pruning.cost import CostModel, Parameters, amount
from adasap.pruning.latency import latency_cost
from adasap.pruning.macs import MACs
from adasap.pruning.preparing import PreparingOptions
from adasap.pruning.ranking import Ranking
from adasap.pruning.schedule import build_schedule, event_steps

Unit = Literal["parameters", "macs", "latency", "latency_ms"]


@dataclass(frozen=True)
class BudgetOptions:
    """Exactly one of the costs.

    Attributes:
        parameters: Parameters of the whole model: up to 1 the fraction kept, above 1 an absolute number.
        macs: Multiply-accumulates of one image, likewise.
        latency: Fraction of the dense model's time, by the latency table.
        latency_ms: Milliseconds of one forward pass over the table's batch.
        latency_table: File that `adasap profile MODEL --latency-table FILE` wrote on the device that is meant.

    Example:
        >>> BudgetOptions(macs=0.5).unit, BudgetOptions(parameters=1_000_000).value
        ('macs', 1000000)
    """

    parameters: float | None = None
    macs: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    latency_table: str | None = None

    def __post_init__(self) -> None:
        if len(self._given) != 1 or not self.value > 0:
            raise RecipeError(
                f"the budget gives {self._given or 'nothing'}; give exactly one of parameters, macs, latency and "
                "latency_ms, above 0, as a kept fraction such as 0.4 or as an absolute number"
            )
        if self.latency is not None and self.latency > 1:
            raise RecipeError(f"latency is the kept fraction, up to 1, got {self.latency}; milliseconds are latency_ms")
        if self.is_latency != (self.latency_table is not None):
            raise RecipeError(
                "latency and latency_ms need latency_table, and nothing else takes it: a file made on the device that "
                "is meant by `adasap profile MODEL --latency-table FILE`"
            )

    @property
    def _given(self) -> dict[Unit, float]:
        costs: dict[Unit, float | None] = {
            "parameters": self.parameters,
            "macs": self.macs,
            "latency": self.latency,
            "latency_ms": self.latency_ms,
        }
        return {unit: value for unit, value in costs.items() if value is not None}

    @property
    def unit(self) -> Unit:
        """Which cost is limited."""
        return next(iter(self._given))

    @property
    def value(self) -> float:
        """The fraction or absolute number."""
        return next(iter(self._given.values()))

    @property
    def is_latency(self) -> bool:
        """Whether time is limited."""
        return self.unit in ("latency", "latency_ms")

    def of(self, cost: CostModel) -> Budget:
        """The budget itself, for a cost from `build_cost`."""
        absolute = self.value > 1 or self.unit == "latency_ms"
        return Budget(cost, limit=self.value) if absolute else Budget(cost, kept=self.value)


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
        budget = self.budget.of(cost)
        if budget.limit > cost.dense:
            raise BudgetError(
                f"the budget of {amount(budget.limit)} {cost.unit} is above the dense model's {amount(cost.dense)}: "
                "nothing would be removed; give a smaller number, or a kept fraction up to 1"
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
    """The cost a budget limits; `inputs` are one preprocessed image.

    Raises:
        BudgetError: If the latency table is missing, or was made for another model.
    """
    if budget.latency_table is not None:
        return latency_cost(Path(budget.latency_table), model, groups, inputs)
    return MACs(model, groups, inputs) if budget.unit == "macs" else Parameters(model, groups)
