"""Runs side by side as numbers: before and after, gains with paired intervals, the line of the trade-off. No files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from adasap.errors import DataError, suggestion
from adasap.evaluation import SuiteResult
from adasap.evaluation.statistics import Interval, bootstrap_mean
from adasap.metric import Metric
from adasap.report.comparable import not_comparable, other_dense_model
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
        apart: Run -> suite -> why its scores there are not comparable with those of the reference; such scores have
            neither gains nor a point.
        reference: The run that the others stand beside: the baseline, else the first.
        remarks: What a reader must know: runs that are not comparable, and those of another dense model.
    """

    runs: tuple[RunData, ...]
    over: dict[str, str]
    changes: dict[str, list[Change]]
    gains: dict[str, list[Gain]]
    points: list[Point]
    metric: Metric
    apart: dict[str, dict[str, str]] = field(default_factory=dict)
    reference: str = ""
    remarks: tuple[str, ...] = ()


def compare_runs(runs: Sequence[RunData], baseline: str = "dense") -> Comparison:
    """Runs side by side.

    Args:
        baseline: What gains are measured from: a run's name, or `dense`; that run itself is measured from dense.
    Raises:
        DataError: For a name that no run has, or runs of different metrics, which one page cannot show.
    """
    base = next((run for run in runs if run.name == baseline), None)
    if base is None and baseline != "dense":
        known = ["dense", *(run.name for run in runs)]
        raise DataError(f"--baseline {baseline!r} is none of the runs; {suggestion(baseline, known)}")
    metric, reference = _one_metric(runs), base or runs[0]
    bases = {run.name: None if run is base else base for run in runs}
    apart = {run.name: not_comparable(run, reference) for run in runs}
    found = {run.name: gains(run, bases[run.name]) for run in runs if base is None or not _is_apart(run, apart)}
    return Comparison(
        runs=tuple(runs),
        over={name: "dense" if other is None else other.name for name, other in bases.items()},
        changes={run.name: changes(run) for run in runs},
        gains={run.name: found.get(run.name, []) for run in runs},
        points=points([run for run in runs if not apart[run.name].keys() & {"clean", run.first_suite("corrupted")}]),
        metric=metric,
        apart=apart,
        reference=reference.name,
        remarks=(*apart_lines(apart, reference.name), *filter(None, (other_dense_model(r, reference) for r in runs))),
    )


def _is_apart(run: RunData, apart: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether the corruptions that gains are of are not comparable."""
    return run.first_suite("corrupted") in apart[run.name]


def apart_lines(apart: Mapping[str, Mapping[str, str]], reference: str) -> list[str]:
    """A sentence for each model that is not comparable, and why; suites with one reason together.

    Example:
        >>> apart_lines({"a": {}, "b": {"clean": "60 test images instead of 100"}}, "a")
        ['b is not comparable with a on clean: 60 test images instead of 100']
    """
    lines = []
    for name, reasons in apart.items():
        for reason in dict.fromkeys(reasons.values()):
            suites = ", ".join(suite for suite, why in reasons.items() if why == reason)
            lines.append(f"{name} is not comparable with {reference} on {suites}: {reason}")
    return lines


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
    old, metric = run.scores("dense"), run.task.metric
    return found + [score_change(old[name], new, metric) for name, new in run.scores("compressed").items()]


def score_change(before: SuiteResult, after: SuiteResult, metric: Metric, *, paired: bool = True) -> Change:
    """A suite's score of two models; without a difference unless they were scored on the same images (`paired`)."""
    was, now = before.per_image(), after.per_image()
    difference = difference_of(now, was) if paired else None
    return Change(after.name, metric.unit, role_of(after), mean_of(was), mean_of(now), difference)


def gains(run: RunData, baseline: RunData | None = None) -> list[Gain]:
    """Gain per corruption over another run's compressed model, or over the run's own dense one, the largest first.

    Raises:
        DataError: If the two were not scored on the same number of images.
    """
    suite = run.first_suite("corrupted")
    others = run.scores("dense") if baseline is None else baseline.scores("compressed")
    if suite is None or suite not in others:
        return []
    where = f"{run.name} and {baseline.name if baseline else 'dense'}"
    return gains_over(others[suite], run.scores("compressed")[suite], run.task.metric, where=where)


def gains_over(theirs: SuiteResult, mine: SuiteResult, metric: Metric, *, where: str = "the two models") -> list[Gain]:
    """Gain per corruption of a suite over another model's scores (`theirs`), the largest first.

    Raises:
        DataError: If the two were not scored on the same number of images.
    """
    found = []
    for corruption, cells in mine.by_corruption().items():
        common = [cell for cell in cells if cell in theirs.cells]
        if corruption and common:
            ours, base = (torch.stack([r.cells[c] for c in common]).mean(dim=0) for r in (mine, theirs))
            difference = difference_of(ours, base, where=where)
            found.append(Gain(corruption, ours.mean().item(), base.mean().item(), difference))
    return sorted(found, key=lambda gain: -gain_of(gain.difference, metric).value)


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
