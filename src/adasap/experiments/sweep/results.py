"""What the cells of a sweep say: scores of each, means over seeds, paired differences; small enough to be committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from adasap.errors import DataError
from adasap.evaluation import SuiteResult
from adasap.evaluation.statistics import Interval, holm, mean_over_seeds, paired_over_seeds
from adasap.experiments.sweep.cells import Cell
from adasap.experiments.sweep.file import Sweep
from adasap.experiments.sweep.running import FAILURE
from adasap.experiments.sweep.taking_over import Taken
from adasap.io import read_json
from adasap.report.run_data import read_result
from adasap.report.schema import SuiteData
from adasap.report.task_record import task_of
from adasap.schema import Amount, Score, Size, checked

SweepResults = dict[str, Any]
"""Ready for JSON; the keys are those that `read_results` fills."""

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Run -> seed -> suite -> score."""

_DIGITS = 6


@dataclass(frozen=True)
class _SizesData:
    parameters: Size
    macs: Size


@dataclass(frozen=True)
class _ProfilesData:
    dense: _SizesData
    compressed: _SizesData


@dataclass(frozen=True)
class _CountersData:
    passes: Amount
    skipped: Amount
    training_seconds: Amount


@dataclass(frozen=True)
class _ResultData:
    """What is used of a cell's `result.json`."""

    scores: dict[str, dict[str, Score]]
    profiles: _ProfilesData
    counters: _CountersData
    stages: dict[str, dict[str, SuiteData]]
    seconds: Amount
    environment: dict[str, Any]


@dataclass(frozen=True)
class _FailureData:
    error: str


def read_results(
    sweep: Sweep, cells: Iterable[Cell], out: Path, taken: Taken | None = None, *, read: dict[str, Any] | None = None
) -> SweepResults:
    """Everything that is there of a sweep.

    Args:
        taken: Cells of a results file (`take_over`), which count as finished; those in `out` go before them.
        read: Kept from call to call, so that a result is read from `out` once.
    Returns:
        `runs` (run -> `cells`: seed -> scores by stage, suite and corruption, size, passes, seconds, number of the
        environment; and `means` over seeds), `comparisons`, `failed`, `not_run`, `recipes` (run -> every key), the
        `environments`, and what the sweep was; `metric` is the one that all scores are.
    Raises:
        DataError: If a result was altered, is not one, or was scored by another metric than the others.
    """
    cells, read = list(cells), {} if read is None else read
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    for cell in cells:
        key, name = (cell.run, cell.seed), cell.recipe.name
        if cell.is_finished(out):
            found[key] = read[name] = read[name] if name in read else _cell_data(cell.folder(out))
        elif taken and key in taken:
            found[key] = taken[key]
    _require_one_metric(found)
    wanted = [cell for cell in cells if not cell.is_dense]
    environments: list[Any] = []
    for cell in wanted:
        where = found.get((cell.run, cell.seed), {}).get("environment")
        if where is not None and where not in environments:
            environments.append(where)
    scores = {
        run: {seed: found[run, seed]["scores"] for seed in sweep.all_seeds if (run, seed) in found}
        for run in sweep.run_names()
    }
    return {
        "name": sweep.name,
        "title": sweep.title,
        "metric": next((data["metric"] for data in found.values()), None),
        "seeds": list(sweep.all_seeds),
        "primary": None if sweep.primary is None else vars(sweep.primary),
        "baselines": list(sweep.baselines),
        "environments": environments,
        "recipes": {cell.run: cell.resolved for cell in cells if cell.seed == sweep.all_seeds[0]},
        "runs": {
            run: {
                "means": means(by_seed),
                "cells": {str(seed): _without_metric(found[run, seed], environments) for seed in by_seed},
            }
            for run, by_seed in scores.items()
        },
        "comparisons": comparisons(sweep, scores),
        "failed": [failure for cell in cells if (cell.run, cell.seed) not in found for failure in _failure(cell, out)],
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


def first_common_seed(cells: Iterable[Cell], out: Path) -> int | None:
    """The first seed that every run has finished in the folder."""
    of_seed: dict[int, list[Cell]] = {}
    for cell in cells:
        of_seed.setdefault(cell.seed, []).append(cell)
    return next((seed for seed, some in of_seed.items() if all(cell.is_finished(out) for cell in some)), None)


def _cell_data(folder: Path) -> dict[str, Any]:
    """What is kept of a finished run.

    Raises:
        DataError: If its result was altered, or is not one.
    """
    path, remedy = folder / "result.json", "remove it, and the cell is finished again"
    result = read_result(path, remedy=remedy)
    checked(_ResultData, result, where=str(path))
    return {"metric": asdict(task_of(result, where=str(path)).metric), **_summary(result, folder.name)}


def _require_one_metric(found: Mapping[tuple[str, int], Mapping[str, Any]]) -> None:
    """Means and differences are of one metric."""
    by_label = {data["metric"]["label"]: f"{run}, seed {seed}" for (run, seed), data in found.items()}
    if len(by_label) > 1:
        named = "; ".join(f"{cell} by {label}" for label, cell in by_label.items())
        raise DataError(f"the cells of this sweep are scored by several metrics ({named}); make a sweep of each task")


def _without_metric(data: Mapping[str, Any], environments: Sequence[Any]) -> dict[str, Any]:
    """As it is written: the metric stands once for all, and the environment by its number."""
    kept = {key: value for key, value in data.items() if key != "metric"}
    return kept | {"environment": environments.index(data["environment"])}


def _summary(result: Mapping[str, Any], name: str) -> dict[str, Any]:
    stages = {
        stage: {suite: round(score, _DIGITS) for suite, score in scores.items()}
        for stage, scores in result["scores"].items()
    }
    suites = {suite: SuiteResult.from_json(suite, scored) for suite, scored in result["stages"]["fine-tuned"].items()}
    corruptions = {suite: _corruption_means(scored) for suite, scored in suites.items()}
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
        "cell": name,
        "corruptions": {suite: scores for suite, scores in corruptions.items() if scores},
        "seconds": round(result["seconds"], 1),
        "environment": result["environment"],
    }


def _corruption_means(result: SuiteResult) -> dict[str, float]:
    """Corruption -> score, mean over images and severities."""
    return {
        corruption: round(fmean(result.cells[cell].mean().item() for cell in cells), _DIGITS)
        for corruption, cells in result.by_corruption().items()
        if corruption
    }


def _failure(cell: Cell, out: Path) -> list[dict[str, Any]]:
    path = cell.folder(out) / FAILURE
    if not path.is_file() or cell.is_finished(out):
        return []
    try:
        content = read_json(path, what="the failure of a cell", error=DataError)
        text = checked(_FailureData, content, where=str(path)).error
    except DataError as error:
        text = f"it failed, and {error}"
    return [{"run": cell.run, "seed": cell.seed, "error": text, "cell": path.parent.name}]


def _ends(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
