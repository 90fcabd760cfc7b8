"""What a run would do and cost, before it does anything."""

from __future__ import annotations

import time

from adasap.criteria import GradientCriterion
from adasap.errors import DataError
from adasap.evaluation import Loading, evaluate_suite
from adasap.evaluation.runner import evaluate_cell
from adasap.groups.fake_model import copied
from adasap.pruning import PruningPlan
from adasap.training.run import CompressionRun
from adasap.training.validation import warn_of_thin_groups

_MOST_IMAGES = 256
_TIMED_IMAGES, _TIMED_CELLS = 32, 3


def first_plan(run: CompressionRun) -> tuple[PruningPlan, float]:
    """The last event's plan by the criterion at the starting weights, and the seconds of one plain step.

    A criterion that needs gradients gets those of the first batch.
    """
    seconds = _measure_plain_step(run)
    plan = run.choose(run.selection, run.scoring.score(), run.timetable.events[-1].limit)
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


def reading_seconds(run: CompressionRun) -> float:
    """What reading a batch adds to a step here: all of it, or what the workers cannot hide behind the step before.

    The first batch is read again, so files come from the system's cache.
    """
    started = time.perf_counter()
    run.first_batches(1)
    return time.perf_counter() - started


def evaluation_seconds(run: CompressionRun) -> float | None:
    """How long an evaluation of all suites takes here, from a few images in up to three cells of each.

    None where a few images cannot be scored, such as those without boxes.
    """
    seconds, asked = 0.0, run.config.training.evaluation
    for suite in run.data.opened_suites:
        cells, images = suite.cells, len(suite.images)
        timed = sorted({round(place * (len(cells) - 1) / (_TIMED_CELLS - 1)) for place in range(_TIMED_CELLS)})
        sample = suite.sampled(min(images, _TIMED_IMAGES), seed=0)
        loading = Loading(asked.batch_size)
        walls = []
        for place in timed:
            try:
                result = evaluate_cell(
                    run.state.model, run.task, sample, cells[place], run.runtime.device, loading, run.scoring_precision
                )
            except DataError:
                return None
            spent = result.timings
            made = spent["reading"] + spent["corruptions"]
            hidden = max(spent["model"], made / asked.num_workers) if asked.num_workers else spent["wall"]
            walls.append(hidden / min(images, _TIMED_IMAGES))
        seconds += sum(walls) / len(walls) * images * len(cells)
    return seconds / run.runtime.world_size


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
