"""What a model file says about itself, read with suspicion: it may come from anybody."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adasap.errors import ModelFileError
from adasap.models.builders import check_options
from adasap.models.open import ModelSpec
from adasap.pruning.plan import PruningPlan

FORMAT = "adasap-model"
VERSION = "1"


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The header of a model file.

    Attributes:
        spec: How to build the dense model.
        plan: Which channels were kept, or None for a dense model.
        groups: The dense model's groups as JSON text, or None.
        metadata: What the writer added, such as metrics.
        sha256: Digest over everything in the file.
    """

    spec: ModelSpec
    plan: PruningPlan | None
    groups: str | None
    metadata: dict[str, Any]
    sha256: str


def read_header(path: str | Path) -> ModelFile:
    """What a model file says about itself; no model is built. The whole file is read to check its digest.

    Raises:
        ModelFileError: If the file is missing, truncated, altered or foreign.
    """
    return read_file(path)[0]


def read_file(path: str | Path) -> tuple[ModelFile, dict[str, Tensor]]:
    """Header and tensors of a model file, checked against the digest.

    Raises:
        ModelFileError: If the file is missing, truncated, altered or foreign.
    """
    path = Path(path)
    texts, tensors = _read(path)
    if texts.get("format") != FORMAT:
        raise ModelFileError(
            f"{path} is not a model file of this package; give a file that `adasap.save` wrote, "
            f"or name plain weights as `weights` of a ModelSpec"
        )
    if texts.get("version") != VERSION:
        raise ModelFileError(
            f"{path} has format version {texts.get('version')!r:.20}, this package reads {VERSION!r}; update adasap"
        )
    if texts.get("sha256") != digest(texts, tensors):
        raise ModelFileError(f"{path} was altered or damaged: its digest does not match; fetch or write it again")
    try:
        return _header(texts), tensors
    except (ValueError, TypeError, KeyError, RuntimeError, OverflowError) as error:
        raise ModelFileError(f"{path} has a header that makes no sense ({error}); fetch or write it again") from error


def digest(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all texts but the digest itself, and over name, type, shape and bytes of every tensor."""
    names = sorted(tensors)
    layout = {
        "texts": {key: texts[key] for key in sorted(texts) if key != "sha256"},
        "tensors": [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names],
    }
    total = hashlib.sha256(json.dumps(layout).encode())
    for name in names:
        total.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist; give a file that `adasap.save` wrote") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(
            f"{path} is no readable .safetensors file ({error}); it is cut short, damaged or of another kind"
        ) from error


def _header(texts: Mapping[str, str]) -> ModelFile:
    metadata = json.loads(texts.get("metadata", "{}"))
    if not isinstance(metadata, dict) or ("plan" in texts) != ("groups" in texts):
        raise ModelFileError("its metadata is no mapping, or it has a plan without groups")
    plan = PruningPlan.from_json(texts["plan"]) if "plan" in texts else None
    return ModelFile(_spec(json.loads(texts["spec"])), plan, texts.get("groups"), metadata, texts["sha256"])


def _spec(data: Any) -> ModelSpec:
    if not isinstance(data, dict) or set(data) != {"builder", "options", "input_size", "mean", "std"}:
        raise ModelFileError("its model description is incomplete or has unknown keys")
    if not isinstance(data["builder"], str) or not isinstance(data["options"], dict):
        raise ModelFileError("its builder is no text or its options are no mapping")
    check_options(data["builder"], data["options"])
    if any(type(n) is not int for n in data["input_size"]):
        raise ModelFileError("its input size is not made of integers")
    channels, height, width = data["input_size"]
    return ModelSpec(
        data["builder"],
        data["options"],
        (channels, height, width),
        _triple(data["mean"]),
        _triple(data["std"]),
    )


def _triple(data: Any) -> tuple[float, float, float]:
    first, second, third = (float(number) for number in data)
    return first, second, third
