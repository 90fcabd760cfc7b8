"""The options of step 2: what is removed, by which criterion, down to which budget, how gradually."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from adasap.checks import MOST_EPOCHS, MOST_STEPS, require_declared, require_within
from adasap.errors import BudgetError, RecipeError
from adasap.groups.group import ChannelGroup, prunable
from adasap.pruning.budget import BudgetOptions
from adasap.pruning.compensate import Compensate
from adasap.pruning.cost import CostModel, amount
from adasap.pruning.protocols import PREPARATIONS, SELECTIONS, Preparation, SelectionMethod
from adasap.pruning.ranking import Ranking
from adasap.pruning.schedule import PRUNING_SCHEDULES, build_schedule, event_steps
from adasap.registry import build, options_of


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
            summed importance is largest within it; or a registered one, such as `candidates` (docs/extras.md).
        selection_options: Arguments of the selection.
        budget: What may be left at the end.
        prepare: What is done to the channels that are to go before they go for good: `kind` and its arguments; `none`,
            or a registered one, such as `growing_l2` and `soft_masks` (docs/extras.md).
        schedule: How the kept cost falls from event to event: `exponential`, `cubic`, `linear`, `one_shot`, or a
            registered one.
        events: Number of pruning events (fewer where they do not fit).
        every: Least number of steps between two events.
        min_channels: Channels that every group keeps.
        min_kept: Fraction of its dense width that every group keeps.
        multiple_of: Widths are multiples of it.
        keep: Patterns of module names whose channels stay.
        allow: What may be cut although no mask of weights equals it: `norms`, channels under a LayerNorm or another
            norm or mean over them, such as the embedding width of a ViT; what stays is normalised without what went.
        inexact: When such channels go: `by_score`, like all others, or `last`, only where the others alone, down to
            `min_kept` and `min_channels`, cannot meet the budget.
        recalibration_batches: Batches for re-estimating norm statistics after each event; 0 for none. A budget with
            `depth` tries its plans on as many, on one at least.
        compensate: What reads the channels that went gets new weights at once, before norms are re-estimated:
            `least_squares` on a few training batches, or `fold`, without data (docs/compensation.md). Events that only
            mask (soft masks) leave weights alone.
        compensation_batches: Batches for `least_squares`; all are in the network at the same time.
    """

    epochs: float = 2.0
    criterion: str = "l2"
    criterion_options: dict[str, Any] = field(default_factory=dict)
    ranking: Ranking = "global"
    selection: str = "ranking"
    selection_options: dict[str, Any] = field(default_factory=dict)
    budget: BudgetOptions = field(default_factory=lambda: BudgetOptions(parameters=0.5))
    prepare: dict[str, Any] = field(default_factory=lambda: {"kind": "none"})
    schedule: str = "exponential"
    events: int = 30
    every: int = 30
    min_channels: int = 1
    min_kept: float = 0.0
    multiple_of: int = 1
    keep: tuple[str, ...] = ()
    allow: tuple[Literal["norms"], ...] = ()
    inexact: Literal["by_score", "last"] = "by_score"
    recalibration_batches: int = 8
    compensate: Compensate = "none"
    compensation_batches: int = 2

    def __post_init__(self) -> None:
        require_declared(self, RecipeError, place="pruning.")
        PRUNING_SCHEDULES.get(self.schedule)
        if min(self.events, self.every, self.min_channels, self.multiple_of) < 1 or not self.epochs >= 0:
            raise RecipeError(
                "pruning: events, every, min_channels and multiple_of must be at least 1, epochs at least 0"
            )
        require_within(RecipeError, 0, MOST_EPOCHS, epochs=self.epochs)
        require_within(RecipeError, 1, 10_000, events=self.events)
        counts = {"every": self.every, "min_channels": self.min_channels, "multiple_of": self.multiple_of}
        require_within(RecipeError, 1, MOST_STEPS, **counts)
        require_within(RecipeError, 0, MOST_STEPS, recalibration_batches=self.recalibration_batches)
        require_within(RecipeError, 1, MOST_STEPS, compensation_batches=self.compensation_batches)
        if self.method.instead_of_ranking and self.ranking != "global":
            raise RecipeError(
                f"pruning.selection {self.selection} {self.method.instead_of_ranking}, so pruning.ranking "
                f"{self.ranking!r} has no part in it; leave ranking out, or take selection `ranking`"
            )
        object.__setattr__(self, "selection_options", options_of(self.method))
        if not isinstance(self.prepare, dict):
            raise RecipeError(f"pruning.prepare is {self.prepare!r:.80}; give kind and its options, such as kind: none")
        preparation = self.preparation()
        preparation.check(self)
        kind = {"kind": self.prepare.get("kind", "none")}
        object.__setattr__(self, "prepare", kind | options_of(preparation))
        searches = hasattr(self.method, "search") and not self.method.tries_depth
        if self.budget.depth and (searches or kind["kind"] != "none"):
            raise RecipeError(
                f"pruning.budget.depth tries plans at every event, which does not go with selection {self.selection!r} "
                f"and prepare {kind['kind']!r}; give selection ranking, knapsack or least_damage, and prepare none"
            )
        if not 0 <= self.min_kept <= 1:
            raise RecipeError(f"pruning.min_kept is {self.min_kept}; give a fraction from 0 to 1")

    @property
    def allow_inexact(self) -> bool:
        """As `trace_groups` takes it."""
        return "norms" in self.allow

    @cached_property
    def method(self) -> SelectionMethod:
        """How channels are selected."""
        return build(SELECTIONS.get(self.selection), self.selection_options, place="pruning.selection_options.")

    def preparation(self) -> Preparation:
        """What is done to the channels that are to go; a new one for each run."""
        options = {name: value for name, value in self.prepare.items() if name != "kind"}
        return build(PREPARATIONS.get(self.prepare.get("kind", "none")), options, place="pruning.prepare.")

    def event_steps(self, start: int, stop: int) -> tuple[int, ...]:
        """After which steps of the run an event comes."""
        return event_steps(start, stop, 1 if self.schedule == "one_shot" else self.events, self.every)

    def limits(self, cost: CostModel, num_events: int) -> list[float]:
        """The cost allowed after each event, in the cost's unit.

        Raises:
            BudgetError: If the budget is above the dense model's cost.
        """
        if not cost.dense > 0:
            raise BudgetError(f"the model has no {cost.unit} that could fall; give a model with weights")
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
        """Group name -> fewest channels it keeps; two under a norm over them, which makes a lone one constant."""
        return {
            group.name: max(
                min(max(self.min_channels, 2 if group.inexact else 1), group.num_channels),
                math.ceil(self.min_kept * group.num_channels),
            )
            for group in prunable(groups)
        }
