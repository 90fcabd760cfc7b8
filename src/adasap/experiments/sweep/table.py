"""The results of a sweep in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

from adasap.evaluation.statistics import Interval
from adasap.experiments.sweep.results import SweepResults
from adasap.metric import Metric
from adasap.report import Table
from adasap.report.format import (
    MINUS,
    difference_number,
    difference_unit,
    score_interval,
    score_number,
    unit_bracket,
)


def sweep_text(results: SweepResults, *, level: int = 1) -> str:
    """Title, the primary comparison, means over seeds, paired differences, and what failed or was not run.

    Args:
        results: Of `read_results`, or read back from its JSON.
        level: Of the title.
    """
    marks, metric = "#" * level, metric_of(results)
    unit = difference_unit(metric)
    parts = [f"{marks} {results['name']}" + (f": {results['title']}" if results["title"] else "")]
    parts += [primary_line(results)] if results["primary"] else []
    parts += [f"{marks}# Means over seeds{unit_bracket(metric)}", *_metric_line(results), str(means_table(results))]
    if results["comparisons"]:
        parts += [
            f"{marks}# Paired differences" + (f" ({unit})" if unit else ""),
            str(differences_table(results)),
            _HOW,
        ]
    parts += [_failures(results)] if results["failed"] else []
    parts += [_not_run(results)] if results["not_run"] else []
    return "\n\n".join(parts) + "\n"


_HOW = (
    "In brackets 95 % intervals of Student's t over seeds, paired by seed; p is two-sided. The last column is\n"
    "corrected for the number of comparisons in this table (Holm), the primary one left out. All of it speaks of\n"
    "other seeds on the same test images."
)


def metric_of(results: SweepResults) -> Metric:
    """What the scores are; sweeps of earlier versions, which do not say it, have fractions."""
    return Metric(**results["metric"]) if results.get("metric") else Metric("score", "score")


def _metric_line(results: SweepResults) -> list[str]:
    if not results.get("metric"):
        return []
    metric = metric_of(results)
    return [f"Scores are {metric.label}{'' if metric.higher_is_better else '; lower is better'}."]


def primary_line(results: SweepResults) -> str:
    """The comparison that was named beforehand, in one sentence."""
    named, metric = results["primary"], metric_of(results)
    what = f"**Primary, named before it was run: {named['run']} minus {named['baseline']} on {named['suite']}**"
    row = next((row for row in results["comparisons"] if row["primary"]), None)
    if row is None:
        return f"{what}: not run yet on two seeds."
    if row["p"] >= 0.05:
        verdict = "no difference that these seeds show"
    else:
        ahead = (row["value"] > 0) == metric.higher_is_better
        verdict = f"{row['run'] if ahead else row['baseline']} is ahead"
    p = f"p = {_p(row['p'])}".replace("= <", "<")
    return f"{what}: {_difference(row, metric)}, {p}, {row['seeds']} seeds: {verdict}."


def means_table(results: SweepResults) -> Table:
    """A row for each run: seeds, what is kept, passes, and the mean on every suite."""
    metric = metric_of(results)
    suites = list(dict.fromkeys(suite for run in results["runs"].values() for suite in run["means"]))
    rows = []
    for name, run in results["runs"].items():
        cells = list(run["cells"].values())
        if not cells:
            continue
        sizes = [f"{fmean(cell[key] for cell in cells):.3f}" for key in ("parameters_kept", "macs_kept")]
        passes = f"{fmean(cell['passes'] for cell in cells):.0f}"
        rows.append(
            [name, str(len(cells)), *sizes, passes, *(_mean(run["means"].get(suite), metric) for suite in suites)]
        )
    return Table(["run", "seeds", "parameters kept", "MACs kept", "passes", *suites], rows)


def differences_table(results: SweepResults) -> Table:
    """A row for each comparison, the primary one first."""
    rows, metric = [], metric_of(results)
    for row in results["comparisons"]:
        what = f"{row['run']} {MINUS} {row['baseline']}"
        corrected = "primary" if row["primary"] else _p(row["p_corrected"])
        rows.append(
            [
                what,
                row["suite"],
                str(row["seeds"]),
                difference_number(_interval(row), metric, 2),
                _p(row["p"]),
                corrected,
            ]
        )
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


def _mean(mean: Mapping[str, float] | None, metric: Metric) -> str:
    if mean is None:
        return ""
    with_ends = mean.get("low") is not None
    return score_interval(_interval(mean), metric, 2) if with_ends else score_number(mean["value"], metric, 2)


def _difference(row: Mapping[str, Any], metric: Metric) -> str:
    return f"{difference_number(_interval(row), metric, 2)} {difference_unit(metric)}".rstrip()


def _interval(row: Mapping[str, float]) -> Interval:
    return Interval(row["value"], row["low"], row["high"])


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
