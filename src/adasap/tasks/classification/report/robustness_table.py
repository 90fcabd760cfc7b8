"""Clean and corrupted results of one or several models as tables."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from adasap.corruptions import BENCHMARK, NUM_SEVERITIES
from adasap.errors import ArgumentError
from adasap.evaluation import (
    CORRUPTION_GROUPS,
    AccuracyRatio,
    Cell,
    SuiteResult,
    cell_accuracies,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from adasap.evaluation.statistics import BaselineLine, Interval, bootstrap_mean, paired_difference
from adasap.report.table import Table

Models = Mapping[str, Mapping[str, SuiteResult]]
"""Model -> suite -> results; the first suite is the clean one, the first model the one to compare with."""

_RESAMPLES = 2000
_ABSENT = "-"


def robustness_tables(
    models: Models, *, imagenet_c: Collection[str] = (), baselines: Mapping[str, BaselineLine] | None = None
) -> dict[str, Table]:
    """Title -> table: accuracy by kind of corruption, ratios to clean and mCE, calibration and the worst class.

    Corruption suites count by the benchmark's 15 corruptions, or by all they hold where none of them is among the 15.

    Args:
        models: Model -> suite -> results, the same suites for each; the stages of a run have this form too.
        imagenet_c: Suites that are ImageNet-C at 224 x 224, for which AlexNet's errors and so mCE mean something.
        baselines: Suite -> line of plain models (`fit_baseline`), for effective robustness.

    Raises:
        ArgumentError: For no models, a model that lacks a suite, or corruptions that differ between models.

    Example:
        >>> clean = SuiteResult("clean", {Cell(): torch.ones(4)}, {Cell(): {"accuracy": 1.0}})
        >>> weak = Cell("fog", 1)
        >>> fog = SuiteResult("fog", {weak: torch.tensor([1.0, 0, 0, 1])}, {weak: {"accuracy": 0.5}})
        >>> print(robustness_tables({"dense": {"clean": clean, "fog": fog}})["Ratios to clean"])
        | model | suite | ratio (shifted / clean) |
        |---|---:|---:|
        | dense | fog | 0.500 (50.00 % / 100.00 %) |
    """
    clean, *others = _suites(models)
    corrupted = [suite for suite in others if _corruptions(models, suite)]
    tables = {f"Accuracy on {suite} (%)": accuracy_table(models, clean, suite) for suite in corrupted}
    if others:
        tables["Ratios to clean"] = ratio_table(models, clean, others, imagenet_c, baselines or {})
    return tables | {"Calibration and the worst class": calibration_table(models)}


def accuracy_table(models: Models, clean: str, suite: str) -> Table:
    """Clean, by group, over all corruptions, and the paired difference to the first model; 95 % intervals."""
    corruptions = _corruptions(models, suite)
    groups = {name: own for name, own in CORRUPTION_GROUPS.items() if set(own) <= set(corruptions)}
    first, *others = models
    baseline = _scores(models[first][suite], corruptions)
    rows = []
    for name, results in models.items():
        scores = [_scores(results[clean]), *(_scores(results[suite], own) for own in groups.values())]
        overall = _scores(results[suite], corruptions)
        row = [name, *(_percent(bootstrap_mean(score, resamples=_RESAMPLES)) for score in (*scores, overall))]
        if name in others:
            row.append(_percent(paired_difference(overall, baseline, resamples=_RESAMPLES), "+.2f"))
        rows.append(row if name in others or not others else [*row, _ABSENT])
    whole = f"mean of {len(corruptions)}" + (" of 15" if len(corruptions) < 15 and corruptions[0] in BENCHMARK else "")
    header = ["model", "clean", *groups, whole]
    return Table([*header, f"minus {first}"] if others else header, rows)


def ratio_table(
    models: Models,
    clean: str,
    suites: Sequence[str],
    imagenet_c: Collection[str],
    baselines: Mapping[str, BaselineLine],
) -> Table:
    """R_C, R_V2 and their like with both terms; mCE where asked for, AlexNet being 100 %; effective robustness."""
    rows = []
    for suite in suites:
        corruptions = _corruptions(models, suite)
        for name, results in models.items():
            shifted = _scores(results[suite], corruptions or None).mean().item()
            accuracy = _scores(results[clean]).mean().item()
            ratio = str(AccuracyRatio(shifted=shifted, clean=accuracy)) if accuracy else _ABSENT
            row = [name, suite, ratio]
            if imagenet_c:
                row += _alexnet_units(results[suite], accuracy) if suite in imagenet_c else (_ABSENT, _ABSENT)
            if baselines:
                line = baselines.get(suite)
                row.append(f"{100 * line.effective_robustness(accuracy, shifted):+.2f}" if line else _ABSENT)
            rows.append(row)
    header = ["model", "suite", "ratio (shifted / clean)"]
    header += ["mCE (%)", "relative mCE (%)"] if imagenet_c else []
    return Table([*header, "effective robustness (points)"] if baselines else header, rows)


def calibration_table(models: Models) -> Table:
    """NLL, Brier score, ECE and the worst class's accuracy, each the mean over the suite's cells.

    The worst class is found cell by cell; its name stands beside it where it is the same in all.
    """
    rows = []
    for suite in _suites(models):
        corruptions = _corruptions(models, suite)
        for name, results in models.items():
            metrics = [results[suite].metrics.get(cell, {}) for cell in _cells(results[suite], corruptions or None)]
            row = [_mean(metrics, "loss", 4), _mean(metrics, "brier", 4), _mean(metrics, "ece", 2, 100)]
            worst = _mean(metrics, "worst_class_accuracy", 2, 100)
            names = {_worst_class(results[suite], cell) for cell in _cells(results[suite], corruptions or None)}
            if len(names) == 1 and (only := names.pop()):
                worst += f" ({only})"
            rows.append([name, suite, *row, worst])
    return Table(["model", "suite", "NLL (nats)", "Brier (0 to 2)", "ECE (%)", "worst class (%)"], rows)


def _worst_class(result: SuiteResult, cell: Cell) -> str:
    """Its name, or `class 3` in results that hold no names; empty in those that do not know it."""
    label = result.metrics.get(cell, {}).get("worst_class")
    return result.worst_class.get(cell, "" if label is None else f"class {label:.0f}")


def _alexnet_units(result: SuiteResult, clean_accuracy: float) -> tuple[str, str]:
    cells = cell_accuracies(result.metrics)
    if any(len(cells.get(name, ())) < NUM_SEVERITIES for name in BENCHMARK):
        return _ABSENT, _ABSENT
    errors = mean_corruption_error(cells), relative_mean_corruption_error(cells, clean_accuracy)
    return f"{100 * errors[0]:.2f}", f"{100 * errors[1]:.2f}"


def _suites(models: Models) -> list[str]:
    if not models:
        raise ArgumentError("no models to compare; give model -> suite -> results")
    suites = list(next(iter(models.values())))
    for name, results in models.items():
        if missing := [suite for suite in suites if suite not in results]:
            raise ArgumentError(
                f"{name} has no results on {', '.join(missing)}; evaluate it there or leave the suite out"
            )
    return suites


def _corruptions(models: Models, suite: str) -> tuple[str, ...]:
    """The corruptions that count, in the benchmark's order; none where the suite has no corruption cells."""
    first, *others = (results[suite].cells for results in models.values())
    if any(other.keys() != first.keys() for other in others):
        raise ArgumentError(f"the models were not evaluated on the same cells of {suite}; evaluate them alike")
    held = [cell.corruption for cell in first if not cell.is_clean]
    return tuple(name for name in BENCHMARK if name in held) or tuple(dict.fromkeys(held))


def _cells(result: SuiteResult, corruptions: Sequence[str] | None) -> list[Cell]:
    if corruptions is None:
        return list(result.cells)
    return [cell for cell in result.cells if cell.corruption in corruptions]


def _scores(result: SuiteResult, corruptions: Sequence[str] | None = None) -> Tensor:
    """Mean over the cells for each image, float64 [N]."""
    return torch.stack([result.cells[cell].double() for cell in _cells(result, corruptions)]).mean(dim=0)


def _percent(interval: Interval, spec: str = ".2f") -> str:
    return f"{100 * interval.value:{spec}} ({100 * interval.low:{spec}} to {100 * interval.high:{spec}})"


def _mean(cells: Sequence[Mapping[str, float]], key: str, digits: int, factor: float = 1.0) -> str:
    if not all(key in cell for cell in cells):  # results of a task, or of a version, without this metric
        return _ABSENT
    return f"{factor * math.fsum(cell[key] for cell in cells) / len(cells):.{digits}f}"
