"""Where a run is kept: records, checkpoint and stage results, written as they come."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adasap.export import atomic_write
from adasap.robustness import SuiteResult
from adasap.training.checkpoint import read_checkpoint, write_checkpoint
from adasap.training.records import Record, RecordFile

Saved = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and metadata of a checkpoint."""


class RunFolder:
    """The folder of one run; without a path it keeps nothing, and a run cannot resume.

    Every rank reads it when the run is opened; only the main one then writes.

    Attributes:
        saved: The checkpoint that was found, or None.
        stages: Stage -> suite -> scores that were found beside it.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.saved: Saved | None = None
        self.stages: dict[str, dict[str, SuiteResult]] = {}
        self._records: RecordFile | None = None
        if path is not None and (path / "checkpoint.safetensors").is_file():
            self.saved = read_checkpoint(path / "checkpoint.safetensors")
            self.stages = {_stage_of(file): _read_stage(file) for file in path.glob("stage-*.json")}

    def open_for_writing(self) -> None:
        """Makes the folder and brings its records to where the checkpoint is."""
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        self._records = RecordFile(self.path / "records.jsonl")
        self._records.truncate(0 if self.saved is None else int(self.saved[1]["records_bytes"]))

    def observe(self, record: Record) -> None:
        """Keeps a record."""
        if self._records is not None:
            self._records(record)

    def write_stage(self, stage: str, results: Mapping[str, SuiteResult]) -> None:
        """Keeps the scores of a stage."""
        if self.path is not None and self._records is not None:
            with atomic_write(self.path / f"stage-{stage.replace(' ', '_')}.json") as file:
                file.write(json.dumps({name: result.to_json() for name, result in results.items()}).encode())

    def write_weights(self, stage: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Keeps the weights of a stage."""
        if self.path is not None and self._records is not None:
            write_checkpoint(self.path / f"stage-{stage.replace(' ', '_')}.safetensors", tensors, metadata)

    def write_checkpoint(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Replaces the checkpoint."""
        if self.path is not None and self._records is not None:
            known = {**metadata, "records_bytes": self._records.size}
            write_checkpoint(self.path / "checkpoint.safetensors", tensors, known)

    def close(self) -> None:
        """No more records."""
        if self._records is not None:
            self._records.close()


def _stage_of(path: Path) -> str:
    return path.stem.removeprefix("stage-").replace("_", " ")


def _read_stage(path: Path) -> dict[str, SuiteResult]:
    data = json.loads(path.read_text())
    return {name: SuiteResult.from_json(name, result) for name, result in data.items()}
