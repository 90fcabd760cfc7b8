"""An evaluation that was opened: checked, run, printed and written down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from adasap.evaluation import (
    Cell,
    CellResult,
    EvaluationFolder,
    Loading,
    Suite,
    SuiteResult,
    evaluate_suites,
    identity_of,
    suite_results,
)
from adasap.evaluation.statistics import bootstrap_mean
from adasap.experiments.name_models import OpenedModel, scaled_as_imagenet, without_weights
from adasap.experiments.progress import SECONDS
from adasap.experiments.terminal import Every, JsonConsole, is_live, open_progress
from adasap.io import atomic_write
from adasap.processor import Precision
from adasap.report import Shown, Table, environment
from adasap.report.side_by_side import SideBySide
from adasap.sealed import finite
from adasap.tasks import BaseTask
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

    def check(self, out: Path | None) -> EvaluationFolder | None:
        """Whether the model can be scored; and the folder of its cells, if it has one.

        Raises:
            DataError: If not, or if the folder holds another evaluation.
        """
        self.task.check_suites(self.opened.model, self.suites, self.opened.input_size)
        if out is None:
            return None
        return EvaluationFolder(out, self._identity(self._settled()), is_first=is_main_process())

    def run(self, out: Path | None, console: Console) -> EvaluationResult:
        """Checks, evaluates, prints, and writes what the first process is to write."""
        folder = self.check(out)
        for line in self.notes():
            console.print(line, soft_wrap=True)
        found = self.score(folder, console)
        console.print(found.table)
        self.tell(found, console)
        for line in found.remarks:
            console.print(line, soft_wrap=True)
        return found

    def score(self, folder: EvaluationFolder | None, console: Console, name: str = "") -> EvaluationResult:
        """Evaluates and writes; the console is told of the cells.

        Args:
            folder: As `check` gave it.
            console: Told what happens.
            name: Of one of several models, for whoever watches.
        """
        task, device, precision = self.task, _device(), self._settled()
        model = self.opened.model.to(device).to(memory_format=torch.channels_last)
        total, number, due = sum(len(suite.cells) for suite in self.suites), count(1), Every(SECONDS)
        before, model_key = (f"{name}, ", {"model": name}) if name else ("", {})
        with open_progress(console) as progress:
            bar = progress.add_task("", total=total)

            def observe(suite: str, cell: Cell, result: CellResult) -> None:
                progress.update(bar, advance=1, description=f"{before}{suite}: {cell}")
                done = next(number)
                if isinstance(console, JsonConsole):
                    keys = {**model_key, "suite": suite, "cell": str(cell), "number": done, "cells": total}
                    console.tell("cell", **keys, metrics=finite(dict(result.metrics)))
                elif not is_live(console) and due():
                    console.print(f"{before}{suite} {cell}, cell {done:,} of {total:,}", soft_wrap=True)

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
        remarks = (*([] if folder is None else folder.notes), *self.remarks(timings, precision))
        if folder is not None and is_main_process():
            self._write(folder.path, results, table, timings, precision)
        return EvaluationResult(results, table, tuple(self.notes()), remarks, None if folder is None else folder.path)

    def tell(self, found: EvaluationResult, console: Console, **more: Any) -> None:
        """Tells a console for programs of each suite."""
        if isinstance(console, JsonConsole):
            for name, result in found.suites.items():
                keys = {**more, "suite": name, "metric": self.task.primary_metric.key}
                console.tell("suite", **keys, **_score_json(result))

    def _settled(self) -> Precision:
        return settled(self.precision, _device())

    def _identity(self, precision: Precision) -> dict[str, Any]:
        batches = {suite.name: suite.images_per_batch(self.loading) for suite in self.suites}
        options = {"torch": torch.__version__, "device": _device().type}
        if precision != "float32":  # folders of versions that knew no other are gone on from
            options["precision"] = precision
        return identity_of(self.opened.model, self.task, self.suites, batches=batches, **options)

    def notes(self) -> list[str]:
        """What is to be known before the numbers come: how classes were matched, what was passed over."""
        lines = [*self.opened.notes, *without_weights(self.opened)]
        lines += [line for suite in self.suites for line in suite.remarks]
        if self.opened.header is None and not self.opened.exported:
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
        suites: Suite -> scores: `mean`, `metrics` of each cell, `per_image()`; of several models those of the first.
        table: The task's own; of several models one row each, with differences to the first.
        notes: How classes were matched, what was passed over.
        remarks: Samples, incomplete sets, time.
        folder: Where cells and `evaluation.json` lie, of several models in a folder each; None if nothing is kept.
        models: Of several models each by its name; empty for one.
        comparison: Of several models: differences and gains, paired image by image.
    """

    suites: Mapping[str, SuiteResult]
    table: Table
    notes: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    folder: Path | None = None
    models: Mapping[str, EvaluationResult] = field(default_factory=dict)
    comparison: SideBySide | None = None

    def __getitem__(self, suite: str) -> SuiteResult:
        return self.suites[suite]

    def parts(self) -> Iterator[Table | str]:
        """Notes, table, remarks."""
        yield from self.notes
        yield self.table
        yield from self.remarks


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
