"""Where an evaluation is kept: what it belongs to, and each cell as it comes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.errors import DataError, HalfWrittenError
from adasap.evaluation.cells import Cell
from adasap.evaluation.results import CellResult, read_metrics
from adasap.evaluation.suites import Suite
from adasap.io import atomic_write, parse_json, read_json
from adasap.sealed import finite, read_sealed_tensors, write_sealed_tensors

Identity = Mapping[str, Any]
"""All that the numbers depend on, under names that a message can use; ready for JSON."""


class EvaluationFolder:
    """One evaluation's folder: `settings.json`, then `cells/SUITE/CELL.safetensors`, one file per cell.

    Every file is written whole or not at all and carries a digest, so that whatever a killed evaluation left is right.

    Args:
        path: The folder; made if it is missing.
        identity: What the numbers depend on.
        is_first: Of several processes that share a folder the first one checks, reads and writes `settings.json`; the
            others only write cells.
    Attributes:
        notes: Which cells were found half-written and are computed again, in sentences.
    Raises:
        DataError: If the folder holds an evaluation of something else.
    """

    def __init__(self, path: Path, identity: Identity, *, is_first: bool = True) -> None:
        self.path = path
        self.notes: list[str] = []
        settings = path / "settings.json"
        wanted = json.loads(json.dumps(identity))
        self._owner = hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()
        if not is_first:
            return
        if (there := _settings(settings)) is not None:
            _refuse_another(path, there, wanted)
        elif (path / "cells").is_dir():
            raise DataError(f"{path} holds cells but no whole settings.json; give another --out, or remove the folder")
        else:
            path.mkdir(parents=True, exist_ok=True)
            with atomic_write(settings) as file:
                file.write(json.dumps(wanted, indent=2).encode())

    def read(self, suite: str, cell: Cell) -> CellResult | None:
        """A cell that was kept, or None; a half-written one counts as not there.

        Raises:
            DataError: If its file was altered, is another cell's, or an earlier version wrote it.
        """
        path = self._file(suite, cell)
        remedy = f"remove it (or all of {self.path / 'cells'}), and it is computed again"
        if not path.is_file():
            return None
        try:
            texts, tensors = read_sealed_tensors(path, error=DataError, remedy=remedy)
        except HalfWrittenError:
            self.notes.append(f"{path} was empty or cut short; computed again")
            return None
        known = [texts.get(key) for key in ("suite", "cell", "of")]
        if known != [suite, str(cell), self._owner] or "scores" not in tensors:
            raise DataError(f"{path} is not cell {str(cell)!r} of suite {suite!r} of this evaluation; {remedy}")
        found = [parse_json(texts.get(key, "null"), where=str(path), error=DataError) for key in ("metrics", "timings")]
        metrics, timings = (read_metrics(values, str(path)) for values in found)
        return CellResult(metrics, tensors.pop("scores"), tensors, timings)

    def write(self, suite: str, cell: Cell, result: CellResult) -> None:
        """Keeps a cell."""
        path = self._file(suite, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        named = {"suite": suite, "cell": str(cell), "of": self._owner}
        numbers = {"metrics": json.dumps(finite(result.metrics)), "timings": json.dumps(result.timings)}
        write_sealed_tensors(path, {"scores": result.scores, **result.records}, {**named, **numbers})

    def _file(self, suite: str, cell: Cell) -> Path:
        name = str(cell) if cell.is_clean else f"{cell.corruption}-{cell.severity}"
        return self.path / "cells" / file_name(suite) / f"{file_name(name)}.safetensors"


def file_name(name: str) -> str:
    """The name as a file may have it, else its digest: a recipe may name a suite anything."""
    plain = re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII)
    return name if plain else hashlib.sha256(name.encode()).hexdigest()[:24]


def identity_of(model: nn.Module, task: object, suites: Iterable[Suite], **options: Any) -> dict[str, Any]:
    """What the numbers of an evaluation depend on.

    Args:
        model: By its weights and the text of its layers.
        task: By its `repr`.
        suites: By their cells, records, labels or boxes, and four images of each cell; where they lie does not matter.
        options: Anything else, ready for JSON.
    """
    return {"model": digest_of_model(model), "task": repr(task), **suites_identity(suites), **options}


def digest_of_model(model: nn.Module) -> str:
    """SHA-256 of the text of the layers and of all parameters and buffers by name."""
    state = model.state_dict()
    return digest([repr(model), *state], state.values())


def suites_identity(suites: Iterable[Suite]) -> dict[str, Any]:
    """The part of `identity_of` that suites have in it; it reads a few images of each."""
    return {
        f"suite {suite.name}": {**suite.record, "content": digest(map(str, suite.cells), suite.content())}
        for suite in suites
    }


def digest(texts: Iterable[str], tensors: Iterable[Tensor]) -> str:
    """SHA-256 of texts and of the tensors' bytes, one after the other."""
    total = hashlib.sha256("\n".join(texts).encode())
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _settings(path: Path) -> dict[str, Any] | None:
    """What a folder is bound to; None where no whole file says it."""
    if not path.is_file() or not path.read_bytes().rstrip().endswith(b"}"):
        return None
    there = read_json(path, what="the settings of an evaluation", error=DataError)
    return there if isinstance(there, dict) else None


def _refuse_another(path: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = sorted(key for key in there.keys() | wanted.keys() if there.get(key) != wanted.get(key))
    if differing:
        raise DataError(
            f"{path} holds an evaluation with another {', '.join(differing)}; give another --out, or remove the folder"
        )
