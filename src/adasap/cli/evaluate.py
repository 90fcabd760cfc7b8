"""`adasap evaluate MODEL`: clean, shifted and corrupted accuracy, or average precision, of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from adasap.cli.evaluation import Evaluation, processes
from adasap.cli.evaluation_detection import DetectionEvaluation, labelled_as
from adasap.cli.models import (
    MeanOption,
    ModelArgument,
    ModelOption,
    SizeOption,
    StdOption,
    TrustOption,
    WeightsOption,
    open_named,
)
from adasap.cli.suites import Interpolation, SuiteOptions, has_boxes, has_one_size, suite_help
from adasap.data import Resizing
from adasap.robustness import Loading, open_detection_suite, open_suite


def evaluate(
    model: ModelArgument,
    suite: Annotated[list[str] | None, typer.Option(help=suite_help(), show_default="clean")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="KIND:PATH of a data set such as npz:test.npz or voc:FOLDER, or a suite's path."),
    ] = None,
    corruptions: Annotated[list[str] | None, typer.Option(help="Only this corruption; may be repeated.")] = None,
    severities: Annotated[list[int] | None, typer.Option(help="Only this severity, 1 to 5; may be repeated.")] = None,
    first: Annotated[int, typer.Option(help="Index of the first image of --data.")] = 0,
    count: Annotated[int | None, typer.Option(help="Number of images of --data; all if not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="A sample of so many images, the same in all cells.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample.")] = 0,
    resize: Annotated[int | None, typer.Option(help="Shorter side that images are brought to, in pixels.")] = None,
    center_crop: Annotated[int | None, typer.Option(help="Side of the central square kept after that.")] = None,
    interpolation: Annotated[Interpolation, typer.Option(help="Of --resize.")] = "bilinear",
    size: SizeOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    model_option: ModelOption = None,
    batch: Annotated[int | None, typer.Option(help="Images per batch.", show_default="500, above 64 pixels 50")] = None,
    workers: Annotated[int, typer.Option(help="Processes that decode and corrupt images ahead.")] = 0,
    coco: Annotated[bool, typer.Option(help="Of a detector: also COCO's average precision.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder: cells as they come, evaluation.json, .md.")] = None,
    trust_builder: TrustOption = False,
) -> None:
    """Evaluate a model on clean, shifted and corrupted images: a classifier, or a detector on data with boxes.

    With --out, the same command goes on where it was.

    Under torchrun the cells are shared out over the processes.
    """
    resizing = Resizing(resize, center_crop, interpolation)
    options = SuiteOptions(data, first, count, resizing, corruptions, severities)
    sources = options.sources(suite or ["clean"])
    if size is None and not any(map(has_boxes, sources.values())) and has_one_size(one := next(iter(sources.values()))):
        size = open_suite("", one).image_shape[-1]
    torch.manual_seed(0)  # weights that no file fills: the same in every process and when the command goes on
    opened = open_named(
        model, size, weights, mean=mean, std=std, options=model_option or (), trust_builder=trust_builder
    )
    asked, loading = {"model": model, "data": data, "limit": limit, "seed": seed}, Loading(batch, workers)
    evaluation: Evaluation
    if any(has_boxes(source) for source in sources.values()):
        with_boxes = [open_detection_suite(name, source) for name, source in labelled_as(opened, sources).items()]
        chosen = [one.sampled(limit, seed=seed) if limit else one for one in with_boxes]
        evaluation = DetectionEvaluation(opened, chosen, loading, asked, coco=coco)
    else:
        labelled = [open_suite(name, source, input_size=opened.spec.input_size) for name, source in sources.items()]
        some = [one.sampled(limit, seed=seed) if limit else one for one in labelled]
        evaluation = Evaluation(opened, some, loading, asked)
    with processes() as is_first:
        evaluation.run(out, Console(quiet=not is_first))
