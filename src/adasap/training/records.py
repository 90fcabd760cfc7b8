"""What a run tells its observers, and the file in which all of it is kept."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from adasap.sharpness.rows import Kind


@dataclass(frozen=True)
class StepRecord:
    """One training step. `gap` is the perturbed loss minus the clean one: the one-step sharpness.

    `passes` is the cost in plain steps. A step without a first pass has no gap, and its loss is the perturbed one.
    """

    kind: ClassVar[str] = "step"
    step: int
    phase: str
    loss: float
    gap: float | None
    learning_rate: float
    gradient_norm: float
    finite: bool
    passes: float
    seconds: float
    radius_shares: Mapping[Kind, float] | None = None


@dataclass(frozen=True)
class PruneRecord:
    """One pruning event: costs in the budget's unit, and how far the cut model was from the masked one.

    At an event that only masks, `cost` is what the cut would leave, and `mask_error` that of the cut on a copy.
    `masked` counts the channels that are masked after the event, `returned` those that were and no longer are,
    without being removed.
    """

    kind: ClassVar[str] = "prune"
    step: int
    event: int
    events: int
    cost: float
    cost_limit: float
    unit: str
    removed: int
    mask_error: float
    seconds: float
    masked: int = 0
    returned: int = 0


@dataclass(frozen=True)
class CandidateRecord:
    """A candidate of a pruning event: its cost in the budget's unit, score and loss on held-out training batches.

    `best` says whether it is the best so far; the last one of an event that is was taken.
    """

    kind: ClassVar[str] = "candidate"
    step: int
    event: int
    events: int
    candidate: int
    candidates: int
    cost: float
    cost_limit: float
    unit: str
    score: float
    loss: float
    best: bool
    seconds: float


@dataclass(frozen=True)
class StageRecord:
    """An evaluation: suite name -> mean score, a fraction."""

    kind: ClassVar[str] = "stage"
    step: int
    stage: str
    scores: dict[str, float]
    seconds: float


@dataclass(frozen=True)
class PhaseRecord:
    """A phase begins; steps are counted over the whole run."""

    kind: ClassVar[str] = "phase"
    step: int
    phase: str
    stop: int
    num_steps: int


Record = StepRecord | PruneRecord | CandidateRecord | StageRecord | PhaseRecord
Observer = Callable[[Record], None]
"""Watches a run, cannot steer it."""


def ignore(record: Record) -> None:
    """The observer that looks away."""


def as_dict(record: Record) -> dict[str, Any]:
    """The record's fields with its kind first; numbers that are not finite, which JSON does not know, as None."""
    fields = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(record).items()}
    return {"kind": record.kind, **fields}


class RecordFile:
    """Records as JSON lines, written as they come; a resumed run cuts off what its checkpoint does not know."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab")

    def __call__(self, record: Record) -> None:
        self._file.write(json.dumps(as_dict(record)).encode() + b"\n")
        self._file.flush()

    @property
    def size(self) -> int:
        """Bytes written so far; kept in the checkpoint."""
        return self._file.tell()

    def truncate(self, size: int) -> None:
        """Drops everything after the checkpoint."""
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        self.close()  # of a run that failed
