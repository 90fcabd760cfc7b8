"""What a detector finds on clean and corrupted images, as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch

from adasap.corruptions import BENCHMARK
from adasap.evaluation import SuiteResult, cell_accuracies
from adasap.evaluation.statistics import Interval, bootstrap_mean
from adasap.report.table import Table
from adasap.tasks.detection.corruption_metrics import (
    CLASS,
    CLASS_11POINT,
    COCO_CLASS,
    class_performance,
    performance,
    ratio_interval,
)

METRICS = {
    "map50": ("AP50", CLASS),
    "map50_11point": ("AP50, 11 points", CLASS_11POINT),
    "coco_ap": ("COCO AP", COCO_CLASS),
    "coco_ap50": ("COCO AP50", ""),
    "coco_ap75": ("COCO AP75", ""),
}
"""Metric -> its name in tables, and how the same metric by class begins."""

_RESAMPLES = 2000
_ABSENT = "-"

Suites = Mapping[str, SuiteResult]


def cell_table(results: Suites) -> Table:
    """A row per data set or corruption, mean over severities, and the mean of each suite with its interval (AP50)."""
    shown = [name for name in ("map50", "map50_11point", "coco_ap") if name in _first_cell(results)]
    rows = []
    for name, result in results.items():
        for corruption, cells in result.by_corruption().items():
            values = [[result.metrics[cell][metric] for cell in cells] for metric in shown]
            severities = ", ".join(
                f"{cell.severity}: {100 * value:.1f}" for cell, value in zip(cells, values[0], strict=True)
            )
            means = [f"{100 * math.fsum(of) / len(of):.2f}" for of in values]
            rows.append([corruption or name, *means, severities if corruption else ""])
        whole = bootstrap_mean(result.per_image(), resamples=_RESAMPLES)
        title = f"mean of {name} (95 %: {100 * whole.low:.2f} to {100 * whole.high:.2f})"
        rows.append([title, f"{100 * whole.value:.2f}", *[""] * len(shown)])
    return Table(["", *(f"{METRICS[name][0]} (%)" for name in shown), "AP50 by severity"], rows)


def detection_tables(models: Mapping[str, Suites]) -> dict[str, Table]:
    """Title -> table: P, mPC and both rPC of every metric, and AP50 by class.

    Args:
        models: Model -> suite -> results; the first suite is the clean one, with one cell.
    """
    clean, *others = next(iter(models.values()))
    tables = {}
    for suite in others:
        counted = counted_corruptions(next(iter(models.values()))[suite])
        if counted:
            tables[f"Performance under corruption: {suite}"] = performance_table(models, clean, suite, counted)
            tables[f"AP50 by class (%): {suite}"] = class_table(models, clean, suite, counted)
    return tables


def performance_table(models: Mapping[str, Suites], clean: str, suite: str, corruptions: Sequence[str]) -> Table:
    """P, mPC and rPC by both definitions; AP50 with 95 % intervals over images."""
    rows = []
    for model, results in models.items():
        before, after = results[clean], results[suite]
        for metric, (title, by_class) in METRICS.items():
            if metric not in _first_cell(results):
                continue
            found = performance(before, after, corruptions, metric=metric, by_class=by_class or "-")
            row = [f"{100 * found.clean:.2f}", f"{100 * found.corrupted:.2f}", f"{100 * found.ratio_of_means:.2f}"]
            if metric == "map50":
                mine = torch.stack([scores for cell, scores in after.cells.items() if cell.corruption in corruptions])
                scores = before.per_image(), mean_scores(mine)
                whole = *(bootstrap_mean(s, resamples=_RESAMPLES) for s in scores), ratio_interval(*scores)
                row = [f"{text}{_ends(interval)}" for text, interval in zip(row, whole, strict=True)]
            ratio = _ABSENT if found.mean_of_class_ratios is None else f"{100 * found.mean_of_class_ratios:.2f}"
            rows.append([f"{model}, {title}" if len(models) > 1 else title, *row, ratio])
    whole_suite = f"mPC, {len(corruptions)} corruptions (%)"
    return Table(["", "P (%)", whole_suite, "rPC, mPC / P (%)", "rPC, mean of the classes' ratios (%)"], rows)


def class_table(models: Mapping[str, Suites], clean: str, suite: str, corruptions: Sequence[str]) -> Table:
    """Per class clean, corrupted and their ratio, of each model."""
    found = {name: class_performance(r[clean], r[suite], corruptions) for name, r in models.items()}
    rows = []
    for kind in next(iter(found.values())):
        row = [kind]
        for of_model in found.values():
            before, after = of_model[kind]
            ratio = f"{100 * after / before:.1f}" if before else _ABSENT
            row += [f"{100 * before:.1f}", f"{100 * after:.1f}", ratio]
        rows.append(row)
    parts = ("clean", "corrupted", "ratio")
    return Table(["class", *(f"{name}, {p}" if len(models) > 1 else p for name in models for p in parts)], rows)


def counted_corruptions(result: SuiteResult) -> tuple[str, ...]:
    """The corruptions that mPC counts: the benchmark's 15, or all where none of them is there."""
    held = list(cell_accuracies(result.metrics, "map50"))
    return tuple(name for name in BENCHMARK if name in held) or tuple(held)


def mean_scores(cells: torch.Tensor) -> torch.Tensor:
    """Mean over cells for each image, float64 [N]."""
    return cells.double().mean(dim=0)


def _first_cell(results: Suites) -> Mapping[str, float]:
    return next(iter(next(iter(results.values())).metrics.values()))


def _ends(interval: Interval) -> str:
    return "" if math.isnan(interval.value) else f" ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
