"""What a run would do and cost, before it does anything."""

from __future__ import annotations

import time

from adasap.criteria import GradientCriterion
from adasap.errors import DataError
from adasap.evaluation import evaluate_suite
from adasap.groups.fake_model import copied
from adasap.pruning import PruningPlan
from adasap.training.run import CompressionRun
from adasap.training.validation import warn_of_thin_groups

_MOST_IMAGES = 256


def first_plan(run: CompressionRun) -> tuple[PruningPlan, float]:
    """The last event's plan by the criterion at the starting weights, and the seconds of one plain step.

    A criterion that needs gradients gets those of the first batch.
    """
    seconds = _measure_plain_step(run)
    plan = run.selection.plan(run.dense_groups, run.scoring.score(), run.timetable.events[-1].limit)
    if run.criterion.needs:  # else the run has looked at the same scores when it was made
        warn_of_thin_groups(plan, run.dense_groups)
    return plan, seconds


def first_score(run: CompressionRun) -> str:
    """One line: how the model does as it is loaded on about two batches of test images, beside chance.

    The images are a sample, the same every time: those of a folder stand class by class.
    """
    suite = run.data.opened_suites[0]
    sample = suite.sampled(min(_MOST_IMAGES, max(32, 2 * run.config.training.batch_size)), seed=0)
    try:
        loading, device = run.config.training.evaluation.loading, run.runtime.device
        result = evaluate_suite(run.state.model, run.task, sample, device, loading, run.scoring_precision)
    except DataError as error:  # such as boxes, of which a few images may have none
        return f"As loaded: no score on some test images ({error})"
    return run.task.first_score(result, run.data.train)


def _measure_plain_step(run: CompressionRun) -> float:
    """Best of three forward-backward passes on a copy; leaves evidence if the criterion needs any."""
    model, batch = copied(run.state.model).train(), run.first_batches(1)[0]
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
