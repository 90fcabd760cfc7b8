"""`adasap evaluate MODEL`: clean, shifted and corrupted accuracy of a model file or a named model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from adasap.cli.models import (
    MeanOption,
    ModelArgument,
    SizeOption,
    StdOption,
    TrustOption,
    WeightsOption,
    open_named,
)
from adasap.corruptions import corruption_names
from adasap.data import DataSource, open_dataset
from adasap.errors import DataError
from adasap.export import atomic_write
from adasap.report import Table
from adasap.robustness import SuiteResult, SuiteSource, bootstrap_mean, check_suite, evaluate_suite, open_suite
from adasap.tasks import ClassificationTask, count_outputs


def evaluate(
    model: ModelArgument,
    data: Annotated[str, typer.Option(help="KIND:PATH, such as npz:test.npz, folder:val/, cifar10:root/, or digits:")],
    corruptions: Annotated[
        list[str] | None, typer.Option(help="Corrupt the images on the fly by this corruption; may be repeated.")
    ] = None,
    arrays: Annotated[
        Path | None, typer.Option(help="npz of labels and, per corruption, uint8 [5, N, H, W, 3].")
    ] = None,
    first: Annotated[int, typer.Option(help="Index of the first image.")] = 0,
    count: Annotated[int | None, typer.Option(help="Number of images; all if not given.")] = None,
    size: SizeOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the numbers to this JSON file.")] = None,
    trust_builder: TrustOption = False,
) -> None:
    """Evaluate a model on clean and corrupted images."""
    images = open_dataset(_source(data, first, count), "test")
    opened = open_named(model, size or images[0][0].shape[-1], weights, mean=mean, std=std, trust_builder=trust_builder)
    sources = {"clean": SuiteSource(kind="images")}
    if corruptions:
        sources["corrupted"] = SuiteSource(kind="corrupted", corruptions=tuple(corruptions))
    if arrays is not None:
        sources["corruption arrays"] = SuiteSource(kind="corruption_arrays", path=str(arrays))
    suites = [open_suite(name, source, images) for name, source in sources.items()]
    for suite in suites:
        check_suite(
            suite, input_size=opened.spec.input_size, num_outputs=count_outputs(opened.model, opened.spec.input_size)
        )
    task = ClassificationTask(mean=opened.spec.mean, std=opened.spec.std, channels_last=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    on_device = opened.model.to(device)
    results = {suite.name: evaluate_suite(on_device, task, suite, device) for suite in suites}
    Console().print(_table(results))
    if out is not None:
        with atomic_write(out) as file:
            text = {"model": model, "data": data, "suites": {n: r.to_json() for n, r in results.items()}}
            file.write(json.dumps(text).encode())


def _source(text: str, first: int, count: int | None) -> DataSource:
    kind, colon, path = text.partition(":")
    kinds = ("npz", "folder", "cifar10", "cifar100", "digits")
    if not colon or kind not in kinds:
        raise DataError(
            f"--data {text!r}: write KIND:PATH with one of the kinds {', '.join(kinds)}; "
            f"corruptions that can be computed: {', '.join(corruption_names())}"
        )
    return DataSource(kind, path or None, first=first, count=count)  # type: ignore[arg-type]


def _table(results: dict[str, SuiteResult]) -> Table:
    rows = []
    for name, result in results.items():
        for cell, metrics in result.metrics.items():
            label = name if cell == "clean" else cell
            rows.append([label, f"{100 * metrics['accuracy']:.2f}", f"{metrics['loss']:.4f}"])
        interval = bootstrap_mean(result.per_image(), resamples=2000)
        rows.append([f"mean of {name} (95 %: {100 * interval.low:.2f} to {100 * interval.high:.2f})"])
        rows[-1] += [f"{100 * interval.value:.2f}", ""]
    return Table(["", "accuracy (%)", "loss"], rows)
