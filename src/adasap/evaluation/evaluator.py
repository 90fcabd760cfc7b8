"""What an evaluation needs of a task: how a batch is prepared, and what collects its numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

Batch = TypeVar("Batch")
PreparedBatch = TypeVar("PreparedBatch", contravariant=True)


class Evaluator(Protocol[PreparedBatch]):
    """Collects one pass over a data set; a fresh one per pass."""

    def update(self, model: nn.Module, batch: PreparedBatch) -> None:
        """Adds a prepared batch; called in evaluation mode without gradients."""

    def compute(self) -> dict[str, float]:
        """The metrics over all batches, the task's primary one among them; a fraction in [0, 1]."""

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


class ScoringTask(Protocol[Batch]):
    """The part of a task that an evaluation calls."""

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """A raw batch on the device, as the model takes it."""

    def evaluator(self) -> Evaluator[Batch]:
        """A fresh evaluator."""


class BatchingTask(Protocol[Batch]):
    """The part of a task that makes the raw batches of an evaluation."""

    def collate(self, samples: Sequence[Any]) -> Batch:
        """A raw batch from items of a data set."""

    def corrupt(self, batch: Batch, corruption: str, severity: int, seeds: Tensor) -> Batch:
        """A raw batch under a corruption of its 8-bit images; `seeds` int64 [B]."""
