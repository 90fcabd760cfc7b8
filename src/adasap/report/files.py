"""The page's numbers as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adasap.export import atomic_write
from adasap.report.comparison import Change, Comparison, extra_metrics
from adasap.report.run_data import RunData
from adasap.report.table import Table
from adasap.robustness import Interval

PAGE = "report.html"
"""Name of the page in its folder; `report.json` and `report.csv` lie beside it."""


def report_data(found: Comparison) -> dict[str, Any]:
    """Everything the page shows, ready for JSON; scores are fractions."""
    return {
        "runs": {run.name: _run_data(found, run) for run in found.runs},
        "trade_off": [dataclasses.asdict(point) for point in found.points],
    }


def _run_data(found: Comparison, run: RunData) -> dict[str, Any]:
    return {
        "changes": [dataclasses.asdict(change) for change in found.changes[run.name]],
        "gains_over": found.over[run.name],
        "gains": [dataclasses.asdict(gain) for gain in found.gains[run.name]],
        "cells": _cells(run),
        "metrics": [dict(zip(METRIC_KEYS, row, strict=True)) for row in extra_metrics(run)],
        "widths": [dataclasses.asdict(width) for width in run.widths],
        "pruning": run.of_kind("prune"),
        "counters": run.counters,
        "seconds": run.seconds,
        "command": run.command,
        "recipe": run.recipe,
        "environment": run.environment,
    }


METRIC_KEYS = ("suite", "metric", "dense", "compressed")


def _cells(run: RunData) -> dict[str, dict[str, dict[str, float]]]:
    return {
        suite: {
            cell: {"dense": run.scores("dense")[suite].cells[cell].mean().item(), "compressed": scores.mean().item()}
            for cell, scores in result.cells.items()
        }
        for suite, result in run.scores("compressed").items()
    }


CSV_HEADER = ("run", "quantity", "unit", "baseline", "baseline_value", "value", "difference", "low", "high")


def csv_text(found: Comparison) -> str:
    """One line per run and quantity: changes, gains per corruption, cells, further metrics; scores are fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for run in found.runs:
        for change in found.changes[run.name]:
            numbers = [change.before.value, change.after.value, *_ends(change.difference)]
            writer.writerow([run.name, change.quantity, change.unit, "dense", *numbers])
        for gain in found.gains[run.name]:
            numbers = [gain.baseline, gain.score, *_ends(gain.difference)]
            writer.writerow([run.name, gain.corruption, "%", found.over[run.name], *numbers])
        for suite, cells in _cells(run).items():
            for cell, means in cells.items():
                numbers = [means["dense"], means["compressed"], *_ends(None)]
                writer.writerow([run.name, f"{suite}: {cell}", "%", "dense", *numbers])
        for suite, metric, before, after in extra_metrics(run):
            writer.writerow([run.name, f"{suite}: {metric}", "", "dense", before, after, *_ends(None)])
    return text.getvalue()


def _ends(gap: Interval | None) -> tuple[float | str, ...]:
    return ("", "", "") if gap is None else (gap.value, gap.low, gap.high)


def comparison_table(found: Comparison) -> Table:
    """One row per run: every change, before and after."""
    columns = list(dict.fromkeys(change.quantity for row in found.changes.values() for change in row))
    rows = []
    for name, row in found.changes.items():
        texts = {change.quantity: change_text(change) for change in row}
        rows.append([name, *(texts.get(column, "") for column in columns)])
    return Table(["run", *columns], rows)


def change_table(changes: Sequence[Change]) -> Table:
    """One row per quantity of a run: before, after, and the difference with its interval."""
    rows = []
    for change in changes:
        before, after = change.before.value, change.after.value
        times = f"{after / before:.3f} x" if before else ""
        gap = times if change.difference is None else f"{points_text(change.difference)} points"
        rows.append([change.quantity, value_text(before, change.unit), value_text(after, change.unit), gap])
    return Table(["quantity", "dense", "compressed", "difference (95 %)"], rows)


def gain_table(found: Comparison) -> Table | None:
    """Gain per corruption of every run, in points with 95 % intervals; None without corruptions."""
    gaps = {name: {gain.corruption: gain.difference for gain in row} for name, row in found.gains.items()}
    corruptions = list(dict.fromkeys(name for row in gaps.values() for name in row))
    rows = [[c, *(points_text(row[c]) if c in row else "" for row in gaps.values())] for c in corruptions]
    return Table(["corruption", *(f"{name} over {found.over[name]}" for name in gaps)], rows) if rows else None


def write_summary(found: Comparison, folder: Path) -> None:
    """`summary.md` of a comparison."""
    gain = gain_table(found)
    parts = ["# Comparison", str(comparison_table(found))]
    if gain is not None:
        parts += ["## Gain per corruption, points", str(gain)]
    with atomic_write(folder / "summary.md") as file:
        file.write(("\n\n".join(parts) + "\n").encode())


def change_text(change: Change) -> str:
    """Before and after, as a cell of a table.

    Example:
        >>> change_text(Change("MACs", "", "size", Interval(2e6, 2e6, 2e6), Interval(1e6, 1e6, 1e6)))
        '2.00 M -> 1.00 M'
    """
    return f"{value_text(change.before.value, change.unit)} -> {value_text(change.after.value, change.unit)}"


def value_text(value: float, unit: str) -> str:
    """A number as people read it.

    Example:
        >>> value_text(0.912, "%"), value_text(1.234, "ms"), value_text(41_500_000, "")
        ('91.2 %', '1.23 ms', '41.5 M')
    """
    if unit == "%":
        return f"{100 * value:.1f} %"
    if unit:
        return f"{_three_digits(value)} {unit}"
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{_three_digits(value / size)} {letter}"
    return f"{value:.0f}"


def _three_digits(value: float) -> str:
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def points_text(gap: Interval) -> str:
    """A difference of fractions in percentage points with its interval.

    Example:
        >>> points_text(Interval(0.012, 0.001, 0.02))
        '+1.2 (+0.1 to +2.0)'
    """
    return f"{signed(gap.value)} ({signed(gap.low)} to {signed(gap.high)})"


def signed(fraction: float) -> str:
    """Points with a sign, the true minus for negative ones."""
    return f"{100 * fraction:+.1f}".replace("-", "\N{MINUS SIGN}")
