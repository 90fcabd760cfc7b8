"""Checkpoints: one safetensors file, tensors and JSON together, replaced atomically, with a digest of all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from adasap.errors import CheckpointError
from adasap.io import parse_json
from adasap.sealed import finite, read_sealed_tensors, write_sealed_tensors

FORMAT = "adasap-checkpoint-2"
"""Version 1 had no digest; what it holds cannot be checked, so no run goes on from it."""


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes a checkpoint; a process killed on the way leaves the old one as it was.

    Raises:
        CheckpointError: If the disk is full or the folder cannot be written; the old checkpoint survives.
    """
    try:
        write_sealed_tensors(path, tensors, {"format": FORMAT, "state": json.dumps(finite(metadata))})
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; the last checkpoint is still there: "
            "make room and run the same command again to go on from it"
        ) from error


def read_checkpoint(path: Path, *, remedy: str = "remove it to start anew") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a checkpoint.

    Args:
        path: The file.
        remedy: The next move, for messages.
    Raises:
        CheckpointError: If the file was altered, is of another version or not a checkpoint.
        HalfWrittenError: If it is empty or cut short.
    """
    texts, tensors = read_sealed_tensors(path, error=CheckpointError, remedy=remedy)
    if texts.get("format") != FORMAT or "state" not in texts:
        raise CheckpointError(f"{path} is not a checkpoint of this version; {remedy}")
    metadata = parse_json(texts["state"], where=f"the state in {path}", error=CheckpointError)
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} has a state that is not an object; {remedy}")
    return tensors, metadata
