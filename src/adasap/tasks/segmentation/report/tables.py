"""What a segmentation network does on clean and corrupted images, as tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from adasap.errors import ArgumentError
from adasap.evaluation import SuiteResult, cell_accuracies
from adasap.evaluation.statistics import bootstrap_mean
from adasap.report.table import Table
from adasap.tasks.segmentation.metrics import CLASS
from adasap.tasks.segmentation.suites import segmentation_performance

Suites = Mapping[str, SuiteResult]
METRICS = {"miou": "mIoU", "pixel_accuracy": "pixel accuracy", "boundary_f": "boundary F"}
"""Metric -> its name in tables."""
_ABSENT = "-"


def cell_table(results: Suites) -> Table:
    """A row per data set or corruption, mean over severities, and the mean of each suite with its interval (mIoU)."""
    rows = []
    for name, result in results.items():
        corrupted = {metric: cell_accuracies(result.metrics, metric) for metric in METRICS}
        for corruption in corrupted["miou"]:
            means = [_mean(corrupted[metric].get(corruption, {}).values()) for metric in METRICS]
            rows.append([corruption, *map(_percent, means)])
        plain = [found for cell, found in result.metrics.items() if cell.is_clean]
        rows += [[name, *(_percent(found.get(metric, math.nan)) for metric in METRICS)] for found in plain]
        whole = bootstrap_mean(result.per_image(), resamples=2000)
        title = f"mean of {name} (95 %: {100 * whole.low:.2f} to {100 * whole.high:.2f})"
        rows.append([title, f"{100 * whole.value:.2f}", *[""] * (len(METRICS) - 1)])
    return Table(["", *(f"{title} (%)" for title in METRICS.values())], rows)


def performance_table(models: Mapping[str, Suites], clean: str, suite: str) -> Table:
    """Each metric of each model: clean, mean over the suite's corruptions, and their ratio."""
    rows = []
    for model, results in models.items():
        (before,) = results[clean].metrics.values()
        for metric, title in METRICS.items():
            corruptions = list(cell_accuracies(results[suite].metrics, metric))
            try:
                found = segmentation_performance(before, results[suite].metrics, corruptions, metric=metric)
            except (ArgumentError, KeyError):  # a boundary that no image has, or a clean value of 0
                continue
            rows.append([model, title, _percent(found.clean), _percent(found.shifted), f"{found.value:.3f}"])
    return Table(["model", "metric", "clean (%)", "mean corrupted (%)", "ratio"], rows)


def class_shares(result: SuiteResult) -> dict[str, float]:
    """IoU of each class, the mean over the cells of a suite in which it occurs."""
    found: dict[str, list[float]] = {}
    for metrics in result.metrics.values():
        for metric, value in metrics.items():
            if metric.startswith(CLASS):
                found.setdefault(metric.removeprefix(CLASS), []).append(value)
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def class_table(before: SuiteResult, after: SuiteResult, names: tuple[str, str] = ("dense", "compressed")) -> Table:
    """IoU of each class of two models on a suite."""
    first, second = class_shares(before), class_shares(after)
    rows = []
    for name in dict.fromkeys([*first, *second]):
        values = first.get(name, math.nan), second.get(name, math.nan)
        rows.append([name, *map(_percent, values), f"{100 * (values[1] - values[0]):+.1f}"])
    return Table(["class", *(f"{name}, IoU (%)" for name in names), "difference (points)"], rows)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return math.fsum(numbers) / len(numbers) if numbers else math.nan


def _percent(value: float) -> str:
    return _ABSENT if math.isnan(value) else f"{100 * value:.2f}"
