"""Several models scored on the same images: what each did, and how far it is from the first. No files."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from adasap.evaluation import SuiteResult
from adasap.metric import Metric
from adasap.report.comparable import why_apart
from adasap.report.comparison import Change, Gain, apart_lines, gains_over, mean_of, score_change
from adasap.report.deployment import Deployment
from adasap.report.files import CSV_HEADER, NOT_COMPARABLE
from adasap.report.format import difference_number, difference_unit, score_interval, unit_bracket
from adasap.report.run_data import role_of
from adasap.report.table import Table


@dataclass(frozen=True)
class ScoredModel:
    """One of several models.

    Attributes:
        name: Unique among them.
        suites: Suite -> scores.
        records: Suite -> what is known of its images (`Suite.record`).
        about: What was opened and how images are prepared, in words: `input`, `mean`, `std`.
        deployment: Its size and time, where any of the models is an exported file.
    """

    name: str
    suites: Mapping[str, SuiteResult]
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    deployment: Deployment | None = None

    def first_corrupted(self) -> str | None:
        """Name of the first suite of corruptions."""
        return next((name for name, result in self.suites.items() if role_of(result) == "corrupted"), None)


@dataclass(frozen=True)
class SideBySide:
    """Several models worked out once for table, page and files.

    Attributes:
        models: The first is what the others are measured from.
        changes: Model -> each suite, the first model's score before and its own after.
        gains: Model -> gain per corruption of the first suite of corruptions.
        over: Model -> name of the first.
        apart: Model -> suite -> why its scores there are not comparable with the first's.
        metric: What every score is.
    """

    models: tuple[ScoredModel, ...]
    changes: dict[str, list[Change]]
    gains: dict[str, list[Gain]]
    over: dict[str, str]
    apart: dict[str, dict[str, str]]
    metric: Metric

    @property
    def first(self) -> ScoredModel:
        """What the others are measured from."""
        return self.models[0]

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for each model that is not comparable."""
        return tuple(apart_lines(self.apart, self.first.name))


def side_by_side(models: Sequence[ScoredModel], metric: Metric) -> SideBySide:
    """Models measured from the first, paired image by image where their images are the same.

    Args:
        models: With the same suites, in the same order.
        metric: What every score is.

    Example:
        >>> import torch
        >>> from adasap.evaluation import CLEAN
        >>> a, b = (ScoredModel(name, {"clean": SuiteResult("clean", {CLEAN: torch.tensor(scores)})})
        ...         for name, scores in {"a": [1.0, 1.0, 0.0], "b": [1.0, 0.0, 0.0]}.items())
        >>> found = side_by_side([a, b], Metric("iou", "IoU"))
        >>> round(found.changes["b"][0].difference.value, 2)
        -0.33
    """
    first, *others = models
    apart = {model.name: _apart(model, first) for model in models}
    suite = first.first_corrupted()
    return SideBySide(
        models=tuple(models),
        changes={
            model.name: [
                score_change(first.suites[name], result, metric, paired=name not in apart[model.name])
                for name, result in model.suites.items()
            ]
            for model in others
        },
        gains={
            model.name: gains_over(first.suites[suite], model.suites[suite], metric)
            if suite is not None and suite not in apart[model.name]
            else []
            for model in others
        },
        over={model.name: first.name for model in others},
        apart=apart,
        metric=metric,
    )


def _apart(model: ScoredModel, first: ScoredModel) -> dict[str, str]:
    """Suite -> why it is not comparable; suites that are, are left out."""
    found = {}
    for name, result in model.suites.items():
        records = [one.records.get(name, {}) for one in (model, first)]
        mine, theirs = (str(record.get("kind", "")) for record in records)
        ours, others = (str(record.get("outputs", "")) for record in records)
        reason = why_apart(result, first.suites[name], images=(mine, theirs), outputs=(ours, others))
        if reason:
            found[name] = reason
    return found


def scores_table(found: SideBySide) -> Table:
    """One row per model: each suite's score, and its difference to the first model's, both with 95 % intervals."""
    metric, suites = found.metric, list(found.first.suites)
    changes = {name: {change.quantity: change for change in row} for name, row in found.changes.items()}
    unit, points = unit_bracket(metric), difference_unit(metric)
    more = f"over {found.first.name}" + (f" ({points})" if points else "")
    rows = []
    for model in found.models:
        row = [model.name]
        for suite in suites:
            change = changes.get(model.name, {}).get(suite)
            row += [score_interval(mean_of(model.suites[suite].per_image()), metric), _difference(change, metric)]
        rows.append(row)
    return Table(["model", *(title for suite in suites for title in (f"{suite}{unit}", more))], rows)


def _difference(change: Change | None, metric: Metric) -> str:
    if change is None:
        return ""
    return NOT_COMPARABLE if change.difference is None else difference_number(change.difference, metric)


def side_by_side_data(found: SideBySide) -> dict[str, Any]:
    """Everything the page shows, ready for JSON; scores in % are fractions."""
    return {
        "metric": dataclasses.asdict(found.metric),
        "over": found.first.name,
        "models": {model.name: _model_data(found, model) for model in found.models},
    }


def _model_data(found: SideBySide, model: ScoredModel) -> dict[str, Any]:
    return {
        "about": dict(model.about),
        "deployment": None if model.deployment is None else dataclasses.asdict(model.deployment),
        "scores": {name: dataclasses.asdict(mean_of(one.per_image())) for name, one in model.suites.items()},
        "cells": {
            name: {str(cell): scores.mean().item() for cell, scores in one.cells.items()}
            for name, one in model.suites.items()
        },
        "changes": [dataclasses.asdict(change) for change in found.changes.get(model.name, [])],
        "gains": [dataclasses.asdict(gain) for gain in found.gains.get(model.name, [])],
        "not_comparable": {"with": found.first.name, "suites": found.apart[model.name]},
    }


def side_by_side_csv(found: SideBySide) -> str:
    """One line per model and quantity, in the columns of a comparison of runs; % are fractions."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for model in found.models:
        changes = {change.quantity: change for change in found.changes.get(model.name, [])}
        for suite, result in model.suites.items():
            change = changes.get(suite)
            gap = None if change is None else change.difference
            ends = ("", "", "") if gap is None else (gap.value, gap.low, gap.high)
            before = "" if change is None or gap is None else change.before.value
            writer.writerow([model.name, suite, found.metric.unit, found.first.name, before, result.mean, *ends])
        for gain in found.gains.get(model.name, []):
            gap = gain.difference
            numbers = [gain.baseline, gain.score, gap.value, gap.low, gap.high]
            writer.writerow([model.name, gain.corruption, found.metric.unit, found.first.name, *numbers])
    return text.getvalue()
