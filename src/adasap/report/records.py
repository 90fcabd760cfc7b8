"""What a run tells its observers, and the file in which all of it is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from adasap.errors import AdasapError, CheckpointError
from adasap.io import parse_json, read_text
from adasap.sealed import finite
from adasap.sharpness.layout import Kind


@dataclass(frozen=True)
class StepRecord:
    """One training step. `gap` is the perturbed loss minus the clean one: the one-step sharpness.

    `passes` is the cost in plain steps. `linear_rise` is what the gap would be if the loss were linear, `radius_factor`
    what a `loss_budget` multiplied the radii with; None in a plain step, the factor also without a budget. A step
    without a first pass has no gap, and its loss is the perturbed one.
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
    linear_rise: float | None = None
    radius_factor: float | None = None


@dataclass(frozen=True)
class PruneRecord:
    """One pruning event: costs in the budget's unit, and how far the cut model was from the masked one.

    At an event that only masks, `cost` is what the cut would leave, and `mask_error` that of the cut on a copy.
    `masked` counts the channels that are masked after the event, `returned` those that were and no longer are,
    without being removed. `branches` counts the residual branches that were taken out whole. `layer_errors` are those
    of compensation, by layer in order of execution: what its removed inputs cost the layer before and after, relative
    to its outputs; `uncompensated` says why a layer has its old weights.
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
    layer_errors: Mapping[str, tuple[float, float]] | None = None
    uncompensated: Mapping[str, str] | None = None
    branches: int = 0


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
    """An evaluation: suite name -> mean score, a fraction; `precision` is that of the forward pass."""

    kind: ClassVar[str] = "stage"
    step: int
    stage: str
    scores: dict[str, float]
    seconds: float
    precision: str = "float32"


@dataclass(frozen=True)
class PhaseRecord:
    """A phase begins; steps are counted over the whole run."""

    kind: ClassVar[str] = "phase"
    step: int
    phase: str
    stop: int
    num_steps: int


@dataclass(frozen=True)
class CellRecord:
    """A cell of a suite is scored for the evaluation under way; told to observers, not kept: its score is the stage's.

    `number` counts the cells that this process has, of all `cells` of the stage.
    """

    kind: ClassVar[str] = "cell"
    step: int
    stage: str
    suite: str
    cell: str
    number: int
    cells: int


@dataclass(frozen=True)
class ResumeRecord:
    """A run goes on from its checkpoint; told to observers, not kept, since the records are those of one run.

    `finished` says that nothing is left to do. `notes` are sentences about what was found half-written.
    """

    kind: ClassVar[str] = "resume"
    step: int
    num_steps: int
    finished: bool
    notes: tuple[str, ...] = ()


Record = StepRecord | PruneRecord | CandidateRecord | StageRecord | PhaseRecord | CellRecord | ResumeRecord
Observer = Callable[[Record], None]
"""Watches a run, cannot steer it."""


def ignore(record: Record) -> None:
    """The observer that looks away."""


def as_dict(record: Record) -> dict[str, Any]:
    """The record's fields with its kind first; numbers that are not finite, which JSON does not know, as None."""
    return {"kind": record.kind, **finite(asdict(record))}


def read_records(path: Path, *, error: type[AdasapError]) -> list[dict[str, Any]]:
    """The records that a run has kept, in order; a last line that was cut short is left out.

    Args:
        path: `records.jsonl`.
        error: Raised for a line that is not a record; names it.
    """
    *lines, last = read_text(path, what="a run's records", error=error).split("\n")
    records = [_record(line, f"{path}, line {number}", error) for number, line in enumerate(lines, start=1)]
    try:
        return records + ([_record(last, str(path), error)] if last else [])
    except error:
        return records


def _record(line: str, where: str, error: type[AdasapError]) -> dict[str, Any]:
    record = parse_json(line, where=where, error=error)
    kind = KINDS.get(str(record.get("kind"))) if isinstance(record, dict) else None
    if kind is None:
        raise error(f"{where} is not a record of a run; its `kind` must be one of {', '.join(KINDS)}")
    wanted = [field for field in fields(kind) if field.default is MISSING or field.name in record]
    for field in wanted:
        if field.name not in record or not _fits(record[field.name], str(field.type)):
            found = repr(record.get(field.name))[:40]
            raise error(f"{where}: {field.name} of a {record['kind']} record must be {field.type}, not {found}")
    return dict(record)


def _fits(value: Any, annotation: str) -> bool:
    """Whether a value read from JSON can be a field; a number that was not finite was kept as null."""
    if annotation in ("float", "float | None"):
        return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    if annotation.startswith(("dict", "Mapping")):
        return isinstance(value, dict) or (value is None and annotation.endswith("None"))
    return type(value) is {"int": int, "bool": bool, "str": str}[annotation]


KINDS: Mapping[str, type[Any]] = {
    kind.kind: kind for kind in (StepRecord, PruneRecord, CandidateRecord, StageRecord, PhaseRecord)
}
"""What a file of records holds, by the `kind` of a line."""


class RecordFile:
    """Records as JSON lines, written as they come; a resumed run cuts off what its checkpoint does not know.

    Args:
        path: The file.
        known: `mark` when the checkpoint was written; None begins anew.
    Raises:
        CheckpointError: If the file does not begin with what the checkpoint knows.
    """

    def __init__(self, path: Path, known: Mapping[str, Any] | None = None) -> None:
        size = 0 if known is None else int(known["bytes"])
        self._file = path.open("a+b")
        self._file.seek(0)
        self._digest = hashlib.sha256(self._file.read(size))
        if known is not None and self.mark()["sha256"] != known["sha256"]:
            raise CheckpointError(
                f"{path} was altered or cut short: it is not what the checkpoint beside it knows; remove both to "
                "start anew"
            )
        self._file.truncate(size)
        self._file.seek(0, os.SEEK_END)

    def __call__(self, record: Record) -> None:
        line = json.dumps(as_dict(record)).encode() + b"\n"
        self._file.write(line)
        self._file.flush()
        self._digest.update(line)

    def mark(self) -> dict[str, Any]:
        """Number and SHA-256 of the bytes written so far; kept in the checkpoint."""
        return {"bytes": self._file.tell(), "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        self._file.close()

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self.close()  # of a run that failed
