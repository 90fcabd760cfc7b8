"""Verbs that measure: a model on images (`evaluate`, `analyze`), and a data set (`check`)."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Exit, Option

from adasap.cli.options import (
    DataOptions,
    JsonOption,
    Models,
    Named,
    QuietOption,
    SeedOption,
    SplitOption,
    with_model_options,
)
from adasap.corruptions.registry import CORRUPTIONS
from adasap.experiments import known_names as names
from adasap.experiments.terminal import open_console, print_parts
from adasap.experiments.words import listed, severities_listed

_SUITE = f"NAME or NAME=PLACE, of {', '.join(names.SUITES)}; may be repeated."
_DATA = "KIND:PATH such as npz:test.npz, or a suite's path; or a recipe or run, by default the first MODEL if one."
_ONLY = "Only these, such as fog,frost: a list with commas, or repeated."
_SEVERITIES = "Only these of 1 to 5, such as 1,3: a list with commas, or repeated."
_CLASSES = "Of voc and coco: only objects of these, such as cat,dog: a list with commas, or repeated."
_BATCH = "500, above 64 pixels 50"
_PRECISION = "Of the forward pass; auto is bf16 where that is native."
_TASK = "Such as segmentation, or module:Class of your own."
_MODELS = "Model files, named models or recipes, as for evaluate, or the folder of a run; NAME=MODEL names one."
_ONLY_ANALYZE = f"Of {', '.join(names.INSTRUMENTS)}: a list with commas, or repeated."
_RUNS = "training data of a run's recipe"
_NORM = "frozen: evaluation statistics; folded: into the layer before, too."
_M = "m: each batch of m images is maximised by itself."
_SET = "Option of an instrument, such as worst_case.steps=20."
_DATA_CHECK = "KIND:PATH, such as folder:photos or voc:VOC2007."
_OUT = "Write the list of broken files there."


@with_model_options
def evaluate(
    models: Models,
    named: Named,
    suite: Annotated[
        list[str] | None,
        Option(help=_SUITE, show_default="clean, or the recipe's", autocompletion=names.one_of(names.SUITES)),
    ] = None,
    data: Annotated[str | None, Option(help=_DATA, autocompletion=names.complete_data)] = None,
    split: SplitOption = None,
    corruptions: Annotated[list[str] | None, Option(help=_ONLY, autocompletion=names.one_of(CORRUPTIONS))] = None,
    severities: Annotated[list[str] | None, Option(help=_SEVERITIES)] = None,
    first: Annotated[int, Option(help="Index of the first image of --data.")] = 0,
    count: Annotated[int | None, Option(help="Number of images of --data; all if not given.")] = None,
    classes: Annotated[list[str] | None, Option(help=_CLASSES)] = None,
    limit: Annotated[int | None, Option(min=1, help="A sample of so many images, the same in all cells.")] = None,
    seed: SeedOption = 0,
    resize: Annotated[int | None, Option(help="Shorter side that images are brought to, in pixels.")] = None,
    center_crop: Annotated[int | None, Option(help="Side of the central square kept after that.")] = None,
    interpolation: Annotated[names.Interpolation, Option(help="Of --resize.")] = "bilinear",
    data_option: DataOptions = None,
    batch: Annotated[int | None, Option(min=1, max=100_000, help="Images per batch.", show_default=_BATCH)] = None,
    workers: Annotated[int, Option(min=0, max=256, help="Processes that load and corrupt images ahead.")] = 0,
    precision: Annotated[names.AskedPrecision, Option(help=_PRECISION)] = "float32",
    task: Annotated[str | None, Option(help=_TASK, show_default="what the data are for")] = None,
    coco: Annotated[bool, Option(help="Of a detector: also COCO's average precision.")] = False,
    out: Annotated[Path | None, Option(help="Folder: cells as they come, evaluation.json, .md.")] = None,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """Evaluate a model, or several side by side, on clean, shifted and corrupted images: of any task.

    With --out, the same command goes on where it was; of several models it makes a page.

    Under torchrun the cells are shared out over the processes.
    """
    from adasap.data import Resizing
    from adasap.experiments import evaluate as experiment
    from adasap.experiments.evaluate_several import listed_models
    from adasap.experiments.name_suites import SuiteOptions, recipe_named

    chosen = listed_models([named(model) for model in models])
    recipe = recipe_named(data, next(iter(chosen.values())))
    resizing, only = Resizing(resize, center_crop, interpolation), (listed(corruptions), severities_listed(severities))
    asked = SuiteOptions(data, first, count, resizing, *only, listed(classes), data_option or (), split, recipe)
    experiment.evaluate(
        chosen,
        data,
        asked.sources(suite or None),
        task=task,
        task_options={"coco": True} if coco else {},
        limit=limit,
        seed=seed,
        batch=batch,
        workers=workers,
        precision=precision,
        out=out,
        console=open_console(quiet=quiet, json=json),
    )


@with_model_options
def analyze(
    models: Annotated[list[str], Argument(metavar="MODEL...", help=_MODELS, autocompletion=names.complete_model)],
    named: Named,
    data: Annotated[
        str | None, Option(help="KIND:PATH of a data set.", show_default=_RUNS, autocompletion=names.complete_data)
    ] = None,
    split: Annotated[str, Option(help="Of --data; the usual measures are taken on training images.")] = "train",
    images: Annotated[int, Option(min=1, help="Images, drawn by --seed.")] = 256,
    batch: Annotated[int, Option(min=1, max=100_000, help=_M)] = 32,
    only: Annotated[
        list[str] | None, Option(help=_ONLY_ANALYZE, autocompletion=names.one_of(names.INSTRUMENTS))
    ] = None,
    batch_norm: Annotated[Literal["frozen", "folded"], Option(help=_NORM)] = "frozen",
    settings: Annotated[list[str] | None, Option("--set", help=_SET)] = None,
    seed: SeedOption = 0,
    data_option: DataOptions = None,
    device: Annotated[str, Option(help="cpu or cuda.", show_default="cuda where there is one")] = "",
    out: Annotated[
        Path | None, Option(help="Folder.", show_default="the run's, else analysis", autocompletion=names.complete_path)
    ] = None,
) -> None:
    """Measure how sharp the minimum is, and what its channels are worth. The same command goes on where it was."""
    from adasap.experiments import analyze as experiment
    from adasap.experiments.name_suites import data_options
    from adasap.experiments.open_models import folder_of, run_recipe_of

    console, started, chosen = open_console(), time.perf_counter(), [named(text) for text in models]
    keys = data_options(data_option or ())
    found = experiment.analyze(
        chosen,
        replace(experiment.source_of(chosen, data), **keys) if data or keys else None,
        split=split,
        images=images,
        batch=batch,
        only=listed(only),
        batch_norm=batch_norm,
        options=settings or (),
        seed=seed,
        device=device,
        out=out or (Path("analysis") if run_recipe_of(models[0]) is None else folder_of(models[0])),
        console=console,
        command=shlex.join(["adasap", *sys.argv[1:]]),
    )
    print_parts(console, [*found.parts(), f"{time.perf_counter() - started:.0f} s"])


def check(
    data: Annotated[str, Argument(metavar="DATA", help=_DATA_CHECK, autocompletion=names.complete_data)],
    split: SplitOption = None,
    workers: Annotated[int | None, Option(min=0, max=256, help="Processes.", show_default="up to 8")] = None,
    out: Annotated[Path | None, Option(metavar="FILE", help=_OUT, autocompletion=names.complete_path)] = None,
    data_option: DataOptions = None,
) -> None:
    """Read every image of a data set: count classes, sizes and kinds of files, list what is broken.

    Exit code 2 if anything is.
    """
    from adasap.experiments.check_data import check_data
    from adasap.experiments.name_suites import source_named

    console, source = open_console(), source_named(data, data_option or ())
    found = check_data(source, split=split, workers=workers, out=out, console=console)
    print_parts(console, found.parts())
    if found.problems:
        raise Exit(2)
