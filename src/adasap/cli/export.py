"""`adasap export MODEL OUT --to TARGET`: a file for a runtime, kept only if it computes the same numbers there."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from torch import nn

from adasap.cli.models import (
    MeanOption,
    ModelArgument,
    OpenedModel,
    SizeOption,
    StdOption,
    TrustOption,
    WeightsOption,
    open_named,
)
from adasap.export import ExportedFile, Safetensors, Target, export_model, groups_from_json, state_bytes


class To(StrEnum):
    """The targets by name."""

    ONNX = "onnx"
    TORCH_EXPORT = "torch-export"
    SAFETENSORS = "safetensors"


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write.")],
    to: Annotated[To, typer.Option(help="What the file is for: onnxruntime, torch.export.load, or adasap.load.")],
    fixed_batch: Annotated[
        int | None,
        typer.Option(help="The one batch size the file takes.", show_default="any"),
    ] = None,
    size: SizeOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    trust_builder: TrustOption = False,
) -> None:
    """Write a model for a runtime and compare it there."""
    opened = open_named(model, size, weights, mean=mean, std=std, trust_builder=trust_builder)
    target = _model_file(opened) if to is To.SAFETENSORS else to.value
    file = export_model(opened.model, opened.example_inputs, out, to=target, fixed_batch=fixed_batch)
    _print(file, opened)


def _model_file(opened: OpenedModel) -> Target:
    header = opened.header
    if header is None or header.plan is None or header.groups is None or opened.dense is None:
        return Safetensors(opened.spec, metadata=None if header is None else header.metadata)
    groups = groups_from_json(header.groups, opened.dense)
    return Safetensors(opened.spec, header.plan, groups, header.metadata)


def _print(file: ExportedFile, opened: OpenedModel) -> None:
    console = Console(soft_wrap=True)
    dense = "" if opened.dense is None else f", those of the dense model {_weights_mb(opened.dense):.2f} MB"
    console.print(
        f"{file.path}: {file.size_mb:.2f} MB; weights {_weights_mb(opened.model):.2f} MB{dense}", highlight=False
    )
    batches = "any batch size" if file.fixed_batch is None else f"batch size {file.fixed_batch} only"
    console.print(f"{file.target}, images {' x '.join(map(str, opened.spec.input_size))}, {batches}", highlight=False)
    for size, difference in file.differences.items():
        console.print(
            f"largest difference from the model at batch size {size}: {difference:.1e} of the largest output",
            highlight=False,
        )


def _weights_mb(model: nn.Module) -> float:
    return state_bytes(model) / 1e6
