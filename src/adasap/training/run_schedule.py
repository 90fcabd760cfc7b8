"""When what happens in a run: the ends of the three steps and the pruning events."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from adasap.pruning import CostModel
from adasap.training.options import Compression


@dataclass(frozen=True)
class Event:
    """A pruning event: after `step` steps the cost may be at most `limit`."""

    number: int
    step: int
    limit: float


@dataclass(frozen=True)
class Timetable:
    """Steps are counted over the whole run, from 0.

    Attributes:
        warm_up_end: Steps of step 1.
        pruning_end: Steps of steps 1 and 2.
        num_steps: Steps in all.
        rising: Steps of linear learning-rate increase at the start.
        events: The pruning events in order; the last one has the full budget.
    """

    warm_up_end: int
    pruning_end: int
    num_steps: int
    rising: int
    events: tuple[Event, ...]

    @classmethod
    def of(cls, config: Compression, steps_per_epoch: int, cost: CostModel) -> Self:
        """The timetable of a recipe on a data set of this many steps per epoch.

        Raises:
            BudgetError: If the budget is no budget, or above the dense cost.
        """
        warm_up_end = round(config.warm_up.epochs * steps_per_epoch)
        pruning_end = warm_up_end + round(config.pruning.epochs * steps_per_epoch)
        steps = config.pruning.event_steps(warm_up_end, pruning_end)
        limits = config.pruning.limits(cost, len(steps))
        return cls(
            warm_up_end=warm_up_end,
            pruning_end=pruning_end,
            num_steps=pruning_end + round(config.fine_tune.epochs * steps_per_epoch),
            rising=round(config.training.schedule.warm_up_epochs * steps_per_epoch),
            events=tuple(Event(r, *when) for r, when in enumerate(zip(steps, limits, strict=True), start=1)),
        )

    def steps_of(self, phase: str, config: Compression) -> range:
        """The steps of a phase; `warm-up` and `pruning` are one where they share their perturbation."""
        if phase == "fine-tuning":
            return range(self.pruning_end, self.num_steps)
        if config.pruning_sharpness is None:
            return range(self.pruning_end)
        return range(self.warm_up_end) if phase == "warm-up" else range(self.warm_up_end, self.pruning_end)

    @property
    def evaluated(self) -> set[int]:
        """The numbers of steps after which the model is evaluated."""
        return {self.warm_up_end, self.num_steps, *(event.step for event in self.events[-1:])}

    def plain_steps(self, config: Compression) -> float:
        """Cost of the whole run in plain steps, that is in forward-backward passes."""
        phases = ("warm-up", "pruning", "fine-tuning") if config.pruning_sharpness else ("pruning", "fine-tuning")
        return sum(config.sharpness(phase).plain_steps(self.steps_of(phase, config)) for phase in phases)
