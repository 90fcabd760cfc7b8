"""Runs a model over data, clean and corrupted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from adasap.groups import evaluating
from adasap.robustness.suites import Suite
from adasap.tasks import Task


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


def evaluate_suite(model: nn.Module, task: Task[Any], suite: Suite, device: torch.device) -> SuiteResult:
    """Scores the model on every cell of a suite, in evaluation mode and without gradients."""
    cells, metrics = {}, {}
    for cell, batches in suite.cells():
        metrics[cell], cells[cell] = evaluate(model, task, batches, device)
    return SuiteResult(suite.name, cells, metrics)


def evaluate(
    model: nn.Module, task: Task[Any], batches: Iterable[Any], device: torch.device
) -> tuple[dict[str, float], Tensor]:
    """Metrics over the batches, and the score of each image, float [N]."""
    evaluator = task.evaluator()
    with evaluating(model), torch.no_grad():
        for batch in batches:
            evaluator.update(model, task.prepare(batch, device))
    return evaluator.compute(), evaluator.per_image()


def _compact(scores: Tensor) -> str | list[float]:
    values = scores.tolist()
    return "".join(str(int(v)) for v in values) if set(values) <= {0.0, 1.0} else values


def _expand(scores: str | list[float]) -> Tensor:
    return torch.tensor([float(v) for v in scores])
