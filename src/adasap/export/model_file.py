"""Saves a pruned model in one .safetensors file; loads it by building, cutting and filling."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.errors import ModelError, ModelFileError, PlanError
from adasap.export.model_file_reader import FORMAT, VERSION, ModelFile, read_file
from adasap.export.origin import Origin, make_plain_, origin_of, require_together
from adasap.groups.bare import require_numbers, unwrap
from adasap.groups.group import ChannelGroup
from adasap.groups.serialization import groups_from_json, groups_to_json
from adasap.io import atomic_write
from adasap.models.builders import is_trusted
from adasap.models.open import ModelSpec, open_model
from adasap.pruning.plan import PruningPlan
from adasap.pruning.surgery import apply_plan_
from adasap.sealed import digest

MOST_DENSE, MOST_CUT = 50_000_000, 50
"""A file may describe a dense model of so many numbers, and so many for each that it holds itself."""


def save(
    path: str | Path,
    model: nn.Module,
    *,
    spec: ModelSpec | None = None,
    plan: PruningPlan | None = None,
    groups: Sequence[ChannelGroup] | None = None,
    metadata: Mapping[str, Any] | None = None,
    builder: Callable[..., nn.Module] | None = None,
    trust_builder: bool = False,
) -> None:
    """Writes a model, cut or dense, to one .safetensors file; an older file survives if writing fails.

    Model and groups know what was cut, also over several cuts, and how the model was built, if `open_model` or `load`
    built it: `save(path, model, groups=groups)` is enough then. Before anything is written the dense model is built
    without numbers, cut and compared, so that no file is written that could not be loaded.

    Args:
        path: Where to; by custom it ends in `.safetensors`.
        model: The model as it is now, on any device; compiled and data-parallel wrappers are looked through.
        spec: How the dense model was built, if it is not known; `spec.weights` is not stored, the file has its own. A
            spec without an input size gets that of the images the model was traced with.
        plan: The channels that were kept, in the indices of `groups`; not needed with groups that know it.
        groups: The model's groups, as `trace_groups` or the last `apply_plan_` gave them; with a plan those that the
            plan was made for.
        metadata: Plain JSON values, such as metrics.
        builder: Builds the dense model in place of the spec's builder, as for `load`.
        trust_builder: Let the check call `package.module:function` if that is the spec's builder. Otherwise shapes are
            compared with those that the model had when it was traced.
    Raises:
        PlanError: If plan and groups do not belong together.
        ModelError: If the spec's options are not plain data.
        ModelFileError: If the file could not be loaded, the spec is not known, the state or the metadata cannot be
            stored, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from adasap.models import ModelSpec, open_model
        >>> spec = ModelSpec("adasap:digits_net", {"widths": [4, 4, 4]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/digits.safetensors", open_model(spec), spec=spec, metadata={"accuracy": 0.97})
        ...     load(f"{folder}/digits.safetensors").training
        False
    """
    content = model_bytes(
        model,
        spec=spec,
        plan=plan,
        groups=groups,
        metadata=metadata,
        builder=builder,
        trust_builder=trust_builder,
    )
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise ModelFileError(
            f"cannot write {path} ({error.strerror or error}); nothing was replaced; free space or choose another place"
        ) from error


def model_bytes(
    model: nn.Module,
    *,
    spec: ModelSpec | None = None,
    plan: PruningPlan | None = None,
    groups: Sequence[ChannelGroup] | None = None,
    metadata: Mapping[str, Any] | None = None,
    builder: Callable[..., nn.Module] | None = None,
    trust_builder: bool = False,
) -> bytes:
    """What `save` writes; arguments and errors are its own.

    Example:
        >>> from adasap.models import open_model
        >>> spec = ModelSpec("adasap:digits_net", {"widths": [4, 4, 4]})
        >>> b"adasap-model" in model_bytes(open_model(spec), spec=spec)
        True
    """
    from safetensors.torch import save as to_bytes

    bare = unwrap(model)
    require_numbers(bare, "files")
    tensors, metadata_text = _state(bare), _metadata_text(metadata)
    origin = origin_of(bare, spec, plan, groups, builder=builder, trust_builder=trust_builder)
    texts = {"format": FORMAT, "version": VERSION, "spec": _spec_text(origin.spec), **_plan_texts(origin)}
    texts |= {"metadata": metadata_text} | ({"plain_weights": "true"} if origin.plain_weights else {})
    texts["sha256"] = digest(texts, tensors)
    return to_bytes(tensors, metadata=texts)


def load(
    path: str | Path, *, builder: Callable[..., nn.Module] | None = None, trust_builder: bool = False
) -> nn.Module:
    """The model of a file, on the CPU and in evaluation mode: builds the dense model, cuts it, fills it.

    A file from a stranger runs no code: only builders of this package, torchvision and timm are called unless
    you pass your own function or say that you trust the one the file names.

    Args:
        path: The file.
        builder: Builds the dense model in place of the file's builder, from the file's options.
        trust_builder: Import `package.module:function` if that is what the file names.
    Raises:
        ModelFileError: If the file is missing, truncated, altered or foreign, names a builder that is not
            trusted, or does not fit the model that the builder makes.
    """
    if not isinstance(path, str | Path):
        raise ModelFileError(f"load opens a model file; got a {type(path).__name__}")
    header, tensors = read_file(path)
    if builder is None and not trust_builder and not is_trusted(header.spec.builder):
        raise ModelFileError(
            f"{path} asks to run {header.spec.builder[:80]!r}, code that is not trusted; pass builder=<the "
            f"function>, "
            f"or trust_builder=True if you know where the file comes from"
        )
    try:
        most = MOST_DENSE + MOST_CUT * sum(tensor.numel() for tensor in tensors.values())
        model = unwrap(open_model(header.spec, builder=builder, trust_builder=trust_builder, most_numbers=most))
        if header.plain_weights:
            make_plain_(model, header.spec)
        _cut_(model, header)
    except (ModelError, PlanError, ModelFileError) as error:
        raise ModelFileError(f"{path} cannot be loaded: {error}") from error
    _fill_(model, tensors, path)
    return model.eval()


def _cut_(model: nn.Module, header: ModelFile) -> None:
    if header.plan is None or header.groups is None:
        return
    groups = groups_from_json(header.groups, model)
    require_together(header.plan, groups)
    try:
        apply_plan_(model, groups, header.plan)
    except (RuntimeError, LookupError, ArithmeticError, TypeError, AttributeError) as error:
        raise PlanError(f"its plan cannot be carried out on the model ({error}); the file was altered") from error


def _fill_(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    state = model.state_dict()
    wrong = [key for key in state if key not in tensors or tensors[key].shape != state[key].shape]
    wrong += [key for key in tensors if key not in state]
    if wrong:
        raise ModelFileError(
            f"{path} does not fit the model that {len(state)} tensors describe: {len(wrong)} are missing, "
            f"unexpected or "
            f"of another shape, such as {', '.join(wrong[:4])}; load it with the builder and versions that "
            f"wrote it"
        )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if name in tensors and tensor.dtype != tensors[name].dtype:
            tensor.data = tensor.data.to(tensors[name].dtype)
    state.update(tensors)  # into the model's own: it carries the version numbers that some modules ask for
    model.load_state_dict(state, strict=True)


def _state(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise ModelFileError(
                f"the state {name!r} is no plain tensor and cannot be stored; leave it out of the state"
            )
    # clone: tied parameters share memory, and the format stores each name on its own
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def _spec_text(spec: ModelSpec) -> str:
    data = {
        "builder": spec.builder,
        "options": spec.options,
        "input_size": spec.input_size,
        "mean": spec.mean,
        "std": spec.std,
    }
    return json.dumps(data, allow_nan=False)


def _plan_texts(origin: Origin) -> dict[str, str]:
    if origin.plan is None:
        return {}
    return {"plan": origin.plan.to_json(), "groups": groups_to_json(origin.groups)}


def _metadata_text(metadata: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps(dict(metadata or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f"the metadata cannot be stored as JSON ({error}); give numbers, text, lists and mappings, no NaN"
        ) from error
