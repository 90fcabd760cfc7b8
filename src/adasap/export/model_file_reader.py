"""What a model file says about itself, read with suspicion: it may come from anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from adasap.errors import ModelFileError
from adasap.io import parse_json
from adasap.models.builders import check_options
from adasap.models.open import ModelSpec
from adasap.pruning.plan import PruningPlan
from adasap.sealed import digest

FORMAT = "adasap-model"
VERSION = "1"
CLASSES = "classes"
"""Under this name plain weights keep class names, a JSON list."""


@dataclass(frozen=True, eq=False)
class ModelFile:
    """The header of a model file.

    Attributes:
        spec: How to build the dense model.
        plan: Which channels were kept, or None for a dense model.
        groups: The dense model's groups as JSON text, or None.
        metadata: What the writer added, such as metrics.
        plain_weights: Whether `materialise_weights_` made the weights of the dense model plain before it was cut.
        sha256: Digest over everything in the file.
    """

    spec: ModelSpec
    plan: PruningPlan | None
    groups: str | None
    metadata: dict[str, Any]
    sha256: str
    plain_weights: bool = False


def read_header(path: str | Path) -> ModelFile:
    """What a model file says about itself; no model is built. The whole file is read to check its digest.

    Raises:
        ModelFileError: If the file is missing, truncated, altered or foreign.
    """
    return read_file(path)[0]


def kept_classes(path: str | Path | None) -> tuple[str, ...] | None:
    """The class names that a file of weights keeps, in the order of the model's outputs, or None if it keeps none.

    Model files and the weights of a sweep's dense models keep them; a detector's are those of the labels 1, 2, ...

    Raises:
        ModelFileError: If a model file is altered, or what it keeps as class names is something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            texts = file.metadata() or {}
    except (SafetensorError, OSError, ValueError):
        return None  # of another kind, or missing: whoever fills a model with it says so
    if texts.get("format") == FORMAT:
        classes = read_header(str(path)).metadata.get("classes")
    else:
        classes = parse_json(texts.get(CLASSES, "null"), where=f"{path}, {CLASSES}", error=ModelFileError)
    if classes is not None and not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ModelFileError(
            f"{path} keeps {str(classes)[:80]!r} as class names; wanted a list of texts; save it again"
        )
    return tuple(classes) if classes else None


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


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise ModelFileError(f"{path} does not exist; give a file that `adasap.save` wrote") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelFileError(
            f"{path} is not a readable .safetensors file ({error}); it is cut short, damaged or of another kind "
            f"(weights alone, such as a .pth file, are opened by the model's name and `weights`)"
        ) from error


def _header(texts: Mapping[str, str]) -> ModelFile:
    metadata = _parsed(texts.get("metadata", "{}"), "metadata")
    if not isinstance(metadata, dict) or ("plan" in texts) != ("groups" in texts):
        raise ModelFileError("its metadata is no mapping, or it has a plan without groups")
    plan = PruningPlan.from_json(texts["plan"]) if "plan" in texts else None
    spec, plain = _spec(_parsed(texts["spec"], "spec")), texts.get("plain_weights") == "true"
    return ModelFile(spec, plan, texts.get("groups"), metadata, texts["sha256"], plain)


def _spec(data: Any) -> ModelSpec:
    if not isinstance(data, dict) or set(data) != {"builder", "options", "input_size", "mean", "std"}:
        raise ModelFileError("its model description is incomplete or has unknown keys")
    if not isinstance(data["builder"], str) or not isinstance(data["options"], dict):
        raise ModelFileError("its builder is no text or its options are no mapping")
    check_options(data["builder"], data["options"])
    return ModelSpec(
        data["builder"],
        data["options"],
        _size(data["input_size"]),
        _per_channel(data["mean"]),
        _per_channel(data["std"]),
    )


def _size(data: Any) -> tuple[int, int, int] | None:
    if data is None:
        return None
    if not isinstance(data, list) or any(type(n) is not int for n in data):
        raise ModelFileError("its input size is not made of integers")
    channels, height, width = data
    return channels, height, width


def _parsed(text: str, name: str) -> Any:
    return parse_json(text, where=f"its {name}", error=ModelFileError)


def _per_channel(data: Any) -> tuple[float, ...]:
    return tuple(float(number) for number in data)
