"""An evaluation of the command line: checked, run, printed and written down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.progress import Progress

from adasap.cli.models import OpenedModel
from adasap.corruptions import BENCHMARK, NUM_SEVERITIES
from adasap.export import atomic_write
from adasap.report import Table, environment, robustness_tables
from adasap.robustness import (
    CellResult,
    DetectionSuite,
    EvaluationFolder,
    ImageSuite,
    Loading,
    SuiteResult,
    bootstrap_mean,
    check_suite,
    evaluate_suites,
    identity_of,
)
from adasap.tasks import ClassificationTask, Task, count_outputs
from adasap.training import is_main_process

WORK = ("model", "corruptions", "reading")
SCALE = "(x / 255 - mean) / std"
CellResults = Mapping[str, Mapping[str, CellResult]]


@contextmanager
def processes() -> Iterator[bool]:
    """Joins the processes of torchrun, if it started this one; gives whether this is the one that prints and writes."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield True
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

    What it does for a classifier; `DetectionEvaluation` says what a detector needs instead.

    Attributes:
        opened: The model.
        suites: With different names.
        loading: How batches are made.
        asked: What the user asked for, as it goes into the result: `model`, `data`, `limit`, `seed`.
    """

    opened: OpenedModel
    suites: Sequence[ImageSuite | DetectionSuite]
    loading: Loading
    asked: Mapping[str, Any]

    def run(self, out: Path | None, console: Console) -> None:
        """Checks, evaluates, prints, and writes what the first process is to write."""
        task, device = self.checked_task(), _device()
        folder = None
        if out is not None:
            folder = EvaluationFolder(out, self._identity(task, device), writes=is_main_process())
        model = self.opened.model.to(device).to(memory_format=torch.channels_last)
        total = sum(len(suite.cell_names()) for suite in self.suites)
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task("", total=total)

            def observe(suite: str, cell: str, result: CellResult) -> None:
                progress.update(bar, advance=1, description=f"{suite}: {cell}")

            cells = evaluate_suites(
                model, task, self.suites, device, loading=self.loading, folder=folder, observe=observe
            )
        results = {name: SuiteResult.of_cells(name, dict(of_suite)) for name, of_suite in cells.items()}
        table, timings = self.table(results), {name: _timings(of_suite) for name, of_suite in cells.items()}
        console.print(table)
        for line in self.remarks(timings):
            console.print(line, highlight=False, soft_wrap=True)
        if out is not None and is_main_process():
            self._write(out, results, table, timings)

    def checked_task(self) -> Task[Any]:
        """The task, after one forward pass: the model must fit every suite."""
        spec = self.opened.spec
        num_outputs = count_outputs(self.opened.model, spec.input_size)
        for suite in self.suites:
            assert isinstance(suite, ImageSuite)
            check_suite(suite, input_size=spec.input_size, num_outputs=num_outputs)
        return ClassificationTask(mean=spec.mean, std=spec.std, channels_last=True)

    def table(self, results: Mapping[str, SuiteResult]) -> Table:
        """What is printed and written first."""
        return _table(results)

    def about(self) -> dict[str, Any]:
        """What else `evaluation.json` says."""
        return {}

    def _identity(self, task: Task[Any], device: torch.device) -> dict[str, Any]:
        batches = {suite.name: suite.images_per_batch(self.loading) for suite in self.suites}
        versions = {"torch": torch.__version__, "device": device.type}
        return identity_of(self.opened.model, task, self.suites, batches=batches, **versions)

    def remarks(self, timings: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
        """What a reader of the table must know: samples, incomplete sets, time."""
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

    def metrics(self, results: Mapping[str, SuiteResult]) -> dict[str, Table]:
        """Groups of corruptions, ratios and mCE, calibration: where the first suite is a clean one to compare with."""
        first, *others = self.suites
        if len(first.cell_names()) > 1:
            return {}
        whole = len(BENCHMARK) * NUM_SEVERITIES
        imagenet_c = [s.name for s in others if s.record["kind"] == "imagenet-c" and len(s.cell_names()) == whole]
        return robustness_tables({self.asked["model"]: results}, imagenet_c=imagenet_c)

    def _write(
        self, out: Path, results: Mapping[str, SuiteResult], table: Table, timings: Mapping[str, Mapping[str, float]]
    ) -> None:
        spec = self.opened.spec
        text = {
            **self.asked,
            "preprocessing": {
                "input_size": spec.input_size,
                "mean": spec.mean,
                "std": spec.std,
                "pixels": SCALE,
                "precision": "float32",
            },
            "suites": {suite.name: _suite_json(suite, results[suite.name]) for suite in self.suites},
            "timings": timings,
            "environment": environment(),
            **self.about(),
        }
        with atomic_write(out / "evaluation.json") as file:
            file.write(json.dumps(text).encode())
        lines = [f"# {self.asked['model']}", "", str(table), "", *(f"- {line}" for line in self.remarks(timings))]
        for title, more in self.metrics(results).items():
            lines += ["", f"## {title}", "", str(more)]
        with atomic_write(out / "evaluation.md") as file:
            file.write(("\n".join(lines) + "\n").encode())


def _suite_json(suite: ImageSuite | DetectionSuite, result: SuiteResult) -> dict[str, Any]:
    interval = bootstrap_mean(result.per_image(), resamples=2000)
    bounds = {"level": 0.95, "low": interval.low, "high": interval.high, "over": "images, of the mean over cells"}
    return {**result.to_json(), "interval": bounds, "suite": dict(suite.record)}


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def _timings(cells: Mapping[str, CellResult]) -> dict[str, float]:
    """Seconds summed over the cells, and shares of the work."""
    total = {key: sum(cell.timings[key] for cell in cells.values()) for key in ("wall", *WORK)}
    images = sum(len(cell.scores) for cell in cells.values())
    work = sum(total[key] for key in WORK)
    shares = {f"{key}_share": total[key] / work for key in WORK}
    return {**total, "images": images, "images_per_second": images / total["wall"], **shares}


def _table(results: Mapping[str, SuiteResult]) -> Table:
    """A row per data set or corruption, and the mean of each suite with its interval."""
    rows = []
    for name, result in results.items():
        by_corruption: dict[str, dict[str, dict[str, float]]] = {}
        for cell, metrics in result.metrics.items():
            corruption, _, severity = cell.rpartition("/")
            by_corruption.setdefault(corruption, {})[severity] = metrics
        for corruption, by_severity in by_corruption.items():
            rows.append([corruption or name, *_means(by_severity)])
        interval = bootstrap_mean(result.per_image(), resamples=2000)
        low, high = 100 * interval.low, 100 * interval.high
        rows.append([f"mean of {name} (95 %: {low:.2f} to {high:.2f})", f"{100 * interval.value:.2f}", "", ""])
    return Table(["", "accuracy (%)", "loss", "accuracy by severity"], rows)


def _means(by_severity: Mapping[str, Mapping[str, float]]) -> tuple[str, str, str]:
    accuracy = [metrics["accuracy"] for metrics in by_severity.values()]
    loss = [metrics["loss"] for metrics in by_severity.values()]
    each = ", ".join(f"{s}: {100 * metrics['accuracy']:.1f}" for s, metrics in by_severity.items() if s != "clean")
    return f"{100 * sum(accuracy) / len(accuracy):.2f}", f"{sum(loss) / len(loss):.4f}", each
