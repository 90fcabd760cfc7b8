"""What a model did on one cell and on one suite, and how a file says it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from adasap.errors import ArgumentError, DataError
from adasap.evaluation.cells import Cell
from adasap.sealed import finite


@dataclass(frozen=True)
class CellResult:
    """What one model did on one cell.

    Attributes:
        metrics: The task's metrics, fractions.
        scores: One per image, float [N].
        records: What the task keeps of each image, by name, [N]; empty if it keeps nothing.
        timings: Seconds: `wall`, and of it `model`; `reading` and `corruptions` may lie in other processes beside it.
    """

    metrics: dict[str, float]
    scores: Tensor
    records: dict[str, Tensor] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteResult:
    """What one model did on one suite.

    Attributes:
        name: The suite.
        cells: Cell -> score of each image, float [N].
        metrics: Cell -> the task's metrics, fractions.
        worst_class: Cell -> name of the class with the lowest accuracy, where classes have names.
    Raises:
        ArgumentError: For cells given by name.

    Example:
        >>> result = SuiteResult("fog", {Cell("fog", 1): torch.tensor([1.0, 0.0]), Cell("fog", 2): torch.zeros(2)})
        >>> result.mean, result.by_corruption()
        (0.25, {'fog': [Cell(corruption='fog', severity=1), Cell(corruption='fog', severity=2)]})
    """

    name: str
    cells: dict[Cell, Tensor]
    metrics: dict[Cell, dict[str, float]] = field(default_factory=dict)
    worst_class: dict[Cell, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for cell in (*self.cells, *self.metrics, *self.worst_class):
            if not isinstance(cell, Cell):
                raise ArgumentError(f"a cell of suite {self.name!r} is {cell!r:.80}; give Cell.parse({cell!r:.80})")

    @classmethod
    def of_cells(cls, name: str, cells: Mapping[Cell, CellResult], classes: Sequence[str] = ()) -> SuiteResult:
        """The cells put together; `classes` are the labels' names."""
        metrics = {cell: result.metrics for cell, result in cells.items()}
        labels = {cell: int(found["worst_class"]) for cell, found in metrics.items() if "worst_class" in found}
        named = {str(label): name for label, name in enumerate(classes) if name != str(label)}
        worst = {cell: named[str(label)] for cell, label in labels.items() if str(label) in named}
        return cls(name, {cell: result.scores for cell, result in cells.items()}, metrics, worst)

    def by_corruption(self) -> dict[str, list[Cell]]:
        """Corruption, empty for images as they are, -> its cells, all in their order."""
        found: dict[str, list[Cell]] = {}
        for cell in self.cells:
            found.setdefault(cell.corruption, []).append(cell)
        return found

    def per_image(self) -> Tensor:
        """Mean over the cells for each image, float [N]: what a bootstrap over images resamples."""
        return torch.stack(list(self.cells.values())).mean(dim=0)

    @property
    def mean(self) -> float:
        """Mean score over images and cells."""
        return self.per_image().mean().item()

    def to_json(self) -> dict[str, Any]:
        """Metrics per cell, and each image's score as a string of digits where scores are 0 or 1.

        Cells go by their names. A metric that is not finite, such as the calibration error of outputs that are not, is
        None.
        """
        worst = {str(cell): name for cell, name in self.worst_class.items()}
        return {
            "mean": self.mean,
            "num_images": len(next(iter(self.cells.values()))),
            "cells": {str(cell): finite(found) for cell, found in self.metrics.items()},
            "scores": {str(cell): _compact(scores) for cell, scores in self.cells.items()},
            **({"worst_class": worst} if worst else {}),
        }

    @classmethod
    def from_json(cls, name: str, data: Any) -> SuiteResult:
        """The result back from its JSON.

        Raises:
            DataError: If it is not one.
        """
        where = f"the scores of suite {name[:40]!r}"
        scores, metrics = _by_cell(data, "scores", where), _by_cell(data, "cells", where)
        worst = _by_cell(data, "worst_class", where) if "worst_class" in data else {}
        cells = {cell: _expand(values, where) for cell, values in scores.items()}
        if not cells or len({len(values) for values in cells.values()}) > 1:
            raise DataError(f"{where} have no cells, or cells of different numbers of images")
        if (metrics.keys() | worst.keys()) - cells.keys() or not all(isinstance(text, str) for text in worst.values()):
            raise DataError(f"{where} have metrics or worst classes of cells without scores")
        return cls(name, cells, {cell: read_metrics(found, where) for cell, found in metrics.items()}, worst)


def read_metrics(found: Any, where: str) -> dict[str, float]:
    """A cell's metrics back from JSON, NaN where they are None.

    Raises:
        DataError: If they are not numbers by name.
    """
    if not isinstance(found, dict) or not all(value is None or _is_number(value) for value in found.values()):
        raise DataError(f"{where} hold {str(found)[:40]!r} instead of a cell's metrics")
    return {metric: math.nan if value is None else float(value) for metric, value in found.items()}


def _by_cell(data: Any, key: str, where: str) -> dict[Cell, Any]:
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise DataError(f"{where} have no object {key!r}")
    try:
        return {Cell.parse(name): value for name, value in found.items()}
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def _compact(scores: Tensor) -> str | list[float]:
    values = scores.tolist()
    return "".join(str(int(v)) for v in values) if set(values) <= {0.0, 1.0} else values


def _expand(scores: Any, where: str) -> Tensor:
    if isinstance(scores, str) and scores and not scores.strip("01"):
        return torch.tensor([float(digit) for digit in scores])
    if isinstance(scores, list) and scores and all(map(_is_number, scores)):
        return torch.tensor([float(score) for score in scores])
    raise DataError(f"{where} hold {str(scores)[:20]!r} instead of a number for each image, or digits 0 and 1")


def _is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that a score or metric can be."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e38
