"""The page's numbers as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from adasap.evaluation.statistics import Interval
from adasap.io import atomic_write
from adasap.metric import Metric
from adasap.report.comparison import Change, Comparison, Gain, extra_metrics
from adasap.report.format import difference_number, difference_text, difference_unit, gain_of, score_text, value_text
from adasap.report.run_data import RunData, Width
from adasap.report.table import Table

PAGE = "report.html"
"""Name of the page in its folder; `report.json` and `report.csv` lie beside it."""


def report_data(found: Comparison) -> dict[str, Any]:
    """Everything the page shows, ready for JSON; scores in % are fractions."""
    return {
        "metric": dataclasses.asdict(found.metric),
        "runs": {run.name: _run_data(found, run) for run in found.runs},
        "trade_off": [dataclasses.asdict(point) for point in found.points],
    }


def _run_data(found: Comparison, run: RunData) -> dict[str, Any]:
    return {
        "changes": [dataclasses.asdict(change) for change in found.changes[run.name]],
        "not_comparable": {"with": found.reference, "suites": found.apart.get(run.name, {})},
        "gains_over": found.over[run.name],
        "gains": [dataclasses.asdict(gain) for gain in found.gains[run.name]],
        "cells": _cells(run),
        "metrics": [dict(zip(METRIC_KEYS, row, strict=True)) for row in extra_metrics(run)],
        "widths": [_width_data(width) for width in run.widths],
        "pruning": run.of_kind("prune"),
        "counters": run.counters,
        "seconds": run.seconds,
        "target": run.target,
        "command": run.command,
        "recipe": run.recipe,
        "environment": run.environment,
    }


def _width_data(width: Width) -> dict[str, Any]:
    """A group; what is not exact only where something is."""
    return {key: value for key, value in dataclasses.asdict(width).items() if key != "not_exact" or value}


NOT_COMPARABLE = "not comparable"
METRIC_KEYS = ("suite", "metric", "dense", "compressed")


def _cells(run: RunData) -> dict[str, dict[str, dict[str, float]]]:
    """Suite -> name of a cell -> mean score of each model."""
    dense = run.scores("dense")
    return {
        suite: {
            str(cell): {"dense": dense[suite].cells[cell].mean().item(), "compressed": scores.mean().item()}
            for cell, scores in result.cells.items()
        }
        for suite, result in run.scores("compressed").items()
    }


CSV_HEADER = ("run", "quantity", "unit", "baseline", "baseline_value", "value", "difference", "low", "high")


def csv_text(found: Comparison) -> str:
    """One line per run and quantity: changes, gains per corruption, cells, further metrics; % are fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for run in found.runs:
        for change in found.changes[run.name]:
            numbers = [change.before.value, change.after.value, *_ends(change.difference)]
            writer.writerow([run.name, change.quantity, change.unit, "dense", *numbers])
        for gain in found.gains[run.name]:
            numbers = [gain.baseline, gain.score, *_ends(gain.difference)]
            writer.writerow([run.name, gain.corruption, found.metric.unit, found.over[run.name], *numbers])
        for suite, cells in _cells(run).items():
            for cell, means in cells.items():
                numbers = [means["dense"], means["compressed"], *_ends(None)]
                writer.writerow([run.name, f"{suite}: {cell}", found.metric.unit, "dense", *numbers])
        for suite, metric, before, after in extra_metrics(run):
            writer.writerow([run.name, f"{suite}: {metric}", "", "dense", before, after, *_ends(None)])
    return text.getvalue()


def _ends(gap: Interval | None) -> tuple[float | str, ...]:
    return ("", "", "") if gap is None else (gap.value, gap.low, gap.high)


def comparison_table(found: Comparison) -> Table:
    """One row per run: every change, before and after; scores that are not comparable with the reference's say so."""
    columns = list(dict.fromkeys(change.quantity for row in found.changes.values() for change in row))
    rows = []
    for name, row in found.changes.items():
        texts = {change.quantity: change_text(change, found.metric) for change in row}
        texts |= {suite: f"{texts[suite]} ({NOT_COMPARABLE})" for suite in found.apart.get(name, {})}
        rows.append([name, *(texts.get(column, "") for column in columns)])
    return Table(["run", *columns], rows)


def change_table(changes: Sequence[Change], metric: Metric) -> Table:
    """One row per quantity of a run: before, after, and the difference with its interval."""
    rows = []
    for change in changes:
        before, after = change.before.value, change.after.value
        times = f"{after / before:.3f} x" if before else ""
        gap = times if change.difference is None else difference_text(change.difference, metric)
        rows.append([change.quantity, *(change_value(change, value, metric) for value in (before, after)), gap])
    return Table(["quantity", "dense", "compressed", "difference (95 %)"], rows)


class WithGains(Protocol):
    """A comparison of runs, or models side by side."""

    @property
    def gains(self) -> Mapping[str, Sequence[Gain]]: ...

    @property
    def over(self) -> Mapping[str, str]: ...

    @property
    def apart(self) -> Mapping[str, Mapping[str, str]]: ...

    @property
    def metric(self) -> Metric: ...


def gain_table(found: WithGains) -> Table | None:
    """Gain per corruption of every run, more being better, with 95 % intervals; None without corruptions."""
    gaps = {name: {g.corruption: gain_of(g.difference, found.metric) for g in row} for name, row in found.gains.items()}
    corruptions = list(dict.fromkeys(name for row in gaps.values() for name in row))
    texts = {name: {c: difference_number(gain, found.metric) for c, gain in row.items()} for name, row in gaps.items()}
    texts |= {
        name: dict.fromkeys(corruptions, NOT_COMPARABLE)
        for name, row in gaps.items()
        if not row and found.apart.get(name)
    }
    rows = [[corruption, *(row.get(corruption, "") for row in texts.values())] for corruption in corruptions]
    return Table(["corruption", *(f"{name} over {found.over[name]}" for name in gaps)], rows) if rows else None


def write_summary(found: Comparison, folder: Path) -> None:
    """`summary.md` of a comparison."""
    gain = gain_table(found)
    parts = ["# Comparison", str(comparison_table(found)), *(f"- {line}" for line in found.remarks)]
    if gain is not None:
        parts += [f"## Gain per corruption, {difference_unit(found.metric) or found.metric.label}", str(gain)]
    with atomic_write(folder / "summary.md") as file:
        file.write(("\n\n".join(parts) + "\n").encode())


def change_text(change: Change, metric: Metric) -> str:
    """Before and after, as a cell of a table.

    Example:
        >>> change = Change("MACs", "", "size", Interval(2e6, 2e6, 2e6), Interval(1e6, 1e6, 1e6))
        >>> change_text(change, Metric("iou", "IoU"))
        '2.00 M -> 1.00 M'
    """
    return " -> ".join(change_value(change, end.value, metric) for end in (change.before, change.after))


def change_value(change: Change, value: float, metric: Metric) -> str:
    """One of a change's values with its unit."""
    return score_text(value, metric) if change.is_score else value_text(value, change.unit)
