"""A model as a stranger names it: how many outputs its weights have, what its inputs are, what an image takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.errors import AdasapError, ModelError
from adasap.experiments.fit_size import Sizes
from adasap.export import read_header
from adasap.groups import evaluating
from adasap.models import ModelSpec, default_input_size, is_trusted, open_model
from adasap.models.builders import resolve_builder
from adasap.models.inputs import Size
from adasap.models.open import build_model
from adasap.models.preparation import Preparation, carried_mean_std, preparation_of
from adasap.models.published import is_published
from adasap.models.weight_files import read_tensors
from adasap.models.weights import unwrapped_names

_SIDES = (224, 32, 28, 64, 96, 128, 256, 299, 320, 384, 512)
"""Tried in this order on a model that nothing is known of."""
_SMALL = 96
"""Images of this side or less are taken as they are by a network that takes them."""


@dataclass(frozen=True)
class SeenModel:
    """A model that was looked at.

    Attributes:
        spec: For the recipe: builder, options, weights, input size, mean and std.
        preparation: What its images want.
        parameters: How many.
        image_bytes: Of all outputs of its layers for one image, in float32.
        is_transformer: Whether it has layer norms and no batch norms.
        module: The model, filled.
        remarks: What is to be known, a sentence for each.
    """

    spec: ModelSpec
    preparation: Preparation
    parameters: int
    image_bytes: int
    is_transformer: bool
    module: nn.Module
    remarks: tuple[str, ...] = ()


def look_at_model(
    name: str, weights: str | None, outputs: int, sizes: Sizes, *, task: str, options: Mapping[str, Any] | None = None
) -> SeenModel:
    """Opens a model with as many outputs as its weights have, and finds the size of the images that it takes.

    Args:
        name: A builder, or a model file that was not cut.
        weights: A file, or a name of published ones.
        outputs: As many as the data want; what weights have comes first.
        sizes: Of the images.
        task: `classification`, `detection`, `segmentation`.
        options: Of the builder.
    Raises:
        ModelError: If it cannot be opened or takes no size that was tried.
    """
    spec = _named(name, weights, dict(options or {}))
    spec, remarks = _with_outputs(spec, outputs)
    found: list[str] = []
    torch.manual_seed(0)
    model = open_model(spec, trust_builder=True, say=found.append).eval()
    channels = next((m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d)), 3)
    if spec.input_size is None:
        size, said = _size(model, spec, channels, sizes, task)
        spec, remarks = spec.of_size(size), [*remarks, *said]
    prepared = _preparation(spec, model)
    spec = replace(spec, mean=prepared.mean, std=prepared.std)
    return SeenModel(
        spec,
        prepared,
        sum(parameter.numel() for parameter in model.parameters()),
        _image_bytes(model, spec.input_size or (channels, 224, 224)),
        _has(model, nn.LayerNorm) and not _has(model, nn.modules.batchnorm._BatchNorm),
        model,
        (*found, *remarks),
    )


def _has(model: nn.Module, kind: type[nn.Module]) -> bool:
    return any(isinstance(module, kind) for module in model.modules())


def _named(name: str, weights: str | None, options: dict[str, Any]) -> ModelSpec:
    """The spec of a builder, or of a model file, which is its own weights.

    Raises:
        ModelError: For a model that was cut already, or a file without a function.
    """
    if name.endswith(".py"):
        raise ModelError(f"{name} names no function; write {name}:FUNCTION, the function that builds your model")
    if name.endswith((".pth", ".pt", ".ckpt", ".bin")):
        raise ModelError(
            f"{name} is a file of weights; give the model that they are of and --weights {name}, such as "
            "torchvision:resnet18 or ./mymodel.py:build"
        )
    if name.endswith(".safetensors"):
        header = read_header(name)
        if header.plan is not None:
            raise ModelError(f"{name} was cut already; give the dense model, or `adasap prune` to cut it once more")
        return replace(header.spec, weights=name)
    return ModelSpec(name, options, weights=weights)


def _with_outputs(spec: ModelSpec, outputs: int) -> tuple[ModelSpec, list[str]]:
    """The spec with the number of outputs that its weights have, else with as many as the data want."""
    key = _output_option(spec)
    if key is None or key in spec.options or not outputs:
        return spec, []
    wanted = replace(spec, options={**spec.options, key: outputs}, weights=None)
    if spec.weights is None:
        return wanted, []
    if is_published(spec.builder, spec.weights):
        return spec, [f"the published weights keep their own outputs; the data have {outputs} classes"]
    tensors = read_tensors(Path(spec.weights))[0]
    plain = replace(spec, weights=None)
    first = _shapes(plain)
    rows = [shape for name, shape in _odd(tensors, first)]
    ratios = [
        round(there * default / here)
        for name, (here, there) in zip([n for n, _ in _odd(tensors, first)], rows, strict=True)
        if here and (default := _default(plain, key))
    ]
    for number in dict.fromkeys([outputs, *(there for _, there in rows), *ratios]):
        tried = replace(plain, options={**spec.options, key: number})
        try:
            fits = not _odd(tensors, _shapes(tried))
        except AdasapError:
            continue
        if fits:
            said = f"{spec.weights} has {number} outputs, the data want {outputs}"
            return replace(tried, weights=spec.weights), [said] if number != outputs else []
    return spec, []


def _output_option(spec: ModelSpec) -> str | None:
    """The builder's argument that says how many outputs there are."""
    if spec.builder.startswith("smp:"):
        return "classes"
    if spec.builder.startswith(("torchvision:", "timm:")):
        return "num_classes"
    names = inspect.signature(resolve_builder(spec.builder, trust_builder=True)).parameters
    return next((key for key in ("num_classes", "classes", "n_classes", "num_outputs") if key in names), None)


def _default(spec: ModelSpec, key: str) -> int:
    if spec.builder.startswith("torchvision:"):
        return 91 if default_input_size(spec) is None or "ssd" in spec.builder else 1000
    found = inspect.signature(resolve_builder(spec.builder, trust_builder=True)).parameters.get(key)
    return found.default if found is not None and isinstance(found.default, int) else 0


def _shapes(spec: ModelSpec) -> dict[str, Tensor]:
    """The model's state, without numbers where the builder can do that."""
    model = build_model(spec, trust_builder=True, without_numbers=is_trusted(spec.builder))
    return model.state_dict()


def _odd(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[tuple[str, tuple[int, int]]]:
    """Name -> (rows in the model, rows in the file) of tensors whose shapes differ."""
    chosen = unwrapped_names(tensors, state)[0]
    both = [name for name in state if name in chosen and state[name].shape != chosen[name].shape]
    return [(name, (_rows(state[name]), _rows(chosen[name]))) for name in both]


def _rows(tensor: Tensor) -> int:
    return tensor.shape[0] if tensor.ndim else 0


def _size(model: nn.Module, spec: ModelSpec, channels: int, sizes: Sizes, task: str) -> tuple[Size, list[str]]:
    """The size of the images that a model works at, and why."""
    known, own = default_input_size(spec), sizes.single
    if task != "classification":
        if isinstance(side := getattr(model, "image_size", None), int):
            return (channels, side, side), []
        if known is not None and task == "detection":
            return known, []
        height, width = (_multiple(min(axis), 512 if task == "detection" else 256) for axis in _axes(sizes))
        return (channels, height, width), []
    tried: list[Size] = [] if known is None else [known]
    if own is not None and (known is None or (max(own) <= _SMALL and max(own) < known[1])):
        tried.insert(0, (channels, *own))
    tried += [(channels, side, side) for side in _SIDES if known is None]
    for size in tried:
        if takes(model, size):
            smaller = known is not None and size != known
            said = (
                f"the images are small and taken as they are; {spec.builder} was made for {known and known[1]} pixels"
            )
            return size, [said] if smaller else []
    raise ModelError(
        f"{spec.builder} takes images of none of the sizes {', '.join(str(size[1]) for size in tried)}; write its "
        "size yourself: give --size"
    )


def _axes(sizes: Sizes) -> tuple[list[int], list[int]]:
    return [h for h, _ in sizes.counts] or [256], [w for _, w in sizes.counts] or [256]


def _multiple(length: int, most: int) -> int:
    """The largest multiple of 32 within the images."""
    return max(32, min(length, most) // 32 * 32)


def takes(model: nn.Module, size: Sequence[int]) -> bool:
    """Whether a model computes something from a black image of this size."""
    try:
        with evaluating(model), torch.no_grad():
            model(torch.zeros(1, *size))
    except (RuntimeError, AssertionError, ValueError, TypeError, IndexError):
        return False
    return True


def _preparation(spec: ModelSpec, model: nn.Module) -> Preparation:
    """What the weights want: of torchvision or timm, or what a model of timm's kind carries with it."""
    found = preparation_of(spec)
    carried = None if found.said_by else carried_mean_std(model, len(spec.mean))
    if carried is not None:
        return replace(found, mean=carried[0], std=carried[1], said_by="the model's own configuration")
    return found


def _image_bytes(model: nn.Module, size: Sequence[int]) -> int:
    """Of all outputs of layers, in float32; 0 where the model does not run on a batch of images."""
    total = 0

    def add(module: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal total
        total += output.numel() * 4 if isinstance(output, Tensor) else 0

    leaves: Iterator[nn.Module] = (module for module in model.modules() if not next(module.children(), None))
    hooks: list[Callable[[], None]] = [leaf.register_forward_hook(add).remove for leaf in leaves]
    try:
        ran = takes(model, size)
        return total if ran else 0
    finally:
        for remove in hooks:
            remove()
