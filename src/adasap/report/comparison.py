"""Runs side by side as numbers: before and after, gains with paired intervals, the line of the trade-off. No files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adasap.errors import DataError, suggestion
from adasap.evaluation import SuiteResult
from adasap.evaluation.statistics import Interval, bootstrap_mean
from adasap.metric import Metric
from adasap.report.format import gain_of
from adasap.report.run_data import Model, RunData, role_of

RESAMPLES = 2000
"""Bootstrap resamples of every interval here."""


@dataclass(frozen=True)
class Change:
    """One quantity before and after compression.

    Attributes:
        quantity: Such as `parameters` or a suite's name.
        unit: The metric's for scores, `%` for fractions; `ms` for latency, whose ends are the median and the 95th
            percentile; empty for counts.
        role: `size` and `latency` shall fall; `clean`, `corrupted` and `shifted` are scores.
        difference: After minus before, paired over images; None where nothing is resampled.
    """

    quantity: str
    unit: str
    role: str
    before: Interval
    after: Interval
    difference: Interval | None = None

    @property
    def is_score(self) -> bool:
        """Whether it is in the unit of the metric, and its direction."""
        return self.role in ("clean", "corrupted", "shifted")


@dataclass(frozen=True)
class Gain:
    """Score of a run minus its baseline's on one corruption, mean over severities, paired over images.

    Where the metric is better when it is lower, a negative difference is the gain (`adasap.report.format.gain_of`).
    """

    corruption: str
    score: float
    baseline: float
    difference: Interval


@dataclass(frozen=True)
class Point:
    """One model in the trade-off; `corrupted_line` is its clean score x the dense model's ratio."""

    name: str
    model: Model
    parameters: int
    macs: int
    latency_ms: float
    clean: Interval
    corrupted: Interval
    corrupted_line: float


@dataclass(frozen=True)
class Comparison:
    """All that the page and its files say of some runs, worked out once.

    Attributes:
        runs: In the order given.
        over: Run -> what its gains are measured from: a run's name, or `dense`, its own dense model.
        changes: Run -> before and after.
        gains: Run -> gain per corruption.
        points: The models of the trade-off.
        metric: What every score is.
    """

    runs: tuple[RunData, ...]
    over: dict[str, str]
    changes: dict[str, list[Change]]
    gains: dict[str, list[Gain]]
    points: list[Point]
    metric: Metric


def compare_runs(runs: Sequence[RunData], baseline: str = "dense") -> Comparison:
    """Runs side by side.

    Args:
        baseline: What gains are measured from: a run's name, or `dense`; that run itself is measured from dense.
    Raises:
        DataError: For a name that no run has, runs of different metrics, or scores that cannot be paired with the
            baseline's.
    """
    base = next((run for run in runs if run.name == baseline), None)
    if base is None and baseline != "dense":
        known = ["dense", *(run.name for run in runs)]
        raise DataError(f"--baseline {baseline!r} is none of the runs; {suggestion(baseline, known)}")
    metric = _one_metric(runs)
    bases = {run.name: None if run is base else base for run in runs}
    return Comparison(
        runs=tuple(runs),
        over={name: "dense" if other is None else other.name for name, other in bases.items()},
        changes={run.name: changes(run) for run in runs},
        gains={run.name: gains(run, bases[run.name]) for run in runs},
        points=points(runs),
        metric=metric,
    )


def _one_metric(runs: Sequence[RunData]) -> Metric:
    first, *others = runs
    for other in others:
        if other.task.metric != first.task.metric:
            raise DataError(
                f"{first.name} was scored by {first.task.metric.label} ({first.task.name}), {other.name} by "
                f"{other.task.metric.label} ({other.task.name}), which cannot be compared; give runs of one task"
            )
    return first.task.metric


def changes(run: RunData) -> list[Change]:
    """Size, MACs, latency and every suite, dense against compressed."""
    dense, small = run.profiles["dense"], run.profiles["compressed"]
    found = [
        Change("parameters", "", "size", _exact(dense.parameters), _exact(small.parameters)),
        Change("MACs", "", "size", _exact(dense.macs), _exact(small.macs)),
    ]
    for what, befores in dense.timed.items():
        for before, after in zip(befores, small.timed[what], strict=True):
            old_ms, new_ms = (Interval(t.p50_ms, t.p50_ms, t.p95_ms) for t in (before, after))
            found.append(Change(f"{what}, batch {before.batch_size}", "ms", "latency", old_ms, new_ms))
    for name, result in run.scores("compressed").items():
        old = run.scores("dense")[name]
        was, now = old.per_image(), result.per_image()
        ends = mean_of(was), mean_of(now)
        found.append(Change(name, run.task.metric.unit, role_of(result), *ends, difference_of(now, was)))
    return found


def gains(run: RunData, baseline: RunData | None = None) -> list[Gain]:
    """Gain per corruption over another run's compressed model, or over the run's own dense one, the largest first.

    Raises:
        DataError: If the two were not scored on the same number of images.
    """
    suite = run.first_suite("corrupted")
    others = run.scores("dense") if baseline is None else baseline.scores("compressed")
    if suite is None or suite not in others:
        return []
    mine, theirs = run.scores("compressed")[suite], others[suite]
    found = []
    for corruption, cells in mine.by_corruption().items():
        common = [cell for cell in cells if cell in theirs.cells]
        if corruption and common:
            ours, base = (torch.stack([r.cells[c] for c in common]).mean(dim=0) for r in (mine, theirs))
            difference = difference_of(ours, base, where=f"{run.name} and {baseline.name if baseline else 'dense'}")
            found.append(Gain(corruption, ours.mean().item(), base.mean().item(), difference))
    return sorted(found, key=lambda gain: -gain_of(gain.difference, run.task.metric).value)


def points(runs: Sequence[RunData]) -> list[Point]:
    """The dense models, each once, then every run's compressed model; runs without corruptions are left out."""
    dense: list[Point] = []
    small: list[Point] = []
    for run in runs:
        suite = run.first_suite("corrupted")
        if suite is None:
            continue
        start = _point(run, "dense", suite)
        if not any(_same(start, other) for other in dense):
            dense.append(start)
        ratio = start.corrupted.value / start.clean.value if start.clean.value else 0.0
        point = _point(run, "compressed", suite)
        small.append(replace(point, corrupted_line=point.clean.value * ratio))
    if len(dense) == 1:
        dense = [replace(dense[0], name="dense")]
    return dense + small


def extra_metrics(run: RunData) -> list[tuple[str, str, float, float]]:
    """Suite, metric, its mean over the cells for dense and compressed: what is reported beside the score.

    The label of the worst class is no quantity and has no mean.
    """
    found = []
    for suite, after in run.scores("compressed").items():
        before = run.scores("dense")[suite]
        for metric in next(iter(after.metrics.values()), {}):
            values = [_mean_metric(result, metric) for result in (before, after)]
            beside = metric not in (run.task.metric.key, "worst_class") and ":" not in metric  # a colon: of one class
            if beside and values[0] is not None and values[1] is not None:
                found.append((suite, metric, values[0], values[1]))
    return found


def mean_of(scores: Tensor) -> Interval:
    """Mean with its interval over images."""
    return bootstrap_mean(scores, resamples=RESAMPLES)


def difference_of(scores: Tensor, baseline: Tensor, *, where: str = "the two models") -> Interval:
    """Mean difference with its paired interval over images.

    Raises:
        DataError: If there are not the same number of images.
    """
    if scores.shape != baseline.shape:
        raise DataError(
            f"{where} were scored on {len(scores)} and {len(baseline)} images, which cannot be paired; compare runs "
            "with the same test data, or give --baseline dense"
        )
    return bootstrap_mean(scores.double() - baseline.double(), resamples=RESAMPLES)


def _point(run: RunData, model: Model, suite: str) -> Point:
    profile, scores = run.profiles[model], run.scores(model)
    corrupted = mean_of(scores[suite].per_image())
    return Point(
        name=run.name if model == "compressed" else f"dense of {run.name}",
        model=model,
        parameters=profile.parameters,
        macs=profile.macs,
        latency_ms=profile.latency[0].p50_ms,
        clean=mean_of(scores["clean"].per_image()),
        corrupted=corrupted,
        corrupted_line=corrupted.value,
    )


def _same(dense: Point, other: Point) -> bool:
    """Whether two dense models are one: as many parameters, the same scores."""
    mine, theirs = ((p.model, p.parameters, p.clean.value, p.corrupted.value) for p in (dense, other))
    return mine == theirs


def _mean_metric(result: SuiteResult, metric: str) -> float | None:
    values = [cell[metric] for cell in result.metrics.values() if isinstance(cell.get(metric), int | float)]
    return sum(values) / len(values) if values and all(map(math.isfinite, values)) else None


def _exact(value: float) -> Interval:
    return Interval(value, value, value)
