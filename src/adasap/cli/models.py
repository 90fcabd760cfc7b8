"""How every verb takes a model: by a builder's name, in a recipe, or as a file that was saved by `adasap`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from torch import nn

from adasap.config import read_recipe
from adasap.errors import ModelError
from adasap.export import ModelFile, load, read_header
from adasap.models import ModelSpec, open_model

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model file (model.safetensors), torchvision:NAME, timm:NAME, adasap:NAME, module:function, or a recipe "
        "(its dense model).",
    ),
]
SizeOption = Annotated[
    int | None,
    typer.Option(help="Image side in pixels; a model file knows its own.", show_default="224, CIFAR and digits 32"),
]
WeightsOption = Annotated[Path | None, typer.Option(help="safetensors file to fill a named model with.")]
ModelOption = Annotated[
    list[str] | None, typer.Option(help="KEY=VALUE for a named model's builder, value in YAML; may be repeated.")
]
Colours = tuple[float, float, float]
MeanOption = Annotated[
    Colours | None, typer.Option(help="Of a named model's inputs, per colour; a model file knows its own.")
]
StdOption = Annotated[
    Colours | None, typer.Option(help="Of a named model's inputs, per colour; a model file knows its own.")
]
TrustOption = Annotated[bool, typer.Option("--trust-builder", help="Let a model file import the module that it names.")]


@dataclass(frozen=True)
class OpenedModel:
    """A model with what is known of it; `dense` is the unpruned one of a model file, `header` what the file says."""

    model: nn.Module
    spec: ModelSpec
    dense: nn.Module | None
    header: ModelFile | None = None

    @property
    def example_inputs(self) -> torch.Tensor:
        return torch.zeros(1, *self.spec.input_size)


def open_named(
    name: str,
    size: int | None,
    weights: Path | None = None,
    *,
    mean: Colours | None = None,
    std: Colours | None = None,
    options: Sequence[str] = (),
    trust_builder: bool = False,
) -> OpenedModel:
    """Opens the model of the command line."""
    if name.endswith((".yaml", ".yml")):
        spec = read_recipe(Path(name)).model
        return OpenedModel(open_model(spec, trust_builder=True).eval(), spec, None)
    if name.endswith(".safetensors") or Path(name).is_file():
        header = read_header(name)
        model = load(name, trust_builder=trust_builder)
        dense = open_model(header.spec, trust_builder=trust_builder).eval()
        return OpenedModel(model, header.spec, dense, header)
    side = size or (32 if name.startswith(("adasap:cifar", "adasap:digits")) else 224)
    spec = ModelSpec(
        name, _builder_options(options), (3, side, side), weights=None if weights is None else str(weights)
    )
    spec = dataclasses.replace(spec, mean=mean or spec.mean, std=std or spec.std)
    return OpenedModel(open_model(spec, trust_builder=True).eval(), spec, None)


def _builder_options(texts: Sequence[str]) -> dict[str, Any]:
    options = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise ModelError(f"--model-option {text!r} has no value; write it as KEY=VALUE, such as width=0.75")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ModelError(f"--model-option {text!r}: the value is no YAML ({error}); quote it") from error
    return options
