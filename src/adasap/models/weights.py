"""Fills a model with the tensors of a file, or says why they do not fit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from adasap.errors import ModelError
from adasap.models.weight_files import read_tensors

WRAPPERS = ("module.", "model.", "_orig_mod.", "net.", "network.", "backbone.", "encoder.", "student.", "ema_model.")
"""What trainers and wrappers write before the names of a model, in any nesting."""


_WITHIN = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
"""What torch.compile, sharding and checkpointed activations write before the names of modules within a model."""


def load_weights_(model: nn.Module, path: str | Path) -> str:
    """Fills the model in place; numbers are converted to the model's own types.

    The file is `.safetensors` or what `torch.save` wrote (`.pth`, `.pt`, `.ckpt`, `.bin`), of which data and tensors
    alone are read. Weights are found under the keys of training checkpoints (`state_dict`, `model`, ...), averaged ones
    (`ema`, `model_ema`, ...) before others, and under any nesting of `module.`, `model.`, `_orig_mod.` and the like.
    The counters `num_batches_tracked` may be missing: they are not part of what the model computes. The model file of
    a run that cut nothing gives weights, too.

    Returns:
        One line that says what was found where.
    Raises:
        ModelError: If the file cannot be read, or a tensor is missing, unexpected, of another shape or of a type that
            holds no weights; the model is then unchanged.
    """
    path = Path(path)
    tensors, place = read_tensors(path)
    if path.suffix == ".safetensors" and _is_model_file(path) and set(tensors) == set(model.state_dict()):
        _refuse_cut(model, tensors, path)
    return fill_(model, tensors, f"{path}{place}")


def fill_(model: nn.Module, tensors: Mapping[str, Tensor], where: str) -> str:
    """`load_weights_` from tensors that were read; `where` names their place in messages."""
    state = model.state_dict()
    chosen, unwrapping = unwrapped_names(tensors, state)
    if problems := _problems(chosen, state):
        raise ModelError(f"{where} does not fit the model: {'; '.join(problems)}. {_next_move(chosen, state)}")
    model.load_state_dict(chosen, strict=False)
    return f"{where}: {len(chosen)} tensors{unwrapping}{_no_numbers(chosen)}"


def _no_numbers(tensors: Mapping[str, Tensor]) -> str:
    odd = [key for key, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    return f"; NaN or infinity in {len(odd)} of them: {', '.join(odd[:3])}" if odd else ""


def unwrapped_names(tensors: Mapping[str, Tensor], state: Collection[str]) -> tuple[dict[str, Tensor], str]:
    """The tensors under the model's own names, and in words what was done for it.

    Of all nestings of wrappers that the names begin with, the one is taken that gives most of the model's names. What
    lies outside of it (losses, metrics, a second model) is left, and so is the counter of an average.

    Example:
        >>> state = {"conv.weight": torch.zeros(1)}
        >>> unwrapped_names({"model.module.conv.weight": torch.zeros(1), "loss.weight": torch.zeros(3)}, state)
        ({'conv.weight': tensor([0.])}, ", without the prefix 'model.module.'; 1 others left: loss.weight")
    """
    plain, inside = _without_inner(tensors, state)
    prefixes = sorted({prefix for name in plain for prefix in _nestings(name)}, key=len)
    best = max(prefixes, key=lambda prefix: sum(f"{prefix}{name}" in plain for name in state), default="")
    if not any(f"{best}{name}" in plain for name in state) and len(own := _own_prefixes(plain, state)) == 1:
        best = own[0]
    chosen = {name.removeprefix(best): tensor for name, tensor in plain.items() if name.startswith(best)}
    left = [name for name in plain if not name.startswith(best)]
    if "n_averaged" in chosen and "n_averaged" not in state:
        del chosen["n_averaged"]
    left = [name for name in left if name != "n_averaged"]
    words = f", without the prefix {best!r}" if best else ""
    words += "".join(f", without {word!r}" for word in inside)
    return chosen, words + (f"; {len(left)} others left: {', '.join(left[:3])}" if left else "")


def load_backbone_(model: nn.Module, path: str | Path) -> None:
    """Fills a model's backbone in place from an ImageNet classifier's file; what it has no place for is left.

    The model says what its backbone is by a method `backbone_tensors()`: name of a tensor in such a file -> its name in
    the model.

    Raises:
        ModelError: If the model has no such method, the file cannot be read, or a tensor is missing or of another
            shape; the model is then unchanged.
    """
    known: Callable[[], dict[str, str]] | None = getattr(model, "backbone_tensors", None)
    places = {} if known is None else known()
    if not places:
        raise ModelError(
            f"{type(model).__name__} has no backbone that an ImageNet classifier's weights fit; leave "
            "`backbone_weights` out, or give `weights` for the whole model"
        )
    state = model.state_dict()
    wanted = {name: state[here] for name, here in places.items()}
    tensors = unwrapped_names(read_tensors(Path(path))[0], wanted)[0]
    fitting = {name: tensor for name, tensor in tensors.items() if name in wanted}
    if problems := _problems(fitting, wanted):
        raise ModelError(
            f"{path} does not fit the backbone: {'; '.join(problems)}. Choose the file of the same classifier and width"
        )
    model.load_state_dict({places[name]: tensor for name, tensor in fitting.items()}, strict=False)


def _nestings(name: str) -> list[str]:
    """Every nesting of wrappers that a name begins with, the empty one first."""
    prefixes, rest = [""], name
    while len(prefixes) < 9 and (found := next((word for word in WRAPPERS if rest.startswith(word)), None)):
        prefixes.append(prefixes[-1] + found)
        rest = rest.removeprefix(found)
    return prefixes


def _own_prefixes(names: Collection[str], state: Collection[str]) -> list[str]:
    """What somebody's own wrapper wrote: the prefixes under which all names of the model are there."""
    wanted = [name for name in state if not _is_counter(name)]
    ends = [name.removesuffix(wanted[0]) for name in names if wanted and name.endswith(f".{wanted[0]}")]
    return [prefix for prefix in ends if all(f"{prefix}{name}" in names for name in wanted)]


def _without_inner(tensors: Mapping[str, Tensor], state: Collection[str]) -> tuple[dict[str, Tensor], list[str]]:
    """Names without the words that torch puts before those of any module within, and which of them there were."""
    plain = dict(tensors)
    found: list[str] = []
    for word in _WITHIN:
        if any(word in name for name in plain) and not any(word in name for name in state):
            shorter = {name.replace(word, ""): tensor for name, tensor in plain.items()}
            if len(shorter) == len(plain):
                plain, found = shorter, [*found, word]
    return plain, found


def _problems(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    return [
        *_named("missing", [key for key in state if key not in tensors and not _is_counter(key)]),
        *_named("unexpected", [key for key in tensors if key not in state]),
        *_named("of another shape", [_shapes(k, state, tensors) for k in _of_another_shape(tensors, state)]),
        *_named(
            "without weights", [f"{k} ({t.dtype})" for k, t in tensors.items() if k in state and _odd(t, state[k])]
        ),
    ]


def _odd(tensor: Tensor, own: Tensor) -> bool:
    """Whether its numbers are not the model's numbers: quantised, complex, or without any."""
    if tensor.is_meta or tensor.is_quantized or tensor.layout != torch.strided:
        return True
    return own.is_floating_point() != tensor.is_floating_point() or own.is_complex() != tensor.is_complex()


def _of_another_shape(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    return [key for key in state if key in tensors and tensors[key].shape != state[key].shape]


def _refuse_cut(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    if _of_another_shape(tensors, model.state_dict()):
        raise ModelError(
            f"{path} does not fit the model: {'; '.join(_problems(tensors, model.state_dict()))}. It is a model file "
            "of this package; if the model was cut, open it with adasap.load"
        )


def _is_model_file(path: Path) -> bool:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return "adasap-model" in (file.metadata() or {}).values()


def _is_counter(key: str) -> bool:
    return key.rpartition(".")[2] == "num_batches_tracked"


def _shapes(key: str, state: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    return f"{key} is {list(tensors[key].shape)} in the file, {list(state[key].shape)} in the model"


def _named(what: str, keys: list[str]) -> list[str]:
    if not keys:
        return []
    more = f" and {len(keys) - 4} more" if len(keys) > 4 else ""
    return [f"{len(keys)} {what}: {', '.join(keys[:4])}{more}"]


def _next_move(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str:
    """For a head of another size how many outputs the file has, else to look at prefixes and the builder."""
    if len(prefixes := _own_prefixes(tensors, state)) > 1:
        return f"In the file its names begin with {', '.join(map(repr, prefixes[:4]))}; save one of them without it"
    odd = _of_another_shape(tensors, state)
    rows = {
        tensors[key].shape[0] for key in odd if tensors[key].shape[1:] == state[key].shape[1:] and tensors[key].ndim
    }
    if odd and len(rows) == 1 and all(tensors[key].shape[1:] == state[key].shape[1:] for key in odd):
        return (
            f"That is a head of {rows.pop()} outputs: set num_classes to it (`model.options` in a recipe, "
            f"--model-option), or take {', '.join(odd[:4])} of a model of your own size into the file"
        )
    return "Choose the builder and options that the weights were trained with"
