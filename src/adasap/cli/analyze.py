"""`adasap analyze MODEL...`: sharpness, Hessian, removal of channels and loss landscapes, on a page and as JSON."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from adasap.analysis import INSTRUMENTS, AnalysisFile, AnalysisOptions, Subject, memory_need
from adasap.analysis import analyze as run_analysis
from adasap.analysis.file import NAME
from adasap.cli.models import MeanOption, ModelOption, SizeOption, StdOption, TrustOption, WeightsOption
from adasap.cli.runs import write_page
from adasap.cli.subjects import folder_of, is_run, open_candidates, open_images, run_recipe_of, subjects_of
from adasap.cli.suites import SuiteOptions
from adasap.config import parse_options, set_value
from adasap.data import DataSource
from adasap.errors import DataError
from adasap.report import environment
from adasap.report.analysis import tables_of
from adasap.robustness.evaluate_folder import digest

BatchNorm = Literal["frozen", "folded"]


def analyze(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Model files, named models or recipes, as for evaluate, or the folder of a run; NAME=MODEL names one.",
        ),
    ],
    data: Annotated[
        str | None, typer.Option(help="KIND:PATH of a data set.", show_default="training data of a run's recipe")
    ] = None,
    split: Annotated[str, typer.Option(help="Of --data; the usual measures are taken on training images.")] = "train",
    images: Annotated[int, typer.Option(min=1, help="Images, drawn by --seed.")] = 256,
    batch: Annotated[int, typer.Option(min=1, help="m: each batch of m images is maximised by itself.")] = 32,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(INSTRUMENTS)}; may be repeated.")] = None,
    batch_norm: Annotated[
        BatchNorm, typer.Option(help="frozen: evaluation statistics; folded: into the layer before, too.")
    ] = "frozen",
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Option of an instrument, such as worst_case.steps=20.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of images, noise and probes.")] = 0,
    size: SizeOption = None,
    weights: WeightsOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    model_option: ModelOption = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.", show_default="cuda where there is one")] = "",
    out: Annotated[Path | None, typer.Option(help="Folder.", show_default="the run's, else analysis")] = None,
    trust_builder: TrustOption = False,
) -> None:
    """Measure how sharp the minimum is, and what its channels are worth. The same command goes on where it was."""
    console, started = Console(), time.perf_counter()
    options = _options(settings or (), seed)
    source = _source(models, data)
    if images < batch:
        raise DataError(f"--images {images} make no batch of {batch}; give a lower --batch")
    candidates = open_candidates(
        models, trust_builder, size=size, weights=weights, mean=mean, std=std, options=model_option or ()
    )
    sample = open_images(source, split, images // batch * batch, seed)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    subjects, folded = subjects_of(candidates, sample, batch, place, folded=batch_norm == "folded")
    out = out or (folder_of(models[0]) if is_run(models[0]) else Path("analysis"))
    about = {
        "command": shlex.join(["adasap", *sys.argv[1:]]),
        "environment": environment(),
        "data": {"source": data or "the run's training data", "split": split, "images": len(sample), "batch": batch},
        "batch_norm": batch_norm,
        "folded": folded,
        "plans": {name: subject.plan is not None for name, subject in subjects.items()},
    }
    file = AnalysisFile(out / NAME, _identity(subjects, batch, batch_norm))
    file.set(**about)
    for line in _opening(subjects, options, about):
        console.print(line, highlight=False, soft_wrap=True)
    with _Bar(console) as bar:
        content = run_analysis(subjects, options, only=only, file=file, watch=bar)
    for table in tables_of(content):
        console.print(table.title, style="bold", highlight=False)
        console.print(table.table)
    _write_pages(out, content)
    console.print(
        f"{time.perf_counter() - started:.0f} s. The page: {out / 'analysis.html'}; numbers: {out / NAME}",
        highlight=False,
        soft_wrap=True,
    )


def _options(settings: Any, seed: int) -> AnalysisOptions:
    tree: dict[str, Any] = {"seed": seed}
    for setting in settings:
        set_value(tree, setting)
    return parse_options(tree, AnalysisOptions)


def _source(models: list[str], data: str | None) -> DataSource:
    if data is not None:
        return SuiteOptions().data_source(data)
    for model in models:
        if is_run(model):
            return run_recipe_of(model).data.train
    raise DataError("--data is missing: write KIND:PATH, such as npz:train.npz or digits:")


def _identity(subjects: dict[str, Subject], batch: int, batch_norm: str) -> dict[str, Any]:
    """What the numbers depend on: weights, images as they enter, and the versions that computed them."""
    first = next(iter(subjects.values())).objective
    images = digest([str(batch)], [tensor for prepared in first.batches for tensor in prepared])
    models = {
        f"model {name}": digest([repr(s.objective.model), batch_norm], s.objective.model.state_dict().values())
        for name, s in subjects.items()
    }
    return {"data": images, "torch": torch.__version__, "device": first.weights[0].device.type, **models}


def _opening(subjects: dict[str, Subject], options: AnalysisOptions, about: dict[str, Any]) -> list[str]:
    """What is about to be done, and what memory it takes."""
    data, norms = about["data"], "running statistics, frozen"
    if about["batch_norm"] == "folded":
        norms += f"; {about['folded']} folded into the layer before"
    lines = [
        f"{data['images']} images of {data['source']} ({data['split']}), batches of {data['batch']}; "
        f"batch norms: {norms}"
    ]
    return lines + [f"{name}: memory {memory_need(subject.objective, options)}" for name, subject in subjects.items()]


def _write_pages(out: Path, content: dict[str, Any]) -> None:
    """The analysis' own page, and the run's anew if it lies in a run's folder."""
    from adasap.report.analysis_page import write_analysis_page
    from adasap.report.comparison import compare_runs
    from adasap.report.run_data import read_run

    write_analysis_page(content, out)
    if (out / "result.json").is_file():
        write_page(compare_runs([read_run(out)]), out)


class _Bar:
    """One line for what is being done, and a line for each part that is there."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (TextColumn("{task.description}"), BarColumn(pulse_style="blue"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, model: str, instrument: str, part: str, found: dict[str, Any] | None) -> None:
        title = f"{model}: {instrument}" + (f", {part}" if part != instrument else "")
        self._progress.update(self._task, description=title)
        if found is not None:
            self._console.print(f"{title} ({found['seconds']:.1f} s)", highlight=False)
