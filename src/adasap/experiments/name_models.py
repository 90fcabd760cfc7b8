"""A model as it is given: a module, a `ModelSpec`, or its name: of a builder, a recipe, or a file of `adasap`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.data.items import image_and_target, image_tensor, is_indexed, read_items
from adasap.errors import DataError, ModelError
from adasap.experiments.recipe import read_recipe
from adasap.experiments.trust import require_trust
from adasap.export import ModelFile, load, read_header
from adasap.groups.bare import unwrap
from adasap.groups.fake_model import copied
from adasap.groups.past import past_of
from adasap.io import parse_yaml
from adasap.models import ModelSpec, default_input_size, input_size_of, is_trusted, open_model
from adasap.models.open import IMAGENET_MEAN, IMAGENET_STD
from adasap.models.preparation import carried_mean_std

Size = int | tuple[int, int, int]
"""Side of square images in pixels, or channels, height and width."""


def _ignore(line: str) -> None: ...


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """A model by its name, with what the command line says about it; a file knows most of it by itself.

    Attributes:
        name: `torchvision:NAME`, `timm:NAME`, `adasap:NAME`, `module:function`, a file of `adasap.save`, the folder of
            a run, which stands for its model file, or a recipe, which stands for its dense model.
        size: Of its images; by default what its kind is made for.
        channels: Of its inputs; by default what its first convolution takes.
        weights: File that fills a named model, or a name of published ones.
        mean: Of a named model's inputs, a number per channel.
        std: Likewise.
        options: `KEY=VALUE` for a named model's builder, value in YAML.
        trust_builder: Let a file import the module that it names; a builder that is named here is the user's word.
        say: Told in a line what was found in a file of weights.
    """

    name: str
    size: Size | None = None
    channels: int | None = None
    weights: str | None = None
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    options: Sequence[str] = ()
    trust_builder: bool = False
    say: Callable[[str], None] = _ignore


@dataclass(frozen=True)
class OpenedModel:
    """A model with what is known of it.

    Attributes:
        model: In evaluation mode.
        spec: How it is built, and what its inputs are.
        dense: The unpruned one of a model file.
        header: What the model file says.
        name: What it was opened by; empty for a module.
        exported: Whether a file computes it in another runtime.
        classes: Names of its outputs, where whoever opened it knows them.
        notes: What else is to be known of it.
    """

    model: nn.Module
    spec: ModelSpec
    dense: nn.Module | None = None
    header: ModelFile | None = None
    name: str = ""
    exported: bool = False
    classes: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def example_inputs(self) -> Tensor:
        """A black image, float [1, C, H, W]."""
        return torch.zeros(1, *self.input_size)

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return input_size_of(self.spec)

    @property
    def title(self) -> str:
        """What it is called."""
        return self.name or type(self.model).__name__

    @property
    def is_filled(self) -> bool:
        """Whether its numbers are more than its builder's: a module's are the user's word."""
        weights = self.spec.weights is not None or self.spec.backbone_weights is not None
        return weights or self.exported or self.header is not None or not self.name


AnyModel = nn.Module | ModelSpec | ModelName | OpenedModel | str | Path
"""What functions take for a model."""


def without_weights(opened: OpenedModel) -> list[str]:
    """A line about a model that no file filled; none about others."""
    if opened.is_filled:
        return []
    builder = opened.spec.builder
    return [f"{builder} has the numbers that its builder fills it with, as a rule random ones; give --weights"]


def scaled_as_imagenet(spec: ModelSpec, dataset: Any, task: Any = None) -> list[str]:
    """A line about a module of the user's own whose images of whole numbers are prepared by ImageNet's mean and std.

    None about models of torchvision, timm and other families, whose published weights want these numbers.

    Args:
        spec: Of the model.
        dataset: Items are (image, target); those of a loader are not looked at.
        task: None is a task that prepares images by mean and std.
    """
    family = is_trusted(spec.builder.partition(":")[0].partition(".")[0])
    prepares = task is None or hasattr(task, "mean")
    if family or (spec.mean, spec.std) != (IMAGENET_MEAN, IMAGENET_STD) or not (prepares and is_indexed(dataset)):
        return []
    try:
        image = image_tensor(image_and_target(read_items(dataset, torch.tensor([0]))[0])[0])
    except DataError:  # items of a task's own
        return []
    if image.is_floating_point():
        return []
    return [f"images are prepared by ImageNet's mean and std; if {spec.builder} wants others, give `mean` and `std`"]


def open_any(
    model: AnyModel,
    *,
    size: Size | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    trust_builder: bool = False,
) -> OpenedModel:
    """Opens a model, however it is given.

    Args:
        model: A module is copied, so that it stays as it is.
        size: Of its images, where neither it nor its kind knows.
        mean: Per channel, where nothing else says it: an image is prepared as (x / 255 - mean) / std.
        std: Likewise.
        trust_builder: Let a file import the module that it names.
    Raises:
        ModelError: If it is none, or cannot be opened.

    Example:
        >>> open_any(nn.Conv2d(1, 4, 3), size=28).input_size
        (1, 28, 28)
        >>> open_any("adasap:digits_net").spec.input_size
        (3, 32, 32)
    """
    if isinstance(model, OpenedModel):
        return model
    if isinstance(model, str | Path):
        model = ModelName(name=str(model), size=size, mean=mean, std=std, trust_builder=trust_builder)
    if isinstance(model, ModelName):
        return open_named(model if model.size is not None else replace(model, size=size))
    if isinstance(model, ModelSpec):
        return OpenedModel(open_model(model, trust_builder=True).eval(), _of_size(model, size), name=model.builder)
    if isinstance(model, nn.Module):
        return _of_module(model, size, mean, std)
    raise ModelError(f"the model is a {type(model).__name__}; give a torch.nn.Module, a ModelSpec, or a name or file")


def open_named(named: ModelName) -> OpenedModel:
    """Opens a model by its name; a builder that is named is the user's word, one in a file is not."""
    name, size, trust = named.name, named.size, named.trust_builder
    if name.endswith((".yaml", ".yml")):
        spec = _of_size(read_recipe(Path(name)).model, size)
        require_trust(spec.builder, trust, name)
        return OpenedModel(open_model(spec, trust_builder=trust, say=named.say).eval(), spec, name=name)
    if (Path(name) / "recipe.yaml").is_file():
        name = str(Path(name) / "model.safetensors")
        if not Path(name).is_file():
            raise ModelError(
                f"{named.name} holds no finished run; go on with it by `adasap compress`, or give a model file"
            )
    if name.endswith(".py"):
        raise ModelError(f"{name} names no function; write {name}:FUNCTION")
    if name.endswith(".safetensors") or Path(name).is_file():
        header = read_header(name)
        require_trust(header.spec.builder, trust, name)
        model = load(name, trust_builder=trust)
        spec = _of_size(header.spec, size)
        dense = open_model(spec, trust_builder=trust).eval()
        return OpenedModel(model, spec, dense, header, name)
    built = ModelSpec(name, builder_options(named.options), weights=named.weights)
    model = open_model(built, trust_builder=True, say=named.say).eval()
    spec = _spec_of(model, built, size, named.mean, named.std, named.channels)
    input_size_of(spec)  # asks for it where nobody knows it
    return OpenedModel(model, spec, name=name)


def _of_module(model: nn.Module, size: Size | None, mean: Sequence[float], std: Sequence[float]) -> OpenedModel:
    """A copy of a module; one of `open_model` or `adasap.load` knows how it was built."""
    bare = unwrap(model)
    copy, known, kind = copied(bare).eval().cpu(), past_of(bare).spec, type(bare)
    if isinstance(known, ModelSpec):
        prepared = replace(known, mean=tuple(mean), std=tuple(std)) if mean or std else known
        return OpenedModel(copy, _of_size(prepared, size))
    return OpenedModel(copy, _spec_of(copy, ModelSpec(f"{kind.__module__}:{kind.__qualname__}"), size, mean, std))


def _spec_of(
    model: nn.Module,
    built: ModelSpec,
    size: Size | None,
    mean: Sequence[float],
    std: Sequence[float],
    channels: int | None = None,
) -> ModelSpec:
    """How a model was built, with what its inputs are; the size stays open where nobody says it."""
    found = default_input_size(built) if size is None else None
    if isinstance(size, tuple):
        found = size
    given = channels or (size[0] if isinstance(size, tuple) else len(mean) or _input_channels(model))
    sides = (size, size) if isinstance(size, int) else None if found is None else found[1:]
    preparation: dict[str, Any] = {"mean": tuple(mean), "std": tuple(std)}
    if not mean and not std and (carried := carried_mean_std(model, given)):
        return replace(built, input_size=None if sides is None else (given, *sides), mean=carried[0], std=carried[1])
    if sides is None and not mean and not std and given != 3:
        preparation = {"mean": (0.5,) * given, "std": (0.5,) * given}
    return replace(built, input_size=None if sides is None else (given, *sides), **preparation)


def _of_size(spec: ModelSpec, size: Size | None) -> ModelSpec:
    """The spec with its own size, else the one that is given, else its kind's; `input_size_of` asks for one."""
    found = default_input_size(spec)
    if spec.input_size is None and isinstance(size, int):
        found = (found[0] if found is not None else len(spec.mean), size, size)
    elif spec.input_size is None and isinstance(size, tuple):
        found = size
    return spec.of_size(found)


def sized(spec: ModelSpec, dataset: Any, *, side: int | None = None) -> ModelSpec:
    """The spec with the size of a data set's first image, where nothing else says what the model takes.

    Args:
        spec: Of the model.
        dataset: Items are (image, target); None if there is none yet.
        side: Of its images, where there is none yet.
    """
    if default_input_size(spec) is not None:
        return spec
    if dataset is None:
        return spec if side is None else _of_size(spec, side)
    try:
        image = image_tensor(image_and_target(read_items(dataset, torch.tensor([0]))[0])[0])
    except DataError:  # items of a task's own: `input_size_of` asks for the size
        return spec
    channels, height, width = image.shape
    return spec.of_size((channels, height, width))


def _input_channels(model: nn.Module) -> int:
    """What the first convolution takes, in the order in which they were made; 3 without one."""
    first = next((module for module in model.modules() if isinstance(module, nn.Conv2d)), None)
    return 3 if first is None else first.in_channels


def builder_options(texts: Sequence[str]) -> dict[str, Any]:
    """Keyword arguments of a builder.

    Raises:
        ModelError: Unless each is `KEY=VALUE`, once, with a value in YAML.
    Example:
        >>> builder_options(["num_classes=10", "widths=[4, 8]"])
        {'num_classes': 10, 'widths': [4, 8]}
    """
    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ModelError(f"--model-option {text!r} has no value; write it as KEY=VALUE, such as width=0.75")
        if key in options:
            raise ModelError(f"--model-option {key} is given twice; give it once")
        options[key] = parse_yaml(value, where=f"--model-option {key}", error=ModelError)
    return options


def name_before(text: str) -> tuple[str, str]:
    """The name in `NAME=MODEL`, empty without one, and the model.

    Example:
        >>> name_before("small=runs/a"), name_before("adasap:digits_net")
        (('small', 'runs/a'), ('', 'adasap:digits_net'))
    """
    match = re.match(r"([\w .-]+)=(.+)", text)
    return (match[1], match[2]) if match else ("", text)


def short_name(place: str) -> str:
    """What a model is called in a table.

    Example:
        >>> short_name("runs/a/model.safetensors"), short_name("adasap:cifar_resnet20"), short_name("out/small.onnx")
        ('a', 'cifar_resnet20', 'small.onnx')
    """
    path = Path(place)
    if path.suffix in (".safetensors", ".yaml", ".yml"):
        return path.parent.name if path.stem == "model" and path.parent.name else path.stem
    if path.is_dir() or path.is_file() or (path.suffix and ":" not in place):
        return path.name
    return place.rpartition(":")[2]
