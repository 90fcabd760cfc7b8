"""An evaluation: opened from what a user gives, checked, run, printed and written down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from torch import nn

from adasap.data import DataSource
from adasap.evaluation import (
    Cell,
    CellResult,
    EvaluationFolder,
    Loading,
    Suite,
    SuiteResult,
    SuiteSource,
    evaluate_suites,
    identity_of,
    suite_results,
)
from adasap.evaluation.statistics import bootstrap_mean
from adasap.experiments.classes import classes_of
from adasap.experiments.name_models import (
    AnyModel,
    ModelName,
    OpenedModel,
    Size,
    open_any,
    scaled_as_imagenet,
    sized,
    without_weights,
)
from adasap.experiments.name_suites import own_suites, recipe_named, require_indexed, side_of, sources_of, task_of
from adasap.experiments.progress import SECONDS
from adasap.experiments.recipe import DEFAULT_TASK, Recipe, TaskSpec, parse_options, plain_options
from adasap.experiments.terminal import AnyConsole, Every, JsonConsole, console_of, is_live, open_console, open_progress
from adasap.experiments.trust import require_trust
from adasap.io import atomic_write
from adasap.processor import Precision
from adasap.report import Shown, Table, environment
from adasap.sealed import finite
from adasap.tasks import BaseTask
from adasap.tasks.data import Opening, class_list
from adasap.training import is_main_process
from adasap.training.precision import Asked, settled

WORK = ("model", "corruptions", "reading")
SCALE = "(x / 255 - mean) / std"


@contextmanager
def processes() -> Iterator[bool]:
    """Joins the processes of torchrun, if it started this one; gives whether this is the one that prints and writes."""
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield is_main_process()
        return
    dist.init_process_group("gloo")  # only results travel, and they are on the CPU
    try:
        yield is_main_process()
        dist.barrier()
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class Evaluation:
    """A model, what it is scored on, and how.

    Attributes:
        opened: The model.
        task: What good means, and what is said of the numbers.
        suites: With different names.
        loading: How batches are made.
        asked: What the user asked for, as it goes into the result: `model`, `data`, `limit`, `seed`.
        precision: Of the forward pass: `float32`, `bf16`, `fp16` (GPU only), or `auto`, bf16 where it is native.
    """

    opened: OpenedModel
    task: BaseTask[Any]
    suites: Sequence[Suite]
    loading: Loading
    asked: Mapping[str, Any]
    precision: Asked = "float32"

    def run(self, out: Path | None, console: Console) -> EvaluationResult:
        """Checks, evaluates, prints, and writes what the first process is to write."""
        task, device = self.task, _device()
        task.check_suites(self.opened.model, self.suites, self.opened.input_size)
        precision = settled(self.precision, device)
        folder = None
        if out is not None:
            folder = EvaluationFolder(out, self._identity(task, device, precision), is_first=is_main_process())
        for line in self.notes():
            console.print(line, soft_wrap=True)
        model = self.opened.model.to(device).to(memory_format=torch.channels_last)
        total, number, due = sum(len(suite.cells) for suite in self.suites), count(1), Every(SECONDS)
        with open_progress(console) as progress:
            bar = progress.add_task("", total=total)

            def observe(suite: str, cell: Cell, result: CellResult) -> None:
                progress.update(bar, advance=1, description=f"{suite}: {cell}")
                done = next(number)
                if isinstance(console, JsonConsole):
                    keys = {"suite": suite, "cell": str(cell), "number": done, "cells": total}
                    console.tell("cell", **keys, metrics=finite(dict(result.metrics)))
                elif not is_live(console) and due():
                    console.print(f"{suite} {cell}, cell {done:,} of {total:,}", soft_wrap=True)

            cells = evaluate_suites(
                model,
                task,
                self.suites,
                device,
                loading=self.loading,
                precision=precision,
                folder=folder,
                observe=observe,
            )
        results = suite_results(self.suites, cells)
        table, timings = task.table(results), {name: _timings(of_suite) for name, of_suite in cells.items()}
        console.print(table)
        if isinstance(console, JsonConsole):
            for name, result in results.items():
                console.tell("suite", suite=name, metric=task.primary_metric.key, **_score_json(result))
        remarks = (*([] if folder is None else folder.notes), *self.remarks(timings, precision))
        for line in remarks:
            console.print(line, soft_wrap=True)
        if out is not None and is_main_process():
            self._write(out, results, table, timings, precision)
        return EvaluationResult(results, table, tuple(self.notes()), remarks, out)

    def _identity(self, task: BaseTask[Any], device: torch.device, precision: Precision) -> dict[str, Any]:
        batches = {suite.name: suite.images_per_batch(self.loading) for suite in self.suites}
        options = {"torch": torch.__version__, "device": device.type}
        if precision != "float32":  # folders of versions that knew no other are gone on from
            options["precision"] = precision
        return identity_of(self.opened.model, task, self.suites, batches=batches, **options)

    def notes(self) -> list[str]:
        """What is to be known before the numbers come: how classes were matched, what was passed over."""
        lines = [*without_weights(self.opened), *(line for suite in self.suites for line in suite.remarks)]
        if self.opened.header is None:
            lines += scaled_as_imagenet(self.opened.spec, self.suites[0].images, self.task)
        return list(dict.fromkeys(lines))

    def remarks(self, timings: Mapping[str, Mapping[str, float]], precision: Precision) -> Iterator[str]:
        """What a reader of the table must know: mixed precision, samples, incomplete sets, time."""
        if precision != "float32":
            yield f"the forward pass is computed in {precision}; numbers differ a little from those in float32"
        for suite in self.suites:
            record, name = suite.record, suite.name
            if "sampled" in record:
                whole = f"{record['images']:,} images, seed {record['sample_seed']}"
                yield f"{name}: a sample of {record['sampled']:,} of {whole}"
            elif record["published_images"] not in (None, record["images"]):
                yield f"{name}: {record['images']:,} images; the published set has {record['published_images']:,}"
            spent = timings[name]
            share = {key: f"{100 * spent[f'{key}_share']:.0f} %" for key in WORK}
            yield (
                f"{name}: {spent['images']:,.0f} images in {spent['wall']:.1f} s, {spent['images_per_second']:,.0f} a "
                f"second and process; of the work {share['model']} in the model, {share['corruptions']} in the "
                f"corruptions, {share['reading']} reading"
            )
        yield from self.task.remarks(self.suites)

    def _write(
        self,
        out: Path,
        results: Mapping[str, SuiteResult],
        table: Table,
        timings: Mapping[str, Mapping[str, float]],
        precision: Precision,
    ) -> None:
        spec = self.opened.spec
        text = {
            **self.asked,
            "preprocessing": {
                "input_size": self.opened.input_size,
                "mean": spec.mean,
                "std": spec.std,
                "pixels": SCALE,
                "precision": precision,
            },
            "suites": {suite.name: _suite_json(suite, results[suite.name]) for suite in self.suites},
            "timings": timings,
            "environment": environment(),
            **self.task.about(),
        }
        with atomic_write(out / "evaluation.json") as file:
            file.write(json.dumps(text).encode())
        lines = [
            f"# {self.asked['model']}",
            "",
            str(table),
            "",
            *(f"- {line}" for line in (*self.notes(), *self.remarks(timings, precision))),
        ]
        for title, more in self.task.more_tables(self.asked["model"], results, self.suites).items():
            lines += ["", f"## {title}", "", str(more)]
        with atomic_write(out / "evaluation.md") as file:
            file.write(("\n".join(lines) + "\n").encode())


@dataclass(frozen=True, repr=False)
class EvaluationResult(Shown):
    """What an evaluation found; it prints as its table and what a reader of that must know.

    Attributes:
        suites: Suite -> scores: `mean`, `metrics` of each cell, `per_image()`.
        table: The task's own.
        notes: How classes were matched, what was passed over.
        remarks: Samples, incomplete sets, time.
        folder: Where cells and `evaluation.json` lie; None if nothing is kept.
    """

    suites: Mapping[str, SuiteResult]
    table: Table
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    folder: Path | None = None

    def __getitem__(self, suite: str) -> SuiteResult:
        return self.suites[suite]

    def parts(self) -> Iterator[Table | str]:
        """Notes, table, remarks."""
        yield from self.notes
        yield self.table
        yield from self.remarks


def evaluate(
    model: AnyModel,
    data: str | Path | DataSource | Sequence[Suite] | Any = None,
    suites: str | Sequence[str] | Mapping[str, SuiteSource] | None = None,
    *,
    split: str | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    task: BaseTask[Any] | str | None = None,
    task_options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    size: Size | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    classes: Sequence[str] | None = None,
    batch: int | None = None,
    workers: int = 0,
    precision: Asked = "float32",
    out: str | Path | None = None,
    console: AnyConsole = False,
    trust_builder: bool = False,
) -> EvaluationResult:
    """Scores a model on clean, shifted and corrupted images, as `adasap evaluate` does.

    Under torchrun the cells are shared out over the processes, and each gets all results.

    Args:
        model: A module (copied), a `ModelSpec`, a builder's name, a model file, a recipe or the folder of a run.
        data: `KIND:PATH`, a `DataSource`, or a map-style data set of (image, target); or opened suites, which need no
            `suites`. Or a recipe or the folder of a run, whose test data with their resizing, suites and task are
            taken; without data those of the model, if it is one.
        suites: Names, `NAME=PLACE`, or name -> `SuiteSource`; a source without data takes `data`. By default all of the
            recipe that the data are of, else `clean`.
        split: Part of data that are named; by default `test`, or what the data call it.
        corruptions: Only these, of suites that are named.
        severities: Only these of 1 to 5, of suites that are named.
        task: What good means: `classification`, `detection`, `segmentation`, `package.module:Class` of your own, or a
            task itself; by default what named data are for, else classification.
        task_options: Keys of a recipe's `task:`, such as `{"coco": True}`, of a task that is named.
        limit: A sample of so many images, the same in all cells.
        seed: Of the sample.
        size: Of the images, where neither the model nor its kind nor the data know: a side, or channels, height, width.
        mean: Per channel, of a module that no builder or file knows: 8-bit images are prepared as
            (x / 255 - mean) / std; by default ImageNet's.
        std: Likewise.
        classes: Names of the model's outputs, by which labels are numbered; by default those that its file keeps.
        batch: Images per batch; by default 500, above 64 pixels 50, and 32 of a data set of your own.
        workers: Processes that load and corrupt images ahead.
        precision: Of the forward pass: `float32`, `bf16`, `fp16` (GPU only), or `auto`, bf16 where it is native.
        out: Folder: cells as they come, `evaluation.json` and `evaluation.md`; the same call goes on where it was. By
            default nothing is kept.
        console: `True` shows a bar, or lines where none can move, and prints the result; `json` prints one object a
            line (`docs/logs.md`).
        trust_builder: Let a file import the module that it names.
    Raises:
        AdasapError: Before any evaluation, for a model, data and task that do not fit each other.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> found = evaluate(net, "digits:", ["clean", "corrupted"], corruptions=["fog"], severities=[1, 5], limit=20)
        >>> list(found["corrupted"].metrics), len(found["clean"].per_image())
        ([Cell(corruption='fog', severity=1), Cell(corruption='fog', severity=5)], 20)
    """
    recipe = _trusted(recipe_named(data, model), model, trust_builder)
    given: list[Suite] = [*data] if _are_suites(data) else []  # type: ignore[misc]
    test = None if given or data is None or isinstance(data, str | Path | DataSource) else data
    if test is not None:
        require_indexed(test)
    sources = {} if given else sources_of(data, suites, corruptions, severities, split=split, recipe=recipe)
    kind, known = _kind_of(task, sources, recipe)
    options = parse_options({**known, **(task_options or {})}, kind.options_type, place="task.")
    if size is None and kind.name == DEFAULT_TASK and not isinstance(model, nn.Module):
        size = side_of(sources)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # weights that no file fills: the same in every process and when the call goes on
        opened = open_any(model, size=size, mean=mean, std=std, trust_builder=trust_builder)
        opened = replace(opened, spec=sized(opened.spec, given[0].images if given else test, side=side_of(sources)))
        if isinstance(task, BaseTask):
            found = given or own_suites(sources, test, task)
        else:
            known_classes = classes or classes_of(opened)
            of = Opening(spec=opened.spec, model=opened.model, classes=known_classes, options=options, trust_code=True)
            found = given or kind.open_suites(sources, of, test=test)
            task = kind.opened(options, opened.spec, classes=class_list(found[0].images), channels_last=True)
        some = [suite.sampled(limit, seed=seed) if limit else suite for suite in found]
        place = str(data) if isinstance(data, str | Path) else None if data is None else type(data).__name__
        asked = {"model": opened.title, "data": place, "limit": limit, "seed": seed}
        evaluation = Evaluation(opened, task, some, Loading(batch, workers), asked, precision)
        folder, shown = None if out is None else Path(out), console_of(console)
        with processes() as is_first:
            return evaluation.run(folder, shown if is_first else open_console(quiet=True))


def _are_suites(data: Any) -> bool:
    return isinstance(data, list | tuple) and bool(data) and all(hasattr(one, "cells") for one in data)


def _trusted(recipe: Recipe | None, model: AnyModel, trust_builder: bool) -> Recipe | None:
    """The recipe that data are taken from, if it names no code of the user's or the flag was given."""
    trust_builder = trust_builder or (isinstance(model, ModelName) and model.trust_builder)
    for code in () if recipe is None else recipe.own_code:
        require_trust(code, trust_builder, "the recipe")
    return None if recipe is None else recipe.trusted()


def _kind_of(
    task: BaseTask[Any] | str | None, sources: Mapping[str, SuiteSource], recipe: Recipe | None
) -> tuple[type[BaseTask[Any]], Mapping[str, Any]]:
    """The class of a task: as it is given, of the recipe, or what data are for; and the options of the recipe's."""
    if isinstance(task, BaseTask):
        return type(task), {}
    if task is None and recipe is not None:
        return recipe.task_class(), plain_options(recipe.task.options) or {}
    return TaskSpec(task or task_of(sources.values())).task_class(trust_code=True), {}  # a name is the user's word


def _suite_json(suite: Suite, result: SuiteResult) -> dict[str, Any]:
    return {**result.to_json(), **_score_json(result), "suite": dict(suite.record), "remarks": list(suite.remarks)}


def _score_json(result: SuiteResult) -> dict[str, Any]:
    """The mean with its interval."""
    interval = bootstrap_mean(result.per_image(), resamples=2000)
    bounds = {"level": 0.95, "low": interval.low, "high": interval.high, "over": "images, of the mean over cells"}
    return {"mean": result.mean, "num_images": len(next(iter(result.cells.values()))), "interval": bounds}


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _timings(cells: Mapping[Cell, CellResult]) -> dict[str, float]:
    """Seconds summed over the cells, and shares of the work."""
    total = {key: sum(cell.timings[key] for cell in cells.values()) for key in ("wall", *WORK)}
    images = sum(len(cell.scores) for cell in cells.values())
    work = sum(total[key] for key in WORK)
    shares = {f"{key}_share": total[key] / work for key in WORK}
    return {**total, "images": images, "images_per_second": images / total["wall"], **shares}
