"""Weights as people have them: the tensors of a file, wherever in it they lie."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adasap.errors import ModelError

AVERAGED = ("state_dict_ema", "model_ema", "ema", "ema_state_dict", "model_ema_state_dict", "params_ema", "ema_model")
"""Where averaged weights lie in a training checkpoint: they come first, for it is they that are evaluated."""
PLAIN = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params", "module"),
    *("student", "generator_state_dict", "shadow"),
)
_DEEPEST = 8


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Name -> tensor of a file, and under which keys they lay in it, such as `checkpoint['model_ema']`.

    `.safetensors`, or what `torch.save` wrote (`.pth`, `.pt`, `.ckpt`, `.bin`), by content and not by name; of the
    latter plain data and tensors only are read (`weights_only`). Averaged weights are preferred where there are both.

    Raises:
        ModelError: If the file is missing, damaged, of another kind, holds objects that are more than data, or no
            tensors.
    """
    kind = _kind(path)
    if kind == "safetensors":
        return _of_safetensors(path), ""
    found = _of_torch(path)
    where: list[str] = []
    for _ in range(_DEEPEST):
        inner = next((key for key in (*AVERAGED, *PLAIN) if _holds_tensors(found, key)), None) or _only_key(found, path)
        if inner is None:
            break
        found, where = found[inner], [*where, inner]
    tensors = _tensors_of(found)
    if not tensors:
        keys = ", ".join(repr(key)[:40] for key in list(found)[:8]) if isinstance(found, Mapping) else ""
        held = f"a mapping of {keys}" if keys else f"a {type(found).__name__}"
        raise ModelError(f"{path} holds {held}, but no weights by name; save model.state_dict() and give that file")
    return tensors, "".join(f"[{key!r}]" for key in where)


def _kind(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist; give a file of weights (.safetensors, .pth, .pt, .ckpt)") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror or error}); give a file of weights") from error
    if path.name.endswith(".index.json"):
        raise ModelError(f"{path} lists the parts of weights in several files; join the parts into one file first")
    if part := re.search(r"-(\d{5})-of-(\d{5})\.", path.name):
        raise ModelError(
            f"{path} is part {int(part[1])} of weights in {int(part[2])} files; join the parts into one file first"
        )
    if start.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path} is only a pointer to the weights (Git LFS); fetch the file itself: git lfs pull")
    if start.lstrip()[:1] == b"<":
        raise ModelError(f"{path} is a web page and not a file of weights; download it again")
    if start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04")):
        if path.suffix == ".safetensors":
            raise ModelError(f"{path} is what torch.save writes; name it .pth to have its tensors read as such")
        return "torch"
    return "safetensors"


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except (SafetensorError, OSError, ValueError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors, nor as what torch.save writes ({error}); the file is cut short, "
            f"damaged or of another kind"
        ) from error


def _of_torch(path: Path) -> Any:
    _refuse_bomb(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm's checkpoints hold one; it is plain data
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_can_be_mapped(path))
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise _refused(path, str(error)) from error
    except Exception as error:  # a damaged pickle can raise anything
        raise _refused(path, f"{type(error).__name__}: {error}") from error


def _can_be_mapped(path: Path) -> bool:
    return zipfile.is_zipfile(path)


def _refuse_bomb(path: Path) -> None:
    """`torch.save` does not compress; an archive that unfolds to more than it is was made by somebody else."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(entry.file_size for entry in archive.infolist())
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{path} is a damaged archive ({error}); fetch or write it again") from error
    if unfolded > path.stat().st_size:
        raise ModelError(f"{path} unfolds to {unfolded:,} bytes, more than it has; torch.save writes no such file")
    if any(name.endswith("constants.pkl") for name in names):
        raise ModelError(
            f"{path} is a TorchScript program; take its weights where you trust it: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')"
        )


def _refused(path: Path, reason: str) -> ModelError:
    named = re.search(r"GLOBAL ([\w.]+)", reason) or re.search(r"Unsupported (?:class|global)[: ]+([\w.]+)", reason)
    if named:
        return ModelError(
            f"{path} holds more than weights: opening it would run the code of {named[1]!r} (a whole model saved with "
            "torch.save(model), or settings beside the weights). Where you trust the file, write the weights alone: "
            "model = torch.load(path, weights_only=False); torch.save(model.state_dict(), 'weights.pth') (of a "
            "dictionary: its 'state_dict' or 'model')"
        )
    line = next((line.strip() for line in reason.splitlines() if line.strip()), "")
    return ModelError(
        f"{path} cannot be read as what torch.save writes ({line[:200]}); the file is cut short or damaged"
    )


def _only_key(value: Any, path: Path) -> str | None:
    """A key of somebody's own under which weights lie, where there are none at the top.

    Raises:
        ModelError: If there are several such keys.
    """
    if not isinstance(value, Mapping) or _tensors_of(value):
        return None
    keys = [key for key in value if isinstance(key, str) and "optim" not in key and _holds_tensors(value, key)]
    if len(keys) > 1:
        named = ", ".join(map(repr, keys[:8]))
        raise ModelError(
            f"{path} holds weights under {named}; which are meant is not clear: save the one that is meant"
        )
    return keys[0] if keys else None


def _holds_tensors(value: Any, key: str) -> bool:
    return isinstance(value, Mapping) and bool(_tensors_within(value.get(key), _DEEPEST))


def _tensors_within(value: Any, depth: int) -> bool:
    """Whether weights by name lie in it, at its top or under keys where they are looked for."""
    if not isinstance(value, Mapping) or depth == 0:
        return False
    return bool(_tensors_of(value)) or any(_tensors_within(value.get(key), depth - 1) for key in (*AVERAGED, *PLAIN))


def _tensors_of(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, Mapping):
        return {}
    return {key: item for key, item in value.items() if isinstance(key, str) and isinstance(item, Tensor)}
