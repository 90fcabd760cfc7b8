"""Files that carry a digest of themselves: what was altered is refused, what is half-written counts as not there."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adasap.errors import AdasapError, HalfWrittenError
from adasap.io import atomic_write, parse_json, read_text

if TYPE_CHECKING:
    from torch import Tensor

_ENDING = re.compile(r'"sha256": "[0-9a-f]{64}"\s*\}\s*$')


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The data, ready for JSON, with their SHA-256 as a last key; numbers that are not finite become None.

    Example:
        >>> sealed({"loss": float("nan")})
        {'loss': None, 'sha256': '...'}
    """
    plain = finite(data)
    return {**plain, "sha256": _sha256(plain)}


def unsealed(
    data: Any, *, where: str, error: type[AdasapError], remedy: str, needs_digest: bool = True
) -> dict[str, Any]:
    """What `sealed` was given.

    Args:
        data: Parsed JSON.
        where: The file or place, which begins every message.
        error: What is raised.
        remedy: The next move, such as `remove it, and it is computed again`.
        needs_digest: Whether data without a digest, as earlier versions wrote them, are refused.

    Example:
        >>> from adasap.errors import DataError
        >>> unsealed({**sealed({"step": 3}), "step": 4}, where="a.json", error=DataError, remedy="remove it")
        Traceback (most recent call last):
        adasap.errors.DataError: a.json was altered or damaged: its digest does not match; remove it
    """
    if not isinstance(data, Mapping):
        raise error(f"{where} holds {type(data).__name__} instead of an object; {remedy}")
    plain = {key: value for key, value in data.items() if key != "sha256"}
    if "sha256" not in data and needs_digest:
        raise error(f"{where} carries no digest: an earlier version wrote it, or it was altered; {remedy}")
    if "sha256" in data and data["sha256"] != _sha256(finite(plain)):
        raise error(f"{where} was altered or damaged: its digest does not match; {remedy}")
    return plain


def sealed_json(data: Mapping[str, Any], *, indent: int | None = None) -> str:
    """`sealed` as JSON, on one line unless indented."""
    return json.dumps(sealed(data), allow_nan=False, indent=indent) + "\n"


def write_sealed_json(path: Path, data: Mapping[str, Any], *, indent: int | None = None) -> None:
    """Writes `sealed_json`, whole or not at all."""
    with atomic_write(path) as file:
        file.write(sealed_json(data, indent=indent).encode())


def read_sealed_json(
    path: Path, *, what: str, error: type[AdasapError], remedy: str, needs_digest: bool = True
) -> dict[str, Any]:
    """What `write_sealed_json` was given.

    Args:
        path: The file.
        what: What it should be, for messages, such as `the scores of a stage`.
        error, remedy, needs_digest: As for `unsealed`.
    Raises:
        HalfWrittenError: If the file is empty or cut short.
    """
    text = read_text(path, what=what, error=error)
    return parse_sealed_json(text, where=str(path), error=error, remedy=remedy, needs_digest=needs_digest)


def parse_sealed_json(
    text: str, *, where: str, error: type[AdasapError], remedy: str, needs_digest: bool = True
) -> dict[str, Any]:
    """`read_sealed_json` of a text."""
    if not _ENDING.search(text[-200:]) and not _is_json(text):
        raise HalfWrittenError(f"{where} is empty, cut short or not JSON; {remedy}")
    data = parse_json(text, where=where, error=error)
    return unsealed(data, where=where, error=error, remedy=remedy, needs_digest=needs_digest)


def finite(value: Any) -> Any:
    """The value with None for every number that is not finite, which JSON does not know.

    Example:
        >>> finite({"ece": [0.5, float("inf")]})
        {'ece': [0.5, None]}
    """
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def digest_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole_json(path: Path) -> bool:
    """Whether a file is there and not cut short; what it says is not checked."""
    if not path.is_file():
        return False
    data = path.read_bytes()
    return _ENDING.search(data[-200:].decode(errors="replace")) is not None or _is_json(data.decode(errors="replace"))


def digest(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all texts but the digest itself, and over name, type, shape and bytes of every tensor."""
    import torch

    names = sorted(tensors)
    layout = {
        "texts": {key: texts[key] for key in sorted(texts) if key != "sha256"},
        "tensors": [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names],
    }
    total = hashlib.sha256(json.dumps(layout).encode())
    for name in names:
        total.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def write_sealed_tensors(path: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, str]) -> None:
    """A safetensors file, whole or not at all, with the digest of texts and tensors among its texts."""
    from safetensors.torch import save

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(plain, {**texts, "sha256": digest(texts, plain)}))


def read_sealed_tensors(
    path: Path, *, error: type[AdasapError], remedy: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Texts (without the digest) and tensors that `write_sealed_tensors` wrote; arguments as for `read_sealed_json`.

    Raises:
        HalfWrittenError: If the file is empty or cut short.
    """
    from safetensors import SafetensorError, safe_open

    try:
        if _is_cut_short(path):
            raise HalfWrittenError(f"{path} is empty or cut short; {remedy}")
        with safe_open(path, framework="pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError, ValueError) as cause:
        raise error(f"{path} was altered or damaged, or is not a .safetensors file ({cause}); {remedy}") from cause
    if "sha256" not in texts:
        raise error(f"{path} carries no digest: an earlier version wrote it, or it was altered; {remedy}")
    if texts.pop("sha256") != digest(texts, tensors):
        raise error(f"{path} was altered or damaged: its digest does not match; {remedy}")
    return texts, tensors


def _is_cut_short(path: Path) -> bool:
    """Whether a safetensors file ends before its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or header_bytes == 0:  # a file of zeros is what some systems leave after a power cut
            return True
        if header_bytes > 100_000_000:  # the format's own limit; not a length
            return False
        if size < 8 + header_bytes:
            return True
        try:
            header = json.loads(file.read(header_bytes))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            return bool(size < 8 + header_bytes + max(ends, default=0))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
            return False


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _sha256(plain: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()
