"""A recipe as a run in a folder: opened, compressed, profiled, written down."""

from __future__ import annotations

import copy
import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from adasap.cli.progress import ProgressObserver
from adasap.config import Recipe, dump_recipe, recipe_tree
from adasap.data import ImageSet, check_image_size, open_dataset
from adasap.errors import DataError, RecipeError
from adasap.export import atomic_write, save
from adasap.models import open_model
from adasap.pipeline import Result, compress
from adasap.report import Profile, environment, profile_models, profile_table, stage_table
from adasap.report.tensorboard import TensorBoardObserver
from adasap.robustness import Suite, SuiteSource, open_suite
from adasap.tasks import ClassificationTask
from adasap.training import Data, Record, derived_seed


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What a run left behind."""

    folder: Path
    result: Result
    profiles: dict[str, Profile]
    seconds: float


def open_data(recipe: Recipe) -> Data:
    """Training images, suites (the clean test set first) and a zero image of the model's input size."""
    train = open_dataset(recipe.data.train, "train")
    test = open_dataset(recipe.data.test, "test")
    size, augmentation = recipe.model.input_size, recipe.data.augmentation
    check_image_size(test, size, where="data.test")
    if augmentation.random_resized_crop is None:
        check_image_size(train, size, where="data.train")
    suites: list[Suite] = [open_suite("clean", SuiteSource(kind="images"), test)]
    suites += [open_suite(name, source, test) for name, source in recipe.data.suites.items()]
    return Data(train, suites, torch.zeros(1, *size), augmentation)


def open_task(recipe: Recipe, teacher: torch.nn.Module | None = None) -> ClassificationTask:
    """The classification task with the model's own preprocessing."""
    return ClassificationTask(
        mean=recipe.model.mean,
        std=recipe.model.std,
        options=recipe.task,
        teacher=teacher,
        channels_last=recipe.training.runtime.channels_last,
    )


def check_classes(model: torch.nn.Module, recipe: Recipe, train: ImageSet) -> None:
    """One forward pass: the model must have an output for every class of the data."""
    with torch.no_grad():
        outputs = model.eval()(torch.zeros(1, *recipe.model.input_size))
    num_outputs = outputs.shape[-1] if isinstance(outputs, torch.Tensor) else train.num_classes
    if num_outputs < train.num_classes:
        raise DataError(
            f"data.train has {train.num_classes} classes, but {recipe.model.builder} has {num_outputs} outputs; "
            f"set model.options.num_classes to {train.num_classes}"
        )


def run_recipe(recipe: Recipe, folder: Path, console: Console) -> FinishedRun:
    """Compresses by a recipe; everything it did lies in the folder, and a killed run goes on from there."""
    started = time.perf_counter()
    data = open_data(recipe)
    torch.manual_seed(derived_seed(recipe.seed, "model"))  # weights that no file fills
    model = open_model(recipe.model, trust_builder=True)
    dense = copy.deepcopy(model).eval()
    check_classes(dense, recipe, data.train)
    _begin_folder(folder, recipe)
    curves = TensorBoardObserver(folder / "tensorboard")
    with ProgressObserver(console, recipe.name) as progress:

        def observe(record: Record) -> None:
            progress(record)
            curves(record)

        result = compress(model, open_task(recipe, dense), data, recipe, folder=folder, observe=observe)
    curves.close()
    profiles = profile_models({"dense": dense, "compressed": result.model}, data.example_inputs)
    finished = FinishedRun(folder, result, profiles, time.perf_counter() - started)
    _finish_folder(finished, recipe)
    return finished


def _begin_folder(folder: Path, recipe: Recipe) -> None:
    """The resolved recipe first: a folder is bound to it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / "recipe.yaml", dump_recipe(recipe)
    if path.is_file() and path.read_text() != text and (folder / "checkpoint.safetensors").is_file():
        raise RecipeError(f"{folder} holds a run of another recipe; give another --out, or remove the folder")
    with atomic_write(path) as file:
        file.write(text.encode())
    with atomic_write(folder / "environment.json") as file:
        file.write(json.dumps(environment(), indent=2).encode())


def _finish_folder(run: FinishedRun, recipe: Recipe) -> None:
    result = run.result
    scores = {
        stage: {suite: scores.mean for suite, scores in suites.items()} for stage, suites in result.stages.items()
    }
    save(
        run.folder / "model.safetensors",
        result.model,
        spec=dataclasses.replace(recipe.model, weights=None),
        plan=result.plan,
        groups=result.dense_groups,
        metadata={"recipe": recipe.name, "scores": scores["fine-tuned"]},
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
        "plan": _plan_data(result),
        "seconds": run.seconds,
    }
    with atomic_write(run.folder / "result.json") as file:
        file.write(json.dumps(summary).encode())
    with atomic_write(run.folder / "summary.md") as file:
        file.write(summary_text(run, recipe).encode())


def _plan_data(result: Result) -> Any:
    return {name: [len(kept), result.plan.num_channels[name]] for name, kept in result.plan.kept.items()}


def summary_text(run: FinishedRun, recipe: Recipe) -> str:
    """The run in Markdown."""
    return "\n".join(
        [
            f"# {recipe.name}",
            "",
            "## Scores (mean, %)",
            "",
            str(stage_table(run.result.stages)),
            "",
            "## Size and speed, measured side by side",
            "",
            str(profile_table(run.profiles)),
            "",
            cost_line(run, recipe),
            "",
            "Recipe: `recipe.yaml`; versions: `environment.json`; every step: `records.jsonl`; "
            "model: `model.safetensors` (`adasap.load`).",
            "",
        ]
    )


def cost_line(run: FinishedRun, recipe: Recipe) -> str:
    """What the run took, in plain steps and in seconds."""
    counters = run.result.counters
    return (
        f"{counters.step} steps, {counters.passes} forward-backward passes (plain-step units), "
        f"{counters.skipped} skipped; {counters.training_seconds:.0f} s of training, {run.seconds:.0f} s in all; "
        f"seed {recipe.seed}."
    )
