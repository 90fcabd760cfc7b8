"""What an evaluation of a classifier prints."""

from __future__ import annotations

from collections.abc import Mapping

from adasap.evaluation import Cell, SuiteResult, bootstrap_mean
from adasap.report.table import Table


def evaluation_table(results: Mapping[str, SuiteResult]) -> Table:
    """A row per data set or corruption, and the mean of each suite with its interval."""
    rows = []
    for name, result in results.items():
        for corruption, cells in result.by_corruption().items():
            rows.append([corruption or name, *_means({cell: result.metrics[cell] for cell in cells})])
        interval = bootstrap_mean(result.per_image(), resamples=2000)
        low, high = 100 * interval.low, 100 * interval.high
        rows.append([f"mean of {name} (95 %: {low:.2f} to {high:.2f})", f"{100 * interval.value:.2f}", "", ""])
    return Table(["", "accuracy (%)", "loss", "accuracy by severity"], rows)


def _means(cells: Mapping[Cell, Mapping[str, float]]) -> tuple[str, str, str]:
    accuracy = [metrics["accuracy"] for metrics in cells.values()]
    loss = [metrics["loss"] for metrics in cells.values()]
    corrupted = {cell.severity: metrics for cell, metrics in cells.items() if not cell.is_clean}
    each = ", ".join(f"{severity}: {100 * metrics['accuracy']:.1f}" for severity, metrics in corrupted.items())
    return f"{100 * sum(accuracy) / len(accuracy):.2f}", f"{sum(loss) / len(loss):.4f}", each
