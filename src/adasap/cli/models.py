"""How every verb takes a model: by a builder's name, in a recipe, or as a file that was saved by `adasap`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from adasap.config import read_recipe
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
    int | None, typer.Option(help="Image side in pixels; a model file knows its own.", show_default="224, adasap: 32")
]
WeightsOption = Annotated[Path | None, typer.Option(help="safetensors file to fill a named model with.")]
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
    side = size or (32 if name.startswith("adasap:") else 224)
    spec = ModelSpec(name, input_size=(3, side, side), weights=None if weights is None else str(weights))
    spec = dataclasses.replace(spec, mean=mean or spec.mean, std=std or spec.std)
    return OpenedModel(open_model(spec, trust_builder=True).eval(), spec, None)
