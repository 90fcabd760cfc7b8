"""What a run would do and cost, before it does anything."""

from __future__ import annotations

import copy
import time

from adasap.criteria import GradientCriterion
from adasap.pruning import PruningPlan
from adasap.training.run import CompressionRun


def first_plan(run: CompressionRun) -> tuple[PruningPlan, float]:
    """The last event's plan by the criterion at the starting weights, and the seconds of one plain step.

    A criterion that needs gradients gets those of the first batch.
    """
    seconds = _measure_plain_step(run)
    return run.selection.plan(run.dense_groups, run.scoring.score(), run.timetable.events[-1].limit), seconds


def _measure_plain_step(run: CompressionRun) -> float:
    """Best of three forward-backward passes on a copy; leaves evidence if the criterion needs any."""
    model, batch = copy.deepcopy(run.state.model).train(), run.first_batches(1)[0]
    seconds = []
    for _ in range(3):
        model.zero_grad()
        started = time.perf_counter()
        with run.runtime.autocast():
            loss = run.task.loss(model, batch)
        run.runtime.backward(loss)
        seconds.append(time.perf_counter() - started)
    if "gradients" in run.criterion.needs:
        assert isinstance(run.criterion, GradientCriterion)
        run.state.evidence.add(run.criterion.batch_evidence(model, run.state.groups))
    return min(seconds)
