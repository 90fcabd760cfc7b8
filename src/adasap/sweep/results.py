"""What the cells of a sweep say: scores of each, means over seeds, paired differences; small enough to be committed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from adasap.robustness import Interval, holm, mean_over_seeds, paired_over_seeds
from adasap.sweep.cells import Cell
from adasap.sweep.file import Sweep
from adasap.sweep.running import FAILURE

SweepResults = dict[str, Any]
"""Ready for JSON; the keys are those that `read_results` fills."""

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Run -> seed -> suite -> score, a fraction."""

_DIGITS = 6


def read_results(sweep: Sweep, cells: Iterable[Cell], out: Path) -> SweepResults:
    """Everything that is there of a sweep.

    Returns:
        `runs` (run -> `cells`: seed -> scores by stage and suite, size, passes, seconds; and `means` over seeds),
        `comparisons`, `failed`, `not_run`, and what the sweep was.
    """
    cells = list(cells)
    found = {(cell.run, cell.seed): _cell_data(cell.folder(out)) for cell in cells if cell.is_finished(out)}
    wanted = [cell for cell in cells if not cell.is_dense]
    scores = {
        run: {seed: found[run, seed]["scores"] for seed in sweep.all_seeds if (run, seed) in found}
        for run in sweep.run_names()
    }
    return {
        "name": sweep.name,
        "title": sweep.title,
        "seeds": list(sweep.all_seeds),
        "primary": None if sweep.primary is None else vars(sweep.primary),
        "baselines": list(sweep.baselines),
        "environment": _environment(cells, out),
        "runs": {
            run: {"means": means(by_seed), "cells": {str(seed): found[run, seed] for seed in by_seed}}
            for run, by_seed in scores.items()
        },
        "comparisons": comparisons(sweep, scores),
        "failed": [failure for cell in cells for failure in _failure(cell, out)],
        "not_run": [[cell.run, cell.seed] for cell in wanted if (cell.run, cell.seed) not in found],
    }


def means(by_seed: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Suite -> mean over seeds with its interval; without `low` and `high` where there is one seed."""
    suites = next(iter(by_seed.values()), {})
    columns = {suite: [scores[suite] for scores in by_seed.values()] for suite in suites}
    return {suite: _ends(mean_over_seeds(v)) if len(v) > 1 else {"value": fmean(v)} for suite, v in columns.items()}


def comparisons(sweep: Sweep, scores: Scores) -> list[dict[str, Any]]:
    """Paired differences on every suite, over the seeds that both runs have finished, two or more.

    The primary one stands first, its p-value as it is; those of all others are corrected together (Holm).
    """
    rows = [row for pair in sweep.pairs() for row in _differences(*pair, scores)]
    primary = None if sweep.primary is None else (sweep.primary.run, sweep.primary.baseline, sweep.primary.suite)
    for row in rows:
        row["primary"] = (row["run"], row["baseline"], row["suite"]) == primary
    others = [row for row in rows if not row["primary"]]
    for row, corrected in zip(others, holm([row["p"] for row in others]), strict=True):
        row["p_corrected"] = corrected
    return [row for row in rows if row["primary"]] + others


def _differences(run: str, baseline: str, scores: Scores) -> list[dict[str, Any]]:
    mine, theirs = scores.get(run, {}), scores.get(baseline, {})
    seeds = [seed for seed in mine if seed in theirs]
    if len(seeds) < 2:
        return []
    suites = [suite for suite in mine[seeds[0]] if suite in theirs[seeds[0]]]
    rows = []
    for suite in suites:
        found = paired_over_seeds([mine[seed][suite] for seed in seeds], [theirs[seed][suite] for seed in seeds])
        ends = _ends(found.interval)
        rows.append({"run": run, "baseline": baseline, "suite": suite, "seeds": len(seeds), **ends, "p": found.p_value})
    return rows


def first_common_seed(results: SweepResults) -> int | None:
    """The first seed that every run has finished."""
    runs: Sequence[Mapping[str, Any]] = list(results["runs"].values())
    return next((s for s in results["seeds"] if all(str(s) in run["cells"] for run in runs)), None)


def _cell_data(folder: Path) -> dict[str, Any]:
    """What is kept of a finished run."""
    result = json.loads((folder / "result.json").read_text())
    stages = {
        stage: {suite: round(score, _DIGITS) for suite, score in scores.items()}
        for stage, scores in result["scores"].items()
    }
    dense, small = result["profiles"]["dense"], result["profiles"]["compressed"]
    return {
        "scores": stages["fine-tuned"],
        "stages": stages,
        "parameters": small["parameters"],
        "macs": small["macs"],
        "parameters_kept": round(small["parameters"] / dense["parameters"], _DIGITS),
        "macs_kept": round(small["macs"] / dense["macs"], _DIGITS),
        "passes": result["counters"]["passes"],
        "skipped": result["counters"]["skipped"],
        "training_seconds": round(result["counters"]["training_seconds"], 1),
        "cell": folder.name,
    }


def _failure(cell: Cell, out: Path) -> list[dict[str, Any]]:
    path = cell.folder(out) / FAILURE
    if not path.is_file() or cell.is_finished(out):
        return []
    return [
        {"run": cell.run, "seed": cell.seed, "error": json.loads(path.read_text())["error"], "cell": path.parent.name}
    ]


def _environment(cells: Iterable[Cell], out: Path) -> dict[str, Any]:
    """Versions and machine of the first finished cell."""
    for cell in cells:
        if cell.is_finished(out):
            found: dict[str, Any] = json.loads((cell.folder(out) / "environment.json").read_text())
            return found
    return {}


def _ends(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
