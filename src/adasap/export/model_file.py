"""Saves a pruned model in one .safetensors file; loads it by building, cutting and filling."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.errors import ModelError, ModelFileError, PlanError
from adasap.export.atomic import atomic_write
from adasap.export.groups_json import groups_from_json, groups_to_json
from adasap.export.reading import FORMAT, VERSION, ModelFile, digest, read_file
from adasap.groups.group import ChannelGroup, fingerprint, prunable
from adasap.models.builders import check_options, is_trusted
from adasap.models.open import ModelSpec, open_model
from adasap.pruning.plan import PruningPlan
from adasap.pruning.surgery import apply_plan_, unwrapped


def save(
    path: str | Path,
    model: nn.Module,
    *,
    spec: ModelSpec,
    plan: PruningPlan | None = None,
    groups: Sequence[ChannelGroup] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes a model, cut or dense, to one .safetensors file; an older file survives if writing fails.

    Args:
        path: Where to; by custom it ends in `.safetensors`.
        model: The model as it is now, on any device; compiled and data-parallel wrappers are looked through.
        spec: How the dense model was built; `spec.weights` is not stored, the file has its own.
        plan: The channels that were kept, in the dense model's indices; None for a dense model.
        groups: The DENSE model's groups, as traced before the first cut; needed with a plan.
        metadata: Plain JSON values, such as metrics.
    Raises:
        PlanError: If there is a plan without groups or the two do not belong together.
        ModelError: If the spec's options are no plain data.
        ModelFileError: If the state or the metadata cannot be stored, or the file cannot be written.

    Example:
        >>> import tempfile
        >>> from adasap.models import ModelSpec, open_model
        >>> spec = ModelSpec("adasap:digits_net", {"widths": [4, 4, 4]})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(f"{folder}/digits.safetensors", open_model(spec), spec=spec, metadata={"accuracy": 0.97})
        ...     load(f"{folder}/digits.safetensors").training
        False
    """
    content = model_bytes(model, spec=spec, plan=plan, groups=groups, metadata=metadata)
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
    spec: ModelSpec,
    plan: PruningPlan | None = None,
    groups: Sequence[ChannelGroup] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """What `save` writes; arguments and errors are its own.

    Example:
        >>> from adasap.models import open_model
        >>> spec = ModelSpec("adasap:digits_net", {"widths": [4, 4, 4]})
        >>> b"adasap-model" in model_bytes(open_model(spec), spec=spec)
        True
    """
    from safetensors.torch import save as to_bytes

    texts = {"format": FORMAT, "version": VERSION, "spec": _spec_text(spec), **_plan_texts(plan, groups)}
    texts["metadata"] = _metadata_text(metadata)
    tensors = _state(model)
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
    header, tensors = read_file(path)
    if builder is None and not trust_builder and not is_trusted(header.spec.builder):
        raise ModelFileError(
            f"{path} asks to run {header.spec.builder[:80]!r}, code that is not trusted; pass builder=<the "
            f"function>, "
            f"or trust_builder=True if you know where the file comes from"
        )
    try:
        model = open_model(header.spec, builder=builder, trust_builder=trust_builder)
        _cut_(model, header)
    except (ModelError, PlanError, ModelFileError) as error:
        raise ModelFileError(f"{path} cannot be loaded: {error}") from error
    _fill_(model, tensors, path)
    return model.eval()


def _cut_(model: nn.Module, header: ModelFile) -> None:
    if header.plan is None or header.groups is None:
        return
    groups = groups_from_json(header.groups, model)
    _check_together(header.plan, groups)
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
    state = unwrapped(model).state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
            raise ModelFileError(
                f"the state {name!r} is no plain tensor and cannot be stored; leave it out of the state"
            )
    # clone: tied parameters share memory, and the format stores each name on its own
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def _spec_text(spec: ModelSpec) -> str:
    check_options(spec.builder, spec.options)
    data = {
        "builder": spec.builder,
        "options": spec.options,
        "input_size": spec.input_size,
        "mean": spec.mean,
        "std": spec.std,
    }
    return json.dumps(data, allow_nan=False)


def _plan_texts(plan: PruningPlan | None, groups: Sequence[ChannelGroup] | None) -> dict[str, str]:
    if plan is None:
        return {}
    if groups is None:
        raise PlanError("a plan cannot be read without groups; pass groups=<those of the dense model>")
    _check_together(plan, groups)
    return {"plan": plan.to_json(), "groups": groups_to_json(groups)}


def _check_together(plan: PruningPlan, groups: Sequence[ChannelGroup]) -> None:
    if plan.fingerprint != fingerprint(groups):
        raise PlanError(
            "the plan belongs to other groups than the ones given; pass the groups of the dense model, as "
            "they were "
            "traced before the first cut"
        )
    widths = {group.name: group.num_channels for group in prunable(groups)}
    for name, num_channels in plan.num_channels.items():
        if widths.get(name) != num_channels:
            raise PlanError(
                f"the plan cuts group {name[:80]!r} of {num_channels} channels, which the model does not have"
            )


def _metadata_text(metadata: Mapping[str, Any] | None) -> str:
    try:
        return json.dumps(dict(metadata or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(
            f"the metadata cannot be stored as JSON ({error}); give numbers, text, lists and mappings, no NaN"
        ) from error
