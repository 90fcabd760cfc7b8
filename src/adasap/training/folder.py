"""Where a run is kept: records, checkpoint and stage results, written as they come."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adasap.errors import CheckpointError, DataError, HalfWrittenError
from adasap.evaluation import EvaluationFolder, SuiteResult
from adasap.evaluation.folder import Identity
from adasap.io import atomic_write
from adasap.report.records import Record, RecordFile
from adasap.sealed import parse_sealed_json, sealed_json
from adasap.training.checkpoint import read_checkpoint, write_checkpoint

Saved = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors and metadata of a checkpoint."""

_STAGE = "stage/"
_CELLS = "stage-cells"


class RunFolder:
    """The folder of one run; without a path it keeps nothing, and a run cannot resume.

    Every rank reads it when the run is opened; only the main one then writes. The checkpoint holds all that a run goes
    on from, the scores of its stages too; their files beside it are for people and must say the same.

    Attributes:
        saved: The checkpoint that was found, or None.
        stages: Stage -> suite -> scores that it holds, in the order of the run.
        notes: What was found half-written and how it is made good, in sentences.
    Raises:
        CheckpointError: If the checkpoint, the records or the scores of a stage were altered.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.saved: Saved | None = None
        self.stages: dict[str, dict[str, SuiteResult]] = {}
        self.notes: list[str] = []
        self._records: RecordFile | None = None
        self._kept: dict[str, bytes] = {}
        if path is not None and (path / "checkpoint.safetensors").is_file():
            self._read(path)

    def _read(self, path: Path) -> None:
        try:
            tensors, metadata = read_checkpoint(path / "checkpoint.safetensors")
        except HalfWrittenError:
            self.notes.append("checkpoint.safetensors is empty or cut short; the run begins anew")
            return
        self.saved = tensors, metadata
        names = metadata.get("stages", [])
        self._kept = {name: tensors[_STAGE + name].numpy().tobytes() for name in names}
        self.stages = {name: _scores(text, name) for name, text in self._kept.items()}
        for name, text in self._kept.items():
            file = self._stage_file(path, name)
            found = file.read_bytes() if file.is_file() else b""
            if found == text:
                continue
            if not text.startswith(found):
                raise CheckpointError(
                    f"{file} was altered or damaged: it does not say what the checkpoint says; remove it, and it is "
                    "written again"
                )
            self.notes.append(f"{file.name} was missing or cut short; written again from the checkpoint")

    @property
    def precision(self) -> object:
        """The precision that the checkpoint's run computes in, as written there; None without a checkpoint."""
        return None if self.saved is None else self.saved[1].get("identity", {}).get("precision")

    def open_for_writing(self) -> None:
        """Makes the folder, brings its records to where the checkpoint is, and mends the files of its stages.

        Raises:
            CheckpointError: If the records are not those of the checkpoint.
        """
        if self.path is None:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        known = None if self.saved is None else self.saved[1]["records"]
        self._records = RecordFile(self.path / "records.jsonl", known)
        for name, text in self._kept.items():
            self._write_stage(name, text)

    def observe(self, record: Record) -> None:
        """Keeps a record."""
        if self._records is not None:
            self._records(record)

    def write_stage(self, stage: str, results: Mapping[str, SuiteResult]) -> None:
        """Keeps the scores of a stage, in a file of their own and in every checkpoint from now on."""
        self._kept[stage] = sealed_json({name: result.to_json() for name, result in results.items()}).encode()
        if self.path is not None and self._records is not None:
            self._write_stage(stage, self._kept[stage])

    def open_cells(self, identity: Identity, *, is_first: bool) -> EvaluationFolder | None:
        """Where the cells of the stage under way are kept as they come; None if nothing is kept.

        They are bound to what their numbers depend on: those of other weights or options are removed, never read. The
        checkpoint that holds the scores of the stage ends them.

        Args:
            identity: As for `EvaluationFolder`.
            is_first: Whether this is the process that reads them.
        """
        if self.path is None:
            return None
        path = self.path / _CELLS
        try:
            return EvaluationFolder(path, identity, is_first=is_first)
        except DataError:
            shutil.rmtree(path)
            return EvaluationFolder(path, identity, is_first=is_first)

    def write_weights(self, stage: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Keeps the weights of a stage."""
        if self.path is not None and self._records is not None:
            write_checkpoint(self._stage_file(self.path, stage).with_suffix(".safetensors"), tensors, metadata)

    def write_checkpoint(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
        """Replaces the checkpoint."""
        if self.path is None or self._records is None:
            return
        scores = {_STAGE + name: _tensor(text) for name, text in self._kept.items()}
        known = {**metadata, "stages": list(self._kept), "records": self._records.mark()}
        write_checkpoint(self.path / "checkpoint.safetensors", {**tensors, **scores}, known)
        self._remove_cells()

    def close(self) -> None:
        """No more records."""
        if self._records is not None:
            self._records.close()
            self._remove_cells()

    def _remove_cells(self) -> None:
        if self.path is not None:
            shutil.rmtree(self.path / _CELLS, ignore_errors=True)

    def _write_stage(self, stage: str, text: bytes) -> None:
        if self.path is None:
            return
        file = self._stage_file(self.path, stage)
        if not file.is_file() or file.read_bytes() != text:
            with atomic_write(file) as target:
                target.write(text)

    @staticmethod
    def _stage_file(path: Path, stage: str) -> Path:
        return path / f"stage-{stage.replace(' ', '_')}.json"


def _tensor(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _scores(text: bytes, stage: str) -> dict[str, SuiteResult]:
    where = f"stage {stage!r} in the checkpoint"
    data = parse_sealed_json(text.decode(), where=where, error=CheckpointError, remedy="start in a new folder")
    try:
        return {name: SuiteResult.from_json(name, result) for name, result in data.items()}
    except DataError as error:
        raise CheckpointError(f"{where}: {error}; start in a new folder") from error
