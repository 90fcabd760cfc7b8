"""Checkpoints: one safetensors file, tensors and JSON together, replaced atomically."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from adasap.errors import CheckpointError
from adasap.export import atomic_write

FORMAT = "adasap-checkpoint-1"


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> None:
    """Writes a checkpoint; a process killed on the way leaves the old one as it was.

    Raises:
        CheckpointError: If the disk is full or the folder cannot be written; the old checkpoint survives.
    """
    header = {"format": FORMAT, "state": json.dumps(metadata)}
    try:
        with atomic_write(path) as file:
            file.write(save({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, header))
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; the last checkpoint is still there: "
            "make room and run the same command again to go on from it"
        ) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a checkpoint.

    Raises:
        CheckpointError: If the file is not a whole checkpoint of this library.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(f"{path} is no checkpoint of this version; start in a new folder")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header["state"])  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; remove it to start anew") from error
