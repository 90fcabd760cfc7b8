"""A recipe as a run in a folder: opened, compressed, profiled, written down."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adasap.data.checking import require_readable
from adasap.data.images import is_image_set
from adasap.data.items import is_indexed
from adasap.errors import AdasapError, DataError, RecipeError
from adasap.experiments.classes import opening_lines
from adasap.experiments.page import write_page
from adasap.experiments.progress import progress_on
from adasap.experiments.recipe import Overrides, Recipe, dump_recipe, open_recipe, parse_recipe, recipe_tree
from adasap.experiments.terminal import AnyConsole, JsonConsole, console_of
from adasap.experiments.trust import require_trusted_recipe
from adasap.export import kept_classes, save
from adasap.export.model_file_reader import CLASSES
from adasap.groups.group import not_exact
from adasap.io import atomic_write, parse_yaml, read_text
from adasap.models import open_model
from adasap.pipeline import Result, compress
from adasap.profiling.profile import Profile, profile_models
from adasap.pruning.plan import widths_after
from adasap.report import PAGE, Shown, Table, corruption_table, environment, gap_table, profile_table, stage_table
from adasap.report.comparison import compare_runs
from adasap.report.format import axis_title
from adasap.report.records import read_records
from adasap.report.run_data import RESULT, digests, read_run
from adasap.report.target import measure_target
from adasap.report.task_record import TaskRecord
from adasap.sealed import finite, is_whole_json, write_sealed_json, write_sealed_tensors
from adasap.tasks import BaseTask, Data
from adasap.tasks.data import Opening, class_list, names_of
from adasap.training import Observer, Record, ResumeRecord, derived_seed, ignore, is_main_process
from adasap.training.fingerprint import differences, flat_keys
from adasap.training.trackers import Trackers, require_installed

LATENCY_SECONDS = 2.0
"""Spent on each batch size when a finished run is timed, both models together."""


@dataclasses.dataclass(frozen=True, repr=False)
class FinishedRun(Shown):
    """What a run left behind; it prints as its tables.

    Attributes:
        folder: Where all of it lies.
        result: The compressed model, its plan, and the scores after each stage.
        profiles: Parameters, MACs, memory and latency of the `dense` and the `compressed` model.
        seconds: Of the run, evaluations included.
        task: What it was scored by.
        classes: Names of a classifier's outputs, or of a detector's labels 1, 2, ...
        target: The budget beside its measurement.
        recipe: With every default filled in.
    """

    folder: Path
    result: Result
    profiles: dict[str, Profile]
    seconds: float
    task: TaskRecord
    classes: tuple[str, ...] = ()
    target: str = ""
    recipe: Recipe = dataclasses.field(kw_only=True)

    @property
    def model(self) -> torch.nn.Module:
        """The compressed model."""
        return self.result.model

    @property
    def page(self) -> Path:
        """The page, which runs of a sweep do not have."""
        return self.folder / PAGE

    def parts(self) -> Iterator[Table | str]:
        """Scores of each stage, size and speed, what the run took."""
        yield stage_table(self.result.stages, self.task.metric)
        if self.profiles:
            yield profile_table(self.profiles)
            yield f"Budget: {self.target}"
        yield cost_line(self)
        yield f"All of it lies in {self.folder}"
        if self.page.is_file():
            yield f"The page: {self.page}"


def run(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    out: str | Path = "runs",
    overrides: Overrides = (),
    observe: Observer = ignore,
    console: AnyConsole = False,
    command: str = "",
    trust_builder: bool = False,
) -> FinishedRun:
    """Compresses by a recipe: a dense pretrained model in, a smaller robust one out, as `adasap compress` does.

    Args:
        recipe: A path of YAML, its keys as a mapping, or a `Recipe`.
        out: Folder in which the run's own folder is made, under the recipe's name. A run that was killed goes on from
            there to the same numbers; one that is finished is read.
        overrides: Dotted key -> value, such as `{"seed": 1, "fine_tune.epochs": 3}`, or texts such as `"seed=1"`.
        observe: Called with every record (`adasap.training.StepRecord` and others); watches, cannot steer.
        console: `True` shows a bar and a line for each stage on a terminal or in a notebook, and lines elsewhere, every
            30 s and at every stage; `json` prints one object a line (`docs/logs.md`); or a console of Rich.
        command: How the user started it, for the page.
        trust_builder: Let the recipe name a builder, task, data or cost of a module that is not ours.
    Raises:
        AdasapError: Before training, for anything in the recipe that cannot work.

    Example:
        >>> import tempfile
        >>> recipe = {
        ...     "name": "short",
        ...     "model": {"builder": "adasap:digits_net", "options": {"widths": [4, 8, 16]}},
        ...     "data": {"train": {"kind": "digits", "count": 64}, "test": {"kind": "digits", "count": 40}},
        ...     "warm_up": {"epochs": 1},
        ...     "pruning": {"epochs": 1, "budget": {"macs": 0.5}, "schedule": "one_shot", "recalibration_batches": 0},
        ...     "fine_tune": {"epochs": 1},
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = run(recipe, out=folder, overrides={"training.batch_size": 32})
        >>> list(found.result.stages), found.profiles["compressed"].macs <= 0.5 * found.profiles["dense"].macs
        (['dense', 'warmed up', 'pruned', 'recalibrated', 'fine-tuned'], True)
    """
    checked = open_recipe(recipe, overrides)
    return run_recipe(
        checked,
        Path(out) / checked.name,
        console_of(console),
        observe=observe,
        command=command,
        trust_builder=trust_builder,
    )


def open_data(
    recipe: Recipe,
    model: torch.nn.Module | None = None,
    *,
    kept_suites: Path | None = None,
    trust_code: bool = False,
) -> Data:
    """Training data, suites (the clean test set first) and a zero image of the model's input size.

    Labels are numbers of the classes that the weights keep, else of those of the training data, matched by name.

    Args:
        recipe: Names them.
        model: With ImageNet's 1,000 outputs, training data that use ImageNet's names are numbered by them.
        kept_suites: Where corrupted images are kept for further runs; None makes them anew.
        trust_code: Let the recipe name code of the user's.
    """
    kind = recipe.task.task_class(trust_code=trust_code)
    data = kind.open_data(
        recipe.data,
        Opening(
            spec=recipe.model,
            model=model,
            classes=kept_classes(recipe.model.weights),
            kept_suites=kept_suites,
            trust_code=trust_code,
        ),
    )
    return data.for_task(open_task(recipe, classes=class_list(data.train)))


def with_input_size(recipe: Recipe, data: Data) -> Recipe:
    """The recipe with the size of the images that its model was found to take."""
    channels, height, width = data.example.shape[1:]
    return dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, input_size=(channels, height, width)))


def require_readable_images(recipe: Recipe, data: Data) -> None:
    """Reads a sample of every set, so that a run does not stop at a broken image hours later.

    Raises:
        DataError: Names the images that cannot be read, or whose size is not the model's.
    """
    size = tuple(data.example.shape[1:]) if is_image_set(data.train) else None
    cropped = getattr(data.augmentation, "random_resized_crop", None) is not None
    options: dict[str, int] = {"seed": recipe.seed, "workers": recipe.training.num_workers}
    if is_indexed(data.train):
        require_readable(data.train, where="data.train", shape=None if cropped else size, **options)
    for suite in data.opened_suites:
        require_readable(suite.images, where=f"suite {suite.name!r}", shape=size, **options)


def open_task(recipe: Recipe, teacher: torch.nn.Module | None = None, *, classes: Sequence[str] = ()) -> BaseTask[Any]:
    """The recipe's task with the model's own preprocessing.

    Args:
        recipe: Names it; code of the user's is taken as trusted.
        teacher: The dense model, for losses that learn from it.
        classes: Names of the classes of the training data, for tasks whose numbers need them.
    """
    kind = recipe.task_class()
    return kind.opened(
        kind.options_type() if recipe.task.options is None else recipe.task.options,
        recipe.model,
        classes=classes,
        teacher=teacher,
        channels_last=recipe.training.runtime.channels_last,
    )


def run_recipe(
    recipe: Recipe,
    folder: Path,
    console: Console,
    *,
    observe: Observer = ignore,
    command: str = "",
    brief: bool = False,
    kept_suites: Path | None = None,
    trust_builder: bool = False,
) -> FinishedRun:
    """Compresses by a recipe; everything it did lies in the folder, and a killed run goes on from there.

    Args:
        recipe: What is run.
        folder: Of this run alone.
        console: Told what happens.
        observe: Called with every record.
        command: How the user started it, for the page.
        brief: As one of many runs: no page and no example images of its own, and latency from a few passes.
        kept_suites: As for `open_data`.
        trust_builder: Let the recipe name a builder, task or data of a module that is not ours.
    """
    require_trusted_recipe(recipe, trust_builder, f"the recipe {recipe.name!r}")
    require_installed(recipe.training.trackers)
    recipe = recipe.trusted()
    started = time.perf_counter()
    torch.manual_seed(derived_seed(recipe.seed, "model"))  # weights that no file fills
    found: list[str] = []
    model = open_model(recipe.model, trust_builder=trust_builder, say=found.append)
    data = open_data(recipe, model, kept_suites=kept_suites, trust_code=trust_builder)
    recipe = with_input_size(recipe, data)
    dense = copy.deepcopy(model).eval()
    task = open_task(recipe, classes=class_list(data.train))
    task.check(dense, data)
    require_readable_images(recipe, data)
    if is_main_process():
        _begin_folder(folder, recipe)
        for line in (*found, *opening_lines(recipe, dense, data, task)):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    result, finished = _compress(model, dense, data, recipe, folder, console, observe)
    classes = names_of(data.train) or ()
    record = TaskRecord(task.name or type(task).__name__, task.primary_metric)
    if not is_main_process():
        return FinishedRun(folder, result, {}, time.perf_counter() - started, record, recipe=recipe)
    if finished and (left := _finished_run(folder, result, recipe, console, classes, brief=brief)) is not None:
        console.print(f"{recipe.name}: finished; nothing left to do; results in {folder}", markup=False, soft_wrap=True)
        _tell_finished(left, console)
        return left
    images = None if brief else task.timed_images(data)
    models = {"dense": dense, "compressed": result.model}
    profiles = profile_models(models, data.example, images=images, seconds=0.0 if brief else LATENCY_SECONDS)
    target = measure_target(
        recipe.pruning.budget, models, result.dense_groups, data.example, profiles, plan=result.plan
    )
    seconds = time.perf_counter() - started
    run = FinishedRun(folder, result, profiles, seconds, record, classes, str(target), recipe=recipe)
    if not brief:
        placed = {name: model.to(data.example.device) for name, model in models.items()}
        task.save_pictures(folder, placed, data, data.opened_suites, data.example.device)
    _finish_folder(run, command, trust_builder)
    if not brief:
        write_page(compare_runs([read_run(folder)]), folder)
    _tell_finished(run, console)
    return run


def _compress(
    model: torch.nn.Module,
    dense: torch.nn.Module,
    data: Data,
    recipe: Recipe,
    folder: Path,
    console: Console,
    watcher: Observer,
) -> tuple[Result, bool]:
    """The run itself, watched on the terminal, by trackers and by the user, and whether it had ended before."""
    finished, settings = False, flat_keys(recipe_tree(recipe))
    with (
        closing(Trackers(recipe.training.trackers, folder, recipe.name, settings)) as curves,
        progress_on(console, recipe.name) as progress,
    ):

        def observe(record: Record) -> None:
            nonlocal finished
            progress(record)
            curves(record)
            watcher(record)
            finished = finished or (isinstance(record, ResumeRecord) and record.finished)

        task = open_task(recipe, dense, classes=class_list(data.train))
        result = compress(model, task, data, recipe, folder=folder, observe=observe)
    return result, finished


def _finished_run(
    folder: Path, result: Result, recipe: Recipe, console: Console, classes: tuple[str, ...], *, brief: bool
) -> FinishedRun | None:
    """What a run that has nothing left to do has already written; None where some of it is not there."""
    if not is_whole_json(folder / RESULT) or not (folder / "model.safetensors").is_file():
        console.print(f"{RESULT} or model.safetensors is not there or cut short: measured and written now")
        return None
    found = read_run(folder)
    if not brief and not (folder / PAGE).is_file():
        write_page(compare_runs([found]), folder)
    return FinishedRun(folder, result, found.profiles, found.seconds, found.task, classes, found.target, recipe=recipe)


def _tell_finished(run: FinishedRun, console: Console) -> None:
    """The last object of a console for programs."""
    if isinstance(console, JsonConsole):
        console.tell(
            "result",
            name=run.recipe.name,
            folder=str(run.folder),
            metric=run.task.metric.key,
            scores={stage: {n: s.mean for n, s in suites.items()} for stage, suites in run.result.stages.items()},
            profiles={name: finite(dataclasses.asdict(profile)) for name, profile in run.profiles.items()},
            counters=dataclasses.asdict(run.result.counters),
            seconds=run.seconds,
        )


def export_weights(run: FinishedRun, path: Path) -> None:
    """The weights of a run's model as a safetensors file, as a pretrained model would come, with names and digest."""
    write_sealed_tensors(path, run.result.model.state_dict(), {CLASSES: json.dumps(run.classes)} if run.classes else {})


def _begin_folder(folder: Path, recipe: Recipe) -> None:
    """The resolved recipe first: a folder is bound to it.

    Raises:
        RecipeError: If the folder holds a run of another one; names the keys that differ.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, begun = folder / "recipe.yaml", (folder / "checkpoint.safetensors").is_file()
    if begun and path.is_file():
        if changed := differences(_stored_tree(path), recipe_tree(recipe)):
            raise RecipeError(
                f"{folder} holds a run of another recipe: {', '.join(changed)}; give another --out, or remove the "
                "folder"
            )
        return
    with atomic_write(path) as file:
        file.write(dump_recipe(recipe).encode())
    with atomic_write(folder / "environment.json") as file:
        file.write(json.dumps(environment(), indent=2).encode())


def _stored_tree(path: Path) -> Mapping[str, Any]:
    """The recipe of a run's folder; keys that came later have their defaults, which is what the run was made with."""
    there = parse_yaml(read_text(path, what="a recipe", error=RecipeError), where=str(path), error=RecipeError)
    tree = there if isinstance(there, Mapping) else {}
    try:
        return recipe_tree(parse_recipe(tree))
    except AdasapError:  # keys of another version: they are named as they stand
        return tree


def _finish_folder(run: FinishedRun, command: str, trust_builder: bool) -> None:
    result, recipe = run.result, run.recipe
    scores = {
        stage: {suite: scores.mean for suite, scores in suites.items()} for stage, suites in result.stages.items()
    }
    metadata = {"recipe": recipe.name, "scores": scores["fine-tuned"]}
    save(
        run.folder / "model.safetensors",
        result.model,
        spec=dataclasses.replace(recipe.model, weights=None, backbone_weights=None),
        plan=result.plan,
        groups=result.dense_groups,
        metadata={**metadata, "classes": list(run.classes)} if run.classes else metadata,
        trust_builder=trust_builder,
    )
    summary = {
        "name": recipe.name,
        "task": dataclasses.asdict(run.task),
        "recipe": recipe_tree(recipe),
        "environment": environment(),
        "stages": {
            stage: {suite: scores.to_json() for suite, scores in suites.items()}
            for stage, suites in result.stages.items()
        },
        "scores": scores,
        "profiles": {name: dataclasses.asdict(profile) for name, profile in run.profiles.items()},
        "counters": dataclasses.asdict(result.counters),
        "groups": _groups_data(result),
        "seconds": run.seconds,
        "command": command,
        "target": run.target,
        "files": digests(run.folder),
    }
    with atomic_write(run.folder / "summary.md") as file:
        file.write(summary_text(run).encode())
    write_sealed_json(run.folder / RESULT, summary)


def _groups_data(result: Result) -> list[dict[str, Any]]:
    """Every group's channels before and after, why it stayed whole if it had to, what is not exact if anything is."""
    after = widths_after(result.dense_groups, result.plan)
    marked = {g.name: not_exact(g, after[g.name]) for g in result.dense_groups}
    return [
        {"name": g.name, "before": g.num_channels, "after": after[g.name], "frozen": g.frozen}
        | ({"not_exact": marked[g.name]} if marked[g.name] else {})
        for g in result.dense_groups
    ]


def summary_text(run: FinishedRun) -> str:
    """The run in Markdown."""
    metric = run.task.metric
    sections = {
        f"Mean {axis_title(metric)}": stage_table(run.result.stages, metric),
        f"Corruption by corruption, mean {axis_title(metric)}": corruption_table(run.result.stages, metric),
        "Sharpness on the way": gap_table(_steps_of(run.folder)),
        "Size and speed, measured side by side": profile_table(run.profiles),
    }
    tables = [f"## {title}\n\n{table}" for title, table in sections.items() if table is not None]
    files = (
        "Page: `report.html`; recipe: `recipe.yaml`; versions: `environment.json`; every step: `records.jsonl`; "
        "model: `model.safetensors` (`adasap.load`)."
    )
    return "\n\n".join([f"# {run.recipe.name}", *tables, f"Budget: {run.target}.", cost_line(run), files]) + "\n"


def _steps_of(folder: Path) -> list[dict[str, Any]]:
    records = read_records(folder / "records.jsonl", error=DataError)
    return [record for record in records if record["kind"] == "step"]


def cost_line(run: FinishedRun) -> str:
    """What the run took, in plain steps and in seconds."""
    counters, recipe = run.result.counters, run.recipe
    asked = 1 if recipe.pruning.schedule == "one_shot" else recipe.pruning.events
    events = f"{counters.events} pruning events" + (
        f" ({asked} were asked for, the others did not fit into the window)" if counters.events < asked else ""
    )
    return (
        f"{counters.step} steps, {counters.passes:.0f} forward-backward passes (plain-step units), "
        f"{counters.skipped} skipped; {events}; {counters.training_seconds:.0f} s of training, {run.seconds:.0f} s in "
        f"all; seed {recipe.seed}."
    )
