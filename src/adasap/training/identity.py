"""What must not change between a run and its resumption."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.data import DetectionImages, ImageSet
from adasap.groups import ChannelGroup, fingerprint
from adasap.tasks import Task
from adasap.training.data import Data
from adasap.training.options import Compression


def identity(
    config: Compression, groups: Sequence[ChannelGroup], dense_model: nn.Module, task: Task[Any], data: Data
) -> dict[str, Any]:
    """All that a run's numbers depend on, under names that a message can use; ready for JSON.

    A task takes part by its `repr`, if its class defines one.
    """
    anywhere = replace(config.training.runtime, device="auto")
    training = replace(config.training, num_workers=0, checkpoint_every=1, max_skipped=1, runtime=anywhere)
    described = type(task).__repr__ is not object.__repr__
    return {
        "groups": fingerprint(groups),
        "weights": digest(dense_model.state_dict().values()),
        "seed": config.seed,
        "training": repr(training),
        "steps": repr((config.warm_up, config.pruning, config.pruning_sharpness, config.fine_tune)),
        "task": repr(task) if described else type(task).__qualname__,
        "augmentation": repr(data.augmentation),
        "labels": digest(_labels(data.train)),
        **_latency_table(config.pruning.budget.latency_table),
    }


def _labels(train: ImageSet | DetectionImages) -> list[Tensor]:
    return train.annotations.tensors() if isinstance(train, DetectionImages) else [train.labels]


def _latency_table(path: str | None) -> dict[str, str]:
    return {} if path is None else {"latency table": hashlib.sha256(Path(path).read_bytes()).hexdigest()}


def digest(tensors: Iterable[Tensor]) -> str:
    """SHA-256 of the tensors' bytes, one after the other."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()
