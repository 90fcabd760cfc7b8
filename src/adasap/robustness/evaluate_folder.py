"""Where an evaluation is kept: what it belongs to, and each cell as it comes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from adasap.errors import DataError
from adasap.export.atomic import atomic_write
from adasap.robustness.detection import DetectionSuite
from adasap.robustness.evaluate import CellResult
from adasap.robustness.suites import ImageSuite

Identity = Mapping[str, Any]
"""All that the numbers depend on, under names that a message can use; ready for JSON."""


class EvaluationFolder:
    """One evaluation's folder: `settings.json`, then `cells/SUITE/CELL.safetensors`, one file per cell.

    Every file is written whole or not at all, so that whatever a killed evaluation left is right.

    Args:
        path: The folder; made if it is missing.
        identity: What the numbers depend on.
        writes: Whether this process writes `settings.json`; of several that share a folder one does.
    Raises:
        DataError: If the folder holds an evaluation of something else.
    """

    def __init__(self, path: Path, identity: Identity, *, writes: bool = True) -> None:
        self.path = path
        settings = path / "settings.json"
        wanted = json.loads(json.dumps(identity))
        if settings.is_file():
            _refuse_another(path, json.loads(settings.read_text()), wanted)
        elif (path / "cells").is_dir():
            raise DataError(f"{path} holds cells but no settings.json; give another --out, or remove the folder")
        elif writes:
            path.mkdir(parents=True, exist_ok=True)
            with atomic_write(settings) as file:
                file.write(json.dumps(wanted, indent=2).encode())

    def read(self, suite: str, cell: str) -> CellResult | None:
        """A cell that was kept, or None.

        Raises:
            DataError: If its file is damaged.
        """
        path = self._file(suite, cell)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                texts = file.metadata() or {}
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
            scores = tensors.pop("scores")
            return CellResult(json.loads(texts["metrics"]), scores, tensors, json.loads(texts["timings"]))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}); remove it, and it is computed again") from error

    def write(self, suite: str, cell: str, result: CellResult) -> None:
        """Keeps a cell."""
        path = self._file(suite, cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {"scores": result.scores, **result.records}
        texts = {"metrics": json.dumps(result.metrics), "timings": json.dumps(result.timings)}
        with atomic_write(path) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in tensors.items()}, texts))

    def _file(self, suite: str, cell: str) -> Path:
        return self.path / "cells" / suite / f"{cell.replace('/', '-')}.safetensors"


def identity_of(
    model: nn.Module, task: object, suites: Iterable[ImageSuite | DetectionSuite], **options: Any
) -> dict[str, Any]:
    """What the numbers of an evaluation depend on.

    Args:
        model: By its weights and the text of its layers.
        task: By its `repr`.
        suites: By their cells, records, labels or boxes, and four images of each cell; where they lie does not matter.
        options: Anything else, ready for JSON.
    """
    state = model.state_dict()
    return {
        "model": digest([repr(model), *(name for name in state)], state.values()),
        "task": repr(task),
        **{
            f"suite {suite.name}": {**suite.record, "content": digest(suite.cell_names(), suite.content())}
            for suite in suites
        },
        **options,
    }


def digest(texts: Iterable[str], tensors: Iterable[Tensor]) -> str:
    """SHA-256 of texts and of the tensors' bytes, one after the other."""
    total = hashlib.sha256("\n".join(texts).encode())
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _refuse_another(path: Path, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    differing = sorted(key for key in there.keys() | wanted.keys() if there.get(key) != wanted.get(key))
    if differing:
        raise DataError(
            f"{path} holds an evaluation with another {', '.join(differing)}; give another --out, or remove the folder"
        )
