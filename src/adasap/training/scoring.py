"""How much every channel matters now: from weights, collected evidence, or a look at the first batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from adasap.criteria import Criterion, Evidence, GatheringCriterion
from adasap.errors import RecipeError
from adasap.groups import Scores
from adasap.pruning import PruningOptions
from adasap.sharpness import recalibrate_
from adasap.training.processes import Processes
from adasap.training.run_schedule import Timetable
from adasap.training.state import TrainingState


class HasLoss(Protocol):
    """What a criterion, a compensation and norm statistics look through: a task, or a loop's own loss."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean loss of a prepared batch."""


class Scoring:
    """The criterion of a run with all that it looks at.

    Args:
        criterion: As the preparation has it.
        options: Of step 2, for the number of batches of norm statistics.
        state: What is scored; dense weights also where channels are kept back.
        first_batches: `first_batches(n)` gives prepared training batches, the same on every rank.
    """

    def __init__(
        self,
        criterion: Criterion,
        options: PruningOptions,
        state: TrainingState,
        task: HasLoss,
        runtime: Processes,
        first_batches: Callable[[int], list[Any]],
    ) -> None:
        self.options, self.state, self.task, self.runtime = options, state, task, runtime
        self.criterion, self._first_batches = criterion, first_batches

    def score(self) -> Scores:
        """How much every channel matters now, from the weights and what the criterion needs beside them."""
        evidence: Scores | None = None
        if "gradients" in self.criterion.needs:
            evidence = self.state.evidence.mean()
        elif "batches" in self.criterion.needs:
            evidence = self._gather(self.criterion)
        return self.criterion.score(self.state.model, self.state.groups, evidence)

    def try_gathering(self) -> None:
        """A criterion that cannot look at this model says so on one batch.

        Raises:
            RecipeError: With the reason.
        """
        if "batches" not in self.criterion.needs:
            return
        try:
            self._gather(self.criterion, num_batches=1)
        except (RuntimeError, ValueError) as error:
            raise RecipeError(
                f"criterion {self.options.criterion!r} cannot look at this model: {error}; "
                "use one that needs gradients or weights alone, such as taylor or l2"
            ) from error

    def recalibrate(self, model: nn.Module | None = None) -> None:
        """Re-estimates norm statistics, by default the state's, on the first batches, the same on every rank."""
        if self.options.recalibration_batches == 0:
            return
        model = model or self.state.model
        with self.state.preparation.applied(), self.runtime.autocast():
            batches = self._first_batches(self.options.recalibration_batches)
            recalibrate_(model, batches, forward=self.task.loss)
        self.runtime.average_buffers_(model)

    def renew_statistics(self, timetable: Timetable) -> None:
        """Norm statistics of the weights as they are, where steps left those of moved ones, if they are read now.

        They depend on the weights and the first batches alone, so a resumed run has the same.
        """
        step, averaged = self.state.counters.step, self.state.averaged
        if step in timetable.evaluated or "batches" in self.criterion.needs:
            self.recalibrate()
        if step == timetable.num_steps and averaged is not None:
            self.recalibrate(averaged.module)

    def _gather(self, criterion: Criterion, num_batches: int | None = None) -> Scores:
        """What the criterion sees on the first batches of the run, the same on every rank."""
        assert isinstance(criterion, GatheringCriterion)
        batches = self._first_batches(num_batches or criterion.num_batches)
        evidence = Evidence()
        with self._nothing_held_back():
            evidence.add(criterion.gather(self.state.model, self.state.groups, batches, self.task.loss))
        if self.runtime.world_size > 1:
            evidence.reduce(self.runtime.average)
        return evidence.mean()

    @contextmanager
    def _nothing_held_back(self) -> Iterator[None]:
        """The dense model with its own norm statistics, if some channels are masked; theirs come back afterwards."""
        preparation = self.state.preparation
        if not preparation.num_held:
            yield
            return
        saved = [(buffer, buffer.clone()) for buffer in self.state.model.buffers()]
        try:
            with preparation.suspended():
                self.recalibrate()
                yield
        finally:
            with torch.no_grad():
                for buffer, before in saved:
                    buffer.copy_(before)
