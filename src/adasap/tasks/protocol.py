"""What a task is: a loss to train with and an evaluator that says how good a model is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")
PreparedBatch = TypeVar("PreparedBatch", contravariant=True)


class Evaluator(Protocol[PreparedBatch]):
    """Collects one pass over a data set; a fresh one per pass."""

    def update(self, model: nn.Module, batch: PreparedBatch) -> None:
        """Adds a prepared batch; called in evaluation mode without gradients."""

    def compute(self) -> dict[str, float]:
        """The metrics over all batches; `accuracy` or `map50` first, a fraction in [0, 1]."""

    def per_image(self) -> Tensor:
        """One score per image, float [N], in the order of the data: what a paired bootstrap resamples."""


@runtime_checkable
class MergeableEvaluator(Evaluator[PreparedBatch], Protocol[PreparedBatch]):
    """An evaluator whose pass can be shared over processes: `compute()` is `metrics_of(records())`.

    Each process evaluates its images; their records, joined so that every image is there once, give the metrics of the
    whole data set. `ClassificationEvaluator` is one.
    """

    def records(self) -> dict[str, Tensor]:
        """Name -> one number per image, [N] on the CPU, in the order of the images that this evaluator saw."""

    @staticmethod
    def metrics_of(records: Mapping[str, Tensor]) -> dict[str, float]:
        """The metrics, a pure function of the records."""


class Task(Protocol[Batch]):
    """A user's own task is a class with these three methods."""

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """Moves a raw batch to the device and does what both passes share; called once per step."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss over a prepared batch, a scalar with a graph."""

    def evaluator(self) -> Evaluator[Batch]:
        """A fresh evaluator."""
