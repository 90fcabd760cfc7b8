"""A recipe as a run in a folder: opened, compressed, profiled, written down."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save as safetensors_bytes

from adasap.cli.detection import check_detector, data_summaries, open_detection_data, open_detection_task, timed_images
from adasap.cli.progress import ProgressObserver
from adasap.config import AnyRecipe, DetectionRecipe, Recipe, dump_recipe, recipe_tree
from adasap.data import check_image_size, open_dataset
from adasap.errors import DataError, RecipeError
from adasap.export import atomic_write, save
from adasap.models import open_model
from adasap.pipeline import Result, compress
from adasap.report import (
    Profile,
    corruption_table,
    environment,
    gap_table,
    profile_models,
    profile_table,
    stage_table,
)
from adasap.report.comparison import Comparison, compare_runs
from adasap.report.detections import save_detections
from adasap.report.examples import save_examples
from adasap.report.run_data import read_run
from adasap.report.tensorboard import TensorBoardObserver
from adasap.robustness import DetectionSuite, ImageSuite, SuiteSource, check_suite, kept_suite, open_suite
from adasap.tasks import ClassificationTask, Task, count_outputs
from adasap.training import Data, Record, derived_seed, is_main_process


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run left behind; `classes` are the names that a detector's labels 1, 2, ... stand for."""

    folder: Path
    result: Result
    profiles: dict[str, Profile]
    seconds: float
    classes: tuple[str, ...] = ()


def open_data(recipe: AnyRecipe, *, kept_suites: Path | None = None) -> Data:
    """Training images, suites (the clean test set first) and a zero image of the model's input size.

    Args:
        kept_suites: Where corrupted images are kept for further runs; None makes them anew.
    """
    if isinstance(recipe, DetectionRecipe):
        return open_detection_data(recipe)
    train = open_dataset(recipe.data.train, "train")
    test = open_dataset(recipe.data.test, "test")
    size, augmentation = recipe.model.input_size, recipe.data.augmentation
    if augmentation.random_resized_crop is None:
        check_image_size(train, size, where="data.train")
    if "clean" in recipe.data.suites:
        raise DataError("data.suites names one `clean`, which is the name of data.test's own; give it another name")
    suites = [open_suite("clean", SuiteSource("clean"), test)]
    suites += [open_suite(name, source, test, input_size=size) for name, source in recipe.data.suites.items()]
    if kept_suites is not None:
        suites = [kept_suite(suite, kept_suites) for suite in suites]
    return Data(train, suites, torch.zeros(1, *size), augmentation)


def open_any_task(recipe: AnyRecipe, data: Data, teacher: torch.nn.Module | None = None) -> Task[Any]:
    """The recipe's task with the model's own preprocessing."""
    if isinstance(recipe, DetectionRecipe):
        return open_detection_task(recipe, data.train.classes)
    return open_task(recipe, teacher)


def open_task(recipe: Recipe, teacher: torch.nn.Module | None = None) -> ClassificationTask:
    """The classification task with the model's own preprocessing."""
    return ClassificationTask(
        mean=recipe.model.mean,
        std=recipe.model.std,
        options=recipe.task,
        teacher=teacher,
        channels_last=recipe.training.runtime.channels_last,
    )


def check_classes(model: torch.nn.Module, recipe: AnyRecipe, data: Data) -> None:
    """One forward pass: the model must have an output for every class of the data, and every suite must fit it."""
    if isinstance(recipe, DetectionRecipe):
        check_detector(model, recipe, data)
        return
    num_outputs = count_outputs(model, recipe.model.input_size)
    if num_outputs < data.train.num_classes:
        raise DataError(
            f"data.train has {data.train.num_classes} classes, but {recipe.model.builder} has {num_outputs} outputs; "
            f"set model.options.num_classes to {data.train.num_classes}"
        )
    for suite in data.suites:
        assert isinstance(suite, ImageSuite)
        check_suite(suite, input_size=recipe.model.input_size, num_outputs=num_outputs)


def run_recipe(
    recipe: AnyRecipe,
    folder: Path,
    console: Console,
    *,
    command: str = "",
    brief: bool = False,
    kept_suites: Path | None = None,
) -> FinishedRun:
    """Compresses by a recipe; everything it did lies in the folder, and a killed run goes on from there.

    Args:
        command: How the user started it, for the page.
        brief: As one of many runs: no page and no example images of its own, and latency from a few passes.
        kept_suites: As for `open_data`.
    """
    started = time.perf_counter()
    data = open_data(recipe, kept_suites=kept_suites)
    torch.manual_seed(derived_seed(recipe.seed, "model"))  # weights that no file fills
    model = open_model(recipe.model, trust_builder=True)
    dense = copy.deepcopy(model).eval()
    check_classes(dense, recipe, data)
    if is_main_process():
        _begin_folder(folder, recipe)
        for line in data_summaries(data):
            console.print(line, highlight=False, soft_wrap=True)
    with (
        closing(TensorBoardObserver(folder / "tensorboard")) as curves,
        ProgressObserver(console, recipe.name) as progress,
    ):

        def observe(record: Record) -> None:
            progress(record)
            curves(record)

        result = compress(model, open_any_task(recipe, data, dense), data, recipe, folder=folder, observe=observe)
    if not is_main_process():
        return FinishedRun(folder, result, {}, time.perf_counter() - started)
    task = open_any_task(recipe, data)
    images = timed_images(recipe, task) if isinstance(recipe, DetectionRecipe) and not brief else ()
    profiles = profile_models(
        {"dense": dense, "compressed": result.model},
        data.example_inputs,
        images=images,
        seconds=0.0 if brief else 2.0,
    )
    classes = data.train.classes if isinstance(recipe, DetectionRecipe) else ()
    finished = FinishedRun(folder, result, profiles, time.perf_counter() - started, classes)
    if not brief:
        _save_pictures(folder, {"dense": dense, "compressed": result.model}, task, data)
    _finish_folder(finished, recipe, command)
    if not brief:
        write_page(compare_runs([read_run(folder)]), folder)
    return finished


def _save_pictures(folder: Path, models: Mapping[str, torch.nn.Module], task: Task[Any], data: Data) -> None:
    """What the page shows of the suites: images with answers, or with boxes."""
    device = data.example_inputs.device
    placed = {name: model.to(device) for name, model in models.items()}
    if labelled := [suite for suite in data.suites if isinstance(suite, ImageSuite)]:
        save_examples(folder, placed, task, labelled, data.train.classes, device)
    if with_boxes := [suite for suite in data.suites if isinstance(suite, DetectionSuite)]:
        save_detections(folder, placed, task, with_boxes, device)


def export_weights(model: torch.nn.Module, path: Path) -> None:
    """The weights as a plain safetensors file, as a pretrained model would come."""
    with atomic_write(path) as file:
        file.write(safetensors_bytes({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))


def _begin_folder(folder: Path, recipe: AnyRecipe) -> None:
    """The resolved recipe first: a folder is bound to it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "recipe.yaml", dump_recipe(recipe)
    if path.is_file() and path.read_text() != text and (folder / "checkpoint.safetensors").is_file():
        raise RecipeError(f"{folder} holds a run of another recipe; give another --out, or remove the folder")
    with atomic_write(path) as file:
        file.write(text.encode())
    with atomic_write(folder / "environment.json") as file:
        file.write(json.dumps(environment(), indent=2).encode())


def _finish_folder(run: FinishedRun, recipe: AnyRecipe, command: str) -> None:
    result = run.result
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
    )
    summary = {
        "name": recipe.name,
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
    }
    with atomic_write(run.folder / "result.json") as file:
        file.write(json.dumps(summary).encode())
    with atomic_write(run.folder / "summary.md") as file:
        file.write(summary_text(run, recipe).encode())


def write_page(found: Comparison, folder: Path) -> None:
    """`report.html`, `report.json` and `report.csv`; Plotly and Jinja2 are imported only here."""
    from adasap.report.page import write_report

    write_report(found, folder)


def _groups_data(result: Result) -> list[dict[str, Any]]:
    """Every group's channels before and after, and why it stayed whole if it had to."""
    after = result.plan.widths()
    return [
        {"name": g.name, "before": g.num_channels, "after": after.get(g.name, g.num_channels), "frozen": g.frozen}
        for g in result.dense_groups
    ]


def summary_text(run: FinishedRun, recipe: AnyRecipe) -> str:
    """The run in Markdown."""
    sections = {
        "Scores (mean, %)": stage_table(run.result.stages),
        "Corruption by corruption (%)": corruption_table(run.result.stages),
        "Sharpness on the way": gap_table(_steps_of(run.folder)),
        "Size and speed, measured side by side": profile_table(run.profiles),
    }
    tables = [f"## {title}\n\n{table}" for title, table in sections.items() if table is not None]
    files = (
        "Page: `report.html`; recipe: `recipe.yaml`; versions: `environment.json`; every step: `records.jsonl`; "
        "model: `model.safetensors` (`adasap.load`)."
    )
    return "\n\n".join([f"# {recipe.name}", *tables, cost_line(run, recipe), files]) + "\n"


def _steps_of(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return [record for record in records if record["kind"] == "step"]


def cost_line(run: FinishedRun, recipe: AnyRecipe) -> str:
    """What the run took, in plain steps and in seconds."""
    counters = run.result.counters
    asked = 1 if recipe.pruning.schedule == "one_shot" else recipe.pruning.events
    events = f"{counters.events} pruning events" + (
        f" ({asked} were asked for, the others did not fit into the window)" if counters.events < asked else ""
    )
    return (
        f"{counters.step} steps, {counters.passes:.0f} forward-backward passes (plain-step units), "
        f"{counters.skipped} skipped; {events}; {counters.training_seconds:.0f} s of training, {run.seconds:.0f} s in "
        f"all; seed {recipe.seed}."
    )
