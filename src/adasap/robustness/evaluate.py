"""Runs a model over one cell or one suite."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adasap.data import PreparationTime
from adasap.groups import evaluating
from adasap.robustness.suites import Loading, Suite
from adasap.tasks import MergeableEvaluator, Task
from adasap.tasks.classification import logits_of


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
        cells: Cell name (`clean`, or `corruption/severity`) -> score of each image, float [N].
        metrics: Cell name -> the task's metrics, fractions.
    """

    name: str
    cells: dict[str, Tensor]
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def of_cells(cls, name: str, cells: dict[str, CellResult]) -> SuiteResult:
        """The cells put together."""
        metrics = {cell: result.metrics for cell, result in cells.items()}
        return cls(name, {cell: result.scores for cell, result in cells.items()}, metrics)

    def per_image(self) -> Tensor:
        """Mean over the cells for each image, float [N]: what a bootstrap over images resamples."""
        return torch.stack(list(self.cells.values())).mean(dim=0)

    @property
    def mean(self) -> float:
        """Mean score over images and cells."""
        return self.per_image().mean().item()

    def to_json(self) -> dict[str, Any]:
        """Metrics per cell, and each image's score as a string of digits where scores are 0 or 1."""
        return {
            "mean": self.mean,
            "num_images": len(next(iter(self.cells.values()))),
            "cells": self.metrics,
            "scores": {cell: _compact(scores) for cell, scores in self.cells.items()},
        }

    @classmethod
    def from_json(cls, name: str, data: dict[str, Any]) -> SuiteResult:
        """The result back from its JSON."""
        return cls(name, {cell: _expand(scores) for cell, scores in data["scores"].items()}, data["cells"])


class RestrictedOutputs(nn.Module):
    """A model that answers with labels of which its outputs are kinds: a label's logit is the largest of its outputs.

    Args:
        model: Gives logits [B, K].
        outputs: Which label each output answers, int64 [K], -1 for none.

    Example:
        >>> model = RestrictedOutputs(nn.Identity(), torch.tensor([1, -1, 0, 1]))
        >>> model(torch.tensor([[3.0, 9.0, 2.0, 4.0]]))
        tensor([[2., 4.]])
    """

    def __init__(self, model: nn.Module, outputs: Tensor) -> None:
        super().__init__()
        self.model = model
        self.counting = (outputs >= 0).nonzero().squeeze(1)
        self.labels = outputs[self.counting]

    def forward(self, images: Tensor) -> Tensor:
        """Logits float [B, labels]."""
        logits = logits_of(self.model(images))[:, self.counting.to(images.device)]
        labels = self.labels.to(images.device).expand(len(logits), -1)
        lowest = logits.new_full((len(logits), int(self.labels.max()) + 1), -torch.inf)
        return lowest.scatter_reduce(1, labels, logits, "amax")


def evaluate_suite(
    model: nn.Module, task: Task[Any], suite: Suite, device: torch.device, loading: Loading | None = None
) -> SuiteResult:
    """Scores the model on every cell of a suite, in evaluation mode and without gradients."""
    cells = {cell: evaluate_cell(model, task, suite, cell, device, loading) for cell in suite.cell_names()}
    return SuiteResult.of_cells(suite.name, cells)


def evaluate_cell(
    model: nn.Module, task: Task[Any], suite: Suite, cell: str, device: torch.device, loading: Loading | None = None
) -> CellResult:
    """Scores the model on one cell of a suite, in evaluation mode and without gradients."""
    spent, began = PreparationTime(), time.perf_counter()
    batches = suite.batches(cell, device, loading or Loading(), spent)
    restricted = model if suite.outputs is None else RestrictedOutputs(model, suite.outputs)
    evaluator, in_model = _run(restricted, task, batches, device)
    records = evaluator.records() if isinstance(evaluator, MergeableEvaluator) else {}
    metrics, scores = evaluator.compute(), evaluator.per_image()
    wall = time.perf_counter() - began
    timings = {"wall": wall, "model": in_model, "reading": spent.reading, "corruptions": spent.transform}
    return CellResult(metrics, scores, records, timings)


def _run(model: nn.Module, task: Task[Any], batches: Iterable[Any], device: torch.device) -> tuple[Any, float]:
    """The evaluator after all batches, and the seconds spent in the model and the metrics."""
    evaluator, seconds = task.evaluator(), 0.0
    with evaluating(model), torch.no_grad():
        for batch in batches:
            began = time.perf_counter()
            evaluator.update(model, task.prepare(batch, device))
            seconds += time.perf_counter() - began
    return evaluator, seconds


def _compact(scores: Tensor) -> str | list[float]:
    values = scores.tolist()
    return "".join(str(int(v)) for v in values) if set(values) <= {0.0, 1.0} else values


def _expand(scores: str | list[float]) -> Tensor:
    return torch.tensor([float(v) for v in scores])
