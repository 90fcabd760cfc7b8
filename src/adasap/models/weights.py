"""Fills a model with the tensors of a .safetensors file, or says why they do not fit."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from torch import Tensor, nn

from adasap.errors import ModelError
from adasap.models.detector import Detector


def load_weights_(model: nn.Module, path: str | Path) -> None:
    """Fills the model in place; numbers are converted to the model's own types.

    The counters `num_batches_tracked` may be missing: they are not part of what the model computes. The model file of
    a run that cut nothing gives weights, too.

    Raises:
        ModelError: If the file cannot be read, or a tensor is missing, unexpected or of another shape; the
            model is then unchanged.
    """
    tensors = _read(Path(path))
    state = model.state_dict()
    problems = [
        *_named("missing", [key for key in state if key not in tensors and not _is_counter(key)]),
        *_named("unexpected", [key for key in tensors if key not in state]),
        *_named(
            "of another shape",
            [_shapes(key, state, tensors) for key in state if _differs(key, state, tensors)],
        ),
    ]
    if problems:
        move = _next_move(tensors, state)
        if _is_model_file(Path(path)):
            move = "It is a model file of this package; if the model was cut, open it with adasap.load"
        raise ModelError(f"{path} does not fit the model: {'; '.join(problems)}. {move}")
    model.load_state_dict(tensors, strict=False)


def load_backbone_(model: nn.Module, path: str | Path) -> None:
    """Fills the backbone of a detector in place from an ImageNet classifier's file; what it has no place for is left.

    Raises:
        ModelError: If the model is no detector, the file cannot be read, or a tensor is missing or of another shape;
            the model is then unchanged.
    """
    places = model.backbone_tensors() if isinstance(model, Detector) else {}
    if not places:
        raise ModelError(
            f"{type(model).__name__} has no backbone that an ImageNet classifier's weights fit; leave "
            "`backbone_weights` out, or give `weights` for the whole model"
        )
    tensors, state = _read(Path(path)), model.state_dict()
    wanted = {name: state[here] for name, here in places.items()}
    problems = [
        *_named("missing", [name for name in wanted if name not in tensors and not _is_counter(name)]),
        *_named("of another shape", [_shapes(n, wanted, tensors) for n in wanted if _differs(n, wanted, tensors)]),
    ]
    if problems:
        raise ModelError(
            f"{path} does not fit the backbone: {'; '.join(problems)}. Choose the file of the same classifier and width"
        )
    model.load_state_dict({places[name]: t for name, t in tensors.items() if name in places}, strict=False)


def _read(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dictionary
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist; give a .safetensors file of weights") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path} cannot be read as safetensors ({error}); the file is cut short, damaged or of another "
            f"kind "
            f"(a .pth file must be converted first: safetensors.torch.save_file(state_dict, path))"
        ) from error


def _is_model_file(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return "adasap-model" in (file.metadata() or {}).values()


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == "num_batches_tracked"


def _differs(key: str, state: dict[str, Tensor], tensors: dict[str, Tensor]) -> bool:
    return key in tensors and tensors[key].shape != state[key].shape


def _shapes(key: str, state: dict[str, Tensor], tensors: dict[str, Tensor]) -> str:
    return f"{key} (file {list(tensors[key].shape)}, model {list(state[key].shape)})"


def _named(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return [f"{len(keys)} {what}: {', '.join(keys[:4])}{more}"]


def _next_move(tensors: Collection[str], state: Collection[str]) -> str:
    for prefix in ("module.", "model."):
        if all(key.startswith(prefix) for key in tensors) and not all(key.startswith(prefix) for key in state):
            return f"Strip the prefix {prefix!r} from the names in the file"
    return "Choose the builder and options that the weights were trained with"
