"""The results of a sweep in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from adasap.report import Table
from adasap.sweep.results import SweepResults

_MINUS = "\N{MINUS SIGN}"


def sweep_text(results: SweepResults, *, level: int = 1) -> str:
    """Title, the primary comparison, means over seeds, paired differences, and what failed or was not run.

    Args:
        results: Of `read_results`, or read back from its JSON.
        level: Of the title.
    """
    marks = "#" * level
    parts = [f"{marks} {results['name']}" + (f": {results['title']}" if results["title"] else "")]
    parts += [primary_line(results)] if results["primary"] else []
    parts += [f"{marks}# Means over seeds (%)", str(means_table(results))]
    if results["comparisons"]:
        parts += [f"{marks}# Paired differences (points)", str(differences_table(results)), _HOW]
    parts += [_failures(results)] if results["failed"] else []
    parts += [_not_run(results)] if results["not_run"] else []
    return "\n\n".join(parts) + "\n"


_HOW = (
    "In brackets 95 % intervals of Student's t over seeds, paired by seed; p is two-sided. The last column is\n"
    "corrected for the number of comparisons in this table (Holm), the primary one left out. All of it speaks of\n"
    "other seeds on the same test images."
)


def primary_line(results: SweepResults) -> str:
    """The comparison that was named beforehand, in one sentence."""
    named = results["primary"]
    what = f"**Primary, named before it was run: {named['run']} minus {named['baseline']} on {named['suite']}**"
    row = next((row for row in results["comparisons"] if row["primary"]), None)
    if row is None:
        return f"{what}: not run yet on two seeds."
    if row["p"] >= 0.05:
        verdict = "no difference that these seeds show"
    else:
        verdict = f"{row['run'] if row['value'] > 0 else row['baseline']} is ahead"
    p = f"p = {_p(row['p'])}".replace("= <", "<")
    return f"{what}: {_points(row)} points, {p}, {row['seeds']} seeds: {verdict}."


def means_table(results: SweepResults) -> Table:
    """A row for each run: seeds, what is kept, passes, and the mean on every suite."""
    suites = list(dict.fromkeys(suite for run in results["runs"].values() for suite in run["means"]))
    rows = []
    for name, run in results["runs"].items():
        cells = list(run["cells"].values())
        if not cells:
            continue
        sizes = [f"{fmean(cell[key] for cell in cells):.3f}" for key in ("parameters_kept", "macs_kept")]
        passes = f"{fmean(cell['passes'] for cell in cells):.0f}"
        rows.append([name, str(len(cells)), *sizes, passes, *(_percent(run["means"].get(suite)) for suite in suites)])
    return Table(["run", "seeds", "parameters kept", "MACs kept", "passes", *suites], rows)


def differences_table(results: SweepResults) -> Table:
    """A row for each comparison, the primary one first."""
    rows = []
    for row in results["comparisons"]:
        what = f"{row['run']} {_MINUS} {row['baseline']}"
        corrected = "primary" if row["primary"] else _p(row["p_corrected"])
        rows.append([what, row["suite"], str(row["seeds"]), _points(row), _p(row["p"]), corrected])
    return Table(["comparison", "suite", "seeds", "difference", "p", "p corrected"], rows)


def _failures(results: SweepResults) -> str:
    lines = [f"- {row['run']}, seed {row['seed']}: {row['error']}" for row in results["failed"]]
    return "\n".join(["Failed, and left out above:", "", *lines])


def _not_run(results: SweepResults) -> str:
    by_run: dict[str, list[str]] = {}
    for run, seed in results["not_run"]:
        by_run.setdefault(run, []).append(str(seed))
    whole = len(results["seeds"])
    texts = [run if len(seeds) == whole else f"{run} (seeds {', '.join(seeds)})" for run, seeds in by_run.items()]
    return f"Not run: {'; '.join(texts)}."


def _percent(mean: Mapping[str, float] | None) -> str:
    if mean is None:
        return ""
    ends = f" ({100 * mean['low']:.2f} to {100 * mean['high']:.2f})" if "low" in mean else ""
    return f"{100 * mean['value']:.2f}{ends}"


def _points(row: Mapping[str, Any]) -> str:
    value, low, high = (f"{100 * row[key]:+.2f}".replace("-", _MINUS) for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
