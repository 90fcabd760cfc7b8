"""What a file of INT8 loses: scores, answers, size and time beside the float file, in the same runtime and run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adasap.data import PreparationTime
from adasap.errors import ExportError
from adasap.evaluation import Cell, CellResult, Loading, Suite, SuiteResult
from adasap.evaluation.runner import RestrictedOutputs
from adasap.evaluation.statistics import Interval, paired_difference
from adasap.profiling.profile import Latency, measure_latency
from adasap.profiling.timing import Setting
from adasap.report.format import score_number
from adasap.report.table import Shown, Table
from adasap.tasks import BaseTask, Metric
from adasap.tasks.task import first_images

if TYPE_CHECKING:
    from adasap.export.runtimes import InItsRuntime

FLOAT, INT8 = "float", "INT8"
LARGE_BATCH = 16


@dataclass(frozen=True, eq=False)
class Check:
    """What an INT8 file is compared by.

    Attributes:
        task: What good means, with the model's own preprocessing.
        suites: Clean and corrupted images; a clean-only check misses what is lost under corruption.
        loading: How batches are made.
    """

    task: BaseTask[Any]
    suites: Sequence[Suite]
    loading: Loading = field(default_factory=Loading)

    def __post_init__(self) -> None:
        if not self.suites:
            raise ExportError("an INT8 file is compared by suites; give at least the clean one")


@dataclass(frozen=True)
class SuiteLoss:
    """One suite by both files.

    Attributes:
        float_score: Score of the float file.
        int8_score: Score of the INT8 file.
        change: INT8 minus float, with a bootstrap interval paired by image.
        agreement: Share of answers that are the same: of images, pixels, or boxes before suppression.
        by_corruption: Corruption -> change of the score; of images as they are by the empty name.
        num_images: In each cell.
    """

    float_score: float
    int8_score: float
    change: Interval
    agreement: float
    by_corruption: Mapping[str, float]
    num_images: int


@dataclass(frozen=True, repr=False)
class Int8Report(Shown):
    """What an INT8 file loses and gains; it prints as tables.

    Attributes:
        metric: What scores are, and whether higher is better.
        suites: Suite -> scores of both.
        size_mb: Of the float file and of the INT8 file, MB (1e6 bytes).
        latency: For each batch size, of the float file and of the INT8 file, by turns in one run.
        settings: How the file was made, as it says itself.
        tolerance: The largest loss for which it is kept.
        suspicions: What may be behind a loss, and what to try next; filled where the tolerance is exceeded.
    """

    metric: Metric
    suites: Mapping[str, SuiteLoss]
    size_mb: tuple[float, float]
    latency: Sequence[tuple[Latency, Latency]]
    settings: Mapping[str, Any]
    tolerance: float
    suspicions: Sequence[str] = ()

    @property
    def worst(self) -> tuple[str, float]:
        """The suite that loses most, and what it loses, as a positive number; negative for a gain."""
        sign = 1 if self.metric.higher_is_better else -1
        losses = {name: -sign * loss.change.value for name, loss in self.suites.items()}
        name = max(losses, key=lambda one: losses[one])
        return name, losses[name]

    @property
    def is_tolerable(self) -> bool:
        """Whether no suite loses more than the tolerance."""
        return self.worst[1] <= self.tolerance

    def parts(self) -> Iterator[Table | str]:
        """Settings, scores, the kinds of corruption that lose most, size and time, suspicions."""
        yield ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in self.settings.items())
        rows = [[name, *self._row(loss)] for name, loss in self.suites.items()]
        unit = f" ({self.metric.unit})" if self.metric.unit else ""
        header = [
            "suite",
            f"{self.metric.label}, float{unit}",
            "INT8",
            "change, 95 % interval",
            "same answers",
            "images",
        ]
        yield Table(header, rows)
        if kinds := self._kinds():
            yield kinds
        yield Table(["", FLOAT, INT8, "ratio"], self._costs())
        yield from self.suspicions

    def _row(self, loss: SuiteLoss) -> list[str]:
        change = loss.change
        value, low, high = (signed(end, self.metric) for end in (change.value, change.low, change.high))
        scores = [score_number(score, self.metric, 2) for score in (loss.float_score, loss.int8_score)]
        return [*scores, f"{value} [{low}, {high}]", f"{100 * loss.agreement:.1f} %", f"{loss.num_images:,}"]

    def _kinds(self) -> str:
        """The three kinds of corruption that lose most."""
        sign = 1 if self.metric.higher_is_better else -1
        found = {kind: one for loss in self.suites.values() for kind, one in loss.by_corruption.items() if kind}
        worst = sorted(found, key=lambda kind: sign * found[kind])[:3]
        said = ", ".join(f"{kind} {signed(found[kind], self.metric)}" for kind in worst)
        return f"largest changes under {said}" if said else ""

    def _costs(self) -> list[list[str]]:
        size = self.size_mb
        rows = [["file, MB", f"{size[0]:.2f}", f"{size[1]:.2f}", f"{size[0] / size[1]:.2f}"]]
        for plain, int8 in self.latency:
            for name in ("p50", "p95"):
                both = [getattr(one, f"{name}_ms") for one in (plain, int8)]
                ratio = f"{both[0] / both[1]:.2f}"
                rows.append([f"batch {plain.batch_size}, ms, {name}", *(f"{ms:.2f}" for ms in both), ratio])
        return rows


class Int8LossError(ExportError):
    """An INT8 file lost more than its tolerance; `report` has the numbers."""

    def __init__(self, report: Int8Report) -> None:
        self.report = report
        (name, lost), metric = report.worst, report.metric
        losses = ", ".join(f"{one} {signed(loss.change.value, metric)}" for one, loss in report.suites.items())
        unit = metric.unit and f" {metric.unit}"
        super().__init__(
            f"INT8 changes the {metric.label} by {losses}: {name} loses {score_number(lost, metric, 2)}{unit}, and "
            f"{score_number(report.tolerance, metric, 2)}{unit} are tolerated; no file was kept. "
            + "; ".join(report.suspicions)
            + ". --force keeps it anyway, --tolerance says what may be lost"
        )


def checked_images(check: Check, count: int = 32) -> Tensor | None:
    """Some prepared images of the first suite, float [N, C, H, W]; None where they are of several sizes."""
    suite = check.suites[0]
    batches = suite.batches(suite.cells[0], torch.device("cpu"), check.loading, PreparationTime())
    for batch in batches:
        images = first_images(check.task.prepare(batch, torch.device("cpu")))
        return images[:count] if isinstance(images, Tensor) else None
    return None


def signed(value: float, metric: Metric) -> str:
    """A change with its sign, in the metric's unit.

    Example:
        >>> signed(-0.0123, Metric("accuracy", "accuracy"))
        '-1.23'
    """
    text = score_number(value, metric, 2)
    return text if text.startswith("-") else f"+{text}"


def compare_files(
    models: Mapping[str, InItsRuntime], check: Check, *, seconds: float, fixed_batch: int | None, example: Tensor
) -> tuple[dict[str, SuiteLoss], list[tuple[Latency, Latency]]]:
    """Scores the float file and the INT8 file on the same batches, and times them by turns.

    Args:
        models: `float` and `INT8`.
        check: Task and suites.
        seconds: Time for each batch size.
        fixed_batch: The only batch size the files take.
        example: A prepared image, float [1, C, H, W].
    """
    losses = {suite.name: score_suite(models, check, suite) for suite in check.suites}
    latency, setting = [], Setting(channels_last=False)
    with setting.applied():
        for size in (fixed_batch,) if fixed_batch else (1, LARGE_BATCH):
            found = measure_latency(models, setting.batch(example, size), seconds=seconds)
            latency.append((found[FLOAT], found[INT8]))
    return losses, latency


def score_suite(models: Mapping[str, InItsRuntime], check: Check, suite: Suite) -> SuiteLoss:
    """One suite by both files, batch by batch, so that each image is read and corrupted once."""
    found: dict[str, dict[Cell, CellResult]] = {name: {} for name in models}
    same = count = 0
    for cell in suite.cells:
        evaluators = {name: check.task.evaluator() for name in models}
        with torch.no_grad():
            for batch in suite.batches(cell, torch.device("cpu"), check.loading, PreparationTime()):
                prepared = check.task.prepare(batch, torch.device("cpu"))
                answers = []
                for name, model in models.items():
                    model.answers = []
                    evaluators[name].update(_answering(model, suite), prepared)
                    answers.append(torch.cat([part.flatten() for part in model.answers]))
                    model.answers = None
                same, count = same + int((answers[0] == answers[1]).sum()), count + len(answers[0])
        for name, evaluator in evaluators.items():
            found[name][cell] = CellResult(evaluator.compute(), evaluator.per_image())
    plain, int8 = (SuiteResult.of_cells(suite.name, found[name]) for name in (FLOAT, INT8))
    kinds = {
        kind: sum(float((int8.cells[cell] - plain.cells[cell]).mean()) for cell in cells) / len(cells)
        for kind, cells in plain.by_corruption().items()
    }
    change = paired_difference(int8.per_image(), plain.per_image(), resamples=2000)
    return SuiteLoss(plain.mean, int8.mean, change, same / max(1, count), kinds, len(int8.per_image()))


def _answering(model: nn.Module, suite: Suite) -> nn.Module:
    return model if suite.outputs is None else RestrictedOutputs(model, suite.outputs)
