"""An analysis of models: opened with their data, measured, shown, and kept where somebody wants it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from adasap.analysis import AnalysisFile, AnalysisOptions, Subject, memory_need
from adasap.analysis import analyze as run_analysis
from adasap.analysis.file import NAME
from adasap.analysis.report.tables import tables_of
from adasap.data import DataSource
from adasap.data.items import tensors_in
from adasap.errors import DataError
from adasap.evaluation.folder import digest
from adasap.experiments.name_models import AnyModel, ModelName, Size, scaled_as_imagenet
from adasap.experiments.name_suites import source_named
from adasap.experiments.open_models import open_candidates, open_images, run_recipe_of, subjects_of
from adasap.experiments.page import write_page
from adasap.experiments.recipe import Overrides, overridden, parse_options
from adasap.experiments.terminal import PlainColumn, console_of
from adasap.report import Shown, Table, environment
from adasap.tasks import BaseTask

PAGE = "analysis.html"
"""Name of the page of an analysis."""


@dataclass(frozen=True, repr=False)
class Analysis(Shown):
    """What an analysis found; it prints as its tables.

    Attributes:
        content: Everything, as `analysis.json` has it: `content["models"][model][instrument][part]`.
        folder: Where page and numbers lie; None if nothing is kept.
    """

    content: Mapping[str, Any]
    folder: Path | None = None

    @property
    def models(self) -> Mapping[str, Any]:
        """Model -> instrument -> part -> numbers."""
        found: Mapping[str, Any] = self.content["models"]
        return found

    def parts(self) -> Iterator[Table | str]:
        """A title and a table for each of sharpness, Hessian and removal that was measured."""
        for titled in tables_of(self.content):
            yield titled.title
            yield titled.table
        if self.folder is not None:
            yield f"The page: {self.folder / PAGE}; numbers: {self.folder / NAME}"


def analyze(
    models: AnyModel | Sequence[AnyModel] | Mapping[str, AnyModel],
    data: str | DataSource | Any = None,
    *,
    task: BaseTask[Any] | None = None,
    split: str = "train",
    images: int = 256,
    batch: int = 32,
    only: Sequence[str] | None = None,
    batch_norm: Literal["frozen", "folded"] = "frozen",
    options: AnalysisOptions | Overrides = (),
    seed: int = 0,
    size: Size | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    device: str = "",
    out: str | Path | None = None,
    console: Console | bool = False,
    command: str = "",
    trust_builder: bool = False,
) -> Analysis:
    """Measures how sharp the minimum is, and what its channels are worth, as `adasap analyze` does.

    Args:
        models: One or several: modules (copied), `ModelSpec`s, builders' names, model files, recipes, or folders of
            runs, which hold several; a mapping, or `NAME=MODEL` in a text, names them.
        data: `KIND:PATH`, a `DataSource`, or a map-style data set of (image, target); by default the training data of
            the run.
        task: What the loss is, of models that no run knows; by default that of the data.
        split: Of a named data set; the usual measures are taken on training images.
        images: How many, drawn by `seed`.
        batch: m: each batch of m images is maximised by itself.
        only: Names of instruments (`adasap.analysis.INSTRUMENTS`); by default all.
        batch_norm: `frozen`: evaluation statistics; `folded`: into the layer before, too.
        options: Of the instruments: dotted key -> value, such as `{"worst_case.steps": 20}`, or texts such as
            `"worst_case.steps=20"`, or all of them.
        seed: Of every random draw.
        size: Of the images, where neither a model nor its kind nor the data set knows.
        mean: Per channel, of a module that no builder or file knows: 8-bit images are prepared as
            (x / 255 - mean) / std; by default ImageNet's.
        std: Likewise.
        device: `cpu` or `cuda`; by default `cuda` where there is one.
        out: Folder for the page and the numbers: the same call goes on where it was. By default nothing is kept.
        console: `True` shows what is being done.
        command: How the user started it, for the page.
        trust_builder: Let a file import the module that it names.
    Raises:
        DataError: For data that do not fit, or a folder that holds another analysis.
        ModelError: For a model that cannot be opened, or models that cannot be analysed together.

    Example:
        >>> torch.manual_seed(0)  # doctest: +ELLIPSIS
        <torch...
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> examples = [(torch.rand(3, 8, 8), index % 2) for index in range(8)]
        >>> found = analyze({"net": net}, examples, images=8, batch=4, only=["loss", "trace"])
        >>> found.models["net"]["loss"]["loss"]["parameters"]
        386
    """
    console, given = console_of(console), _listed(models)
    chosen = _options(options, seed)
    if images < batch:
        raise DataError(f"--images {images} make no batch of {batch}; give a lower --batch")
    source = source_of(given, data) if data is None or isinstance(data, str) else data
    candidates = open_candidates(given, trust_builder, size=size, mean=mean, std=std)
    count = images // batch * batch
    candidates, sample, remarks = open_images(source, split, count, seed, candidates, task)
    for one in candidates:
        if one.plan is None and one.recipe is None:
            remarks += scaled_as_imagenet(one.spec, sample, task)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data_for = source.row.task if isinstance(source, DataSource) else ""
    subjects, folded = subjects_of(
        candidates, sample, batch, place, task=task, data_for=data_for, folded=batch_norm == "folded"
    )
    where = "the run's training data" if data is None else data if isinstance(data, str) else _title(data)
    about = {
        "command": command,
        "environment": environment(),
        "data": {"source": where, "split": split, "images": len(sample), "batch": batch},
        "batch_norm": batch_norm,
        "folded": folded,
        "plans": {name: subject.plan is not None for name, subject in subjects.items()},
    }
    folder = None if out is None else Path(out)
    file = AnalysisFile(None if folder is None else folder / NAME, identity_of(subjects, batch, batch_norm))
    file.set(**about)
    for line in (*remarks, *opening_lines(subjects, chosen, about)):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    with AnalysisBar(console) as bar:
        content = run_analysis(subjects, chosen, only=only, file=file, watch=bar)
    if folder is not None:
        write_pages(folder, content)
    return Analysis(content, folder)


def _listed(
    models: AnyModel | Sequence[AnyModel] | Mapping[str, AnyModel],
) -> list[AnyModel | tuple[str, AnyModel]]:
    """Models, with their names where they have any; a `ModuleList` or `Sequential` is one model."""
    if isinstance(models, Mapping):
        return list(models.items())
    return list(models) if isinstance(models, list | tuple) else [models]  # type: ignore[list-item]


def _options(options: AnalysisOptions | Overrides, seed: int) -> AnalysisOptions:
    """The options of the instruments, as they are changed."""
    if isinstance(options, AnalysisOptions):
        return replace(options, seed=seed)
    return parse_options(overridden({"seed": seed}, options), AnalysisOptions)


def source_of(models: Sequence[AnyModel | tuple[str, AnyModel]], data: str | None) -> DataSource:
    """The data set that is named, or the training data of the first run among the models."""
    if data is not None:
        return source_named(data)
    for entry in models:
        model = entry[1] if isinstance(entry, tuple) else entry
        text = model.name if isinstance(model, ModelName) else model
        if isinstance(text, str | Path) and (recipe := run_recipe_of(str(text))) is not None:
            return recipe.data.train
    raise DataError("--data is missing: write KIND:PATH, such as npz:train.npz or digits:")


def _title(data: Any) -> str:
    """What a data set is called: as it would be named, or by its class."""
    if not isinstance(data, DataSource):
        return type(data).__name__
    return data.kind if data.is_own else f"{data.kind}:{data.path or ''}"


def identity_of(subjects: dict[str, Subject], batch: int, batch_norm: str) -> dict[str, Any]:
    """What the numbers depend on: weights, images as they enter, and the versions that computed them."""
    first = next(iter(subjects.values())).objective
    images = digest([str(batch)], tensors_in(first.batches))
    models = {
        f"model {name}": digest([repr(s.objective.model), batch_norm], s.objective.model.state_dict().values())
        for name, s in subjects.items()
    }
    return {"data": images, "torch": torch.__version__, "device": first.weights[0].device.type, **models}


def opening_lines(subjects: dict[str, Subject], options: AnalysisOptions, about: dict[str, Any]) -> list[str]:
    """What is about to be done, and what memory it takes."""
    data, norms = about["data"], "running statistics, frozen"
    if about["batch_norm"] == "folded":
        norms += f"; {about['folded']} folded into the layer before"
    lines = [
        f"{data['images']} images of {data['source']} ({data['split']}), batches of {data['batch']}; "
        f"batch norms: {norms}"
    ]
    return lines + [f"{name}: memory {memory_need(subject.objective, options)}" for name, subject in subjects.items()]


def write_pages(out: Path, content: dict[str, Any]) -> None:
    """The analysis' own page, and the run's anew if it lies in a run's folder."""
    from adasap.analysis.report.page import write_analysis_page
    from adasap.report.comparison import compare_runs
    from adasap.report.run_data import read_run

    write_analysis_page(content, out)
    if (out / "result.json").is_file():
        write_page(compare_runs([read_run(out)]), out)


class AnalysisBar:
    """One line for what is being done, and a line for each part that is there."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (PlainColumn("{task.description}"), BarColumn(pulse_style="blue"), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("", total=None)

    def __enter__(self) -> AnalysisBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, model: str, instrument: str, part: str, found: dict[str, Any] | None) -> None:
        title = f"{model}: {instrument}" + (f", {part}" if part != instrument else "")
        self._progress.update(self._task, description=title)
        if found is not None:
            self._console.print(f"{title} ({found['seconds']:.1f} s)")
