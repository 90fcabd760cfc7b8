"""What `adasap analyze` is pointed at: models by name or file, or a run's folder with all its stages."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adasap.analysis import Objective, Subject, fold_batch_norms
from adasap.analysis.subject import first_fitting
from adasap.cli.models import open_named
from adasap.config import Recipe, read_classifier_recipe
from adasap.data import DataSource, ImageSet, SomeImages, evaluation_batches, open_dataset, sample_indices
from adasap.errors import DataError, ModelError
from adasap.export import load, read_header
from adasap.groups import trace_groups
from adasap.models import ModelSpec, open_model
from adasap.pruning import PruningPlan, apply_plan_
from adasap.tasks import ClassificationTask
from adasap.training import derived_seed
from adasap.training.checkpoint import read_checkpoint

STAGES = {"warmed up": "after warm-up", "recalibrated": "after pruning"}
"""Stages of a run whose weights are looked at, beside the dense and the final model -> their names on the page."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that was opened: how it is built, and the plan it was cut by, in the dense model's indices."""

    name: str
    model: nn.Module
    spec: ModelSpec
    plan: PruningPlan | None = None


def open_candidates(names: Sequence[str], trust_builder: bool, **options: Any) -> list[Candidate]:
    """The models of the command line, `MODEL` or `NAME=MODEL`; a run's folder gives several.

    Raises:
        ModelError: If two have the same name, or take inputs of different sizes.
    """
    found: list[Candidate] = []
    for text in names:
        name, place = _named(text)
        if Path(place).is_dir():
            prefix = f"{name}: " if name else ""
            found += [Candidate(prefix + c.name, c.model, c.spec, c.plan) for c in _of_run(Path(place), trust_builder)]
            continue
        opened = open_named(place, trust_builder=trust_builder, **options)
        plan = opened.header.plan if opened.header else None
        found.append(Candidate(name or _short(place), opened.model, opened.spec, plan))
    if len({c.name for c in found}) < len(found):
        raise ModelError("two models have the same name; write NAME=MODEL to tell them apart")
    first = found[0].spec
    for other in found[1:]:
        if (other.spec.input_size, other.spec.mean, other.spec.std) != (first.input_size, first.mean, first.std):
            raise ModelError(
                f"{other.name} and {found[0].name} take inputs of different size or scale; analyse them apart"
            )
    return found


def is_run(text: str) -> bool:
    """Whether this names the folder of a run."""
    return (Path(_named(text)[1]) / "recipe.yaml").is_file()


def run_recipe_of(text: str) -> Recipe:
    """The recipe in a run's folder."""
    return read_classifier_recipe(Path(_named(text)[1]) / "recipe.yaml")


def folder_of(text: str) -> Path:
    """The path without a name before it."""
    return Path(_named(text)[1])


def open_images(source: DataSource, split: str, count: int, seed: int) -> ImageSet:
    """A sample of the images.

    Raises:
        DataError: If there are fewer.
    """
    images = open_dataset(source, split)
    if len(images) < count:
        raise DataError(
            f"{source.path or source.kind} has {len(images)} images, {count} are wanted; give a lower --images"
        )
    return SomeImages(images, sample_indices(len(images), count, seed=seed))


def subjects_of(
    candidates: Sequence[Candidate], images: ImageSet, images_per_batch: int, device: torch.device, *, folded: bool
) -> tuple[dict[str, Subject], int]:
    """Subjects over the same prepared batches, and how many batch norms were folded in all.

    A plan of any candidate says which channels go in those whose groups it fits.
    """
    plans = {c.name: c.plan for c in candidates if c.plan is not None}
    spec = candidates[0].spec
    task = ClassificationTask(mean=spec.mean, std=spec.std)
    batches = [task.prepare(batch, device) for batch in evaluation_batches(images, images_per_batch)]
    subjects, num_folded = {}, 0
    example = torch.zeros(1, *spec.input_size)
    for candidate in candidates:
        model = candidate.model
        if folded:
            model, names = fold_batch_norms(model, example)
            num_folded += len(names)
        groups = trace_groups(model, example)
        objective = Objective(model.to(device).eval(), batches, task.loss)
        subjects[candidate.name] = Subject(objective, groups, first_fitting(plans, groups), images_per_batch)
    return subjects, num_folded


def _of_run(folder: Path, trust_builder: bool) -> list[Candidate]:
    """The dense model, the stages whose weights were kept, and the final model."""
    if not (folder / "recipe.yaml").is_file() or not (folder / "model.safetensors").is_file():
        raise ModelError(f"{folder} holds no finished run; give a folder that `adasap compress` made, or a model file")
    recipe = read_classifier_recipe(folder / "recipe.yaml")
    dense = _dense(folder / "stage-dense.safetensors", recipe)
    final = load(folder / "model.safetensors", trust_builder=trust_builder)
    plan = read_header(folder / "model.safetensors").plan
    stages = [_stage(folder, stage, title, dense, recipe) for stage, title in STAGES.items()]
    return [
        Candidate("before warm-up", dense, recipe.model),
        *(stage for stage in stages if stage is not None),
        Candidate("fine-tuned", final, recipe.model, plan),
    ]


def _dense(kept: Path, recipe: Recipe) -> nn.Module:
    """As the run found it: from the weights it kept, else opened anew."""
    spec = replace(recipe.model, weights=None) if kept.is_file() else recipe.model
    torch.manual_seed(derived_seed(recipe.seed, "model"))  # weights that no file fills, as in the run
    model = open_model(spec, trust_builder=True).eval()
    if kept.is_file():
        model.load_state_dict(read_checkpoint(kept)[0])
    return model


def _stage(folder: Path, stage: str, title: str, dense: nn.Module, recipe: Recipe) -> Candidate | None:
    path = folder / f"stage-{stage.replace(' ', '_')}.safetensors"
    if not path.is_file():
        return None
    tensors, metadata = read_checkpoint(path)
    model, text = copy.deepcopy(dense), metadata["plan"]
    plan = PruningPlan.from_json(text) if text else None
    if plan is not None:
        groups = trace_groups(model, torch.zeros(1, *recipe.model.input_size), keep=recipe.pruning.keep)
        apply_plan_(model, groups, plan)
    model.load_state_dict(tensors)
    return Candidate(title, model.eval(), recipe.model)


def _named(text: str) -> tuple[str, str]:
    match = re.match(r"([\w .-]+)=(.+)", text)
    return (match[1], match[2]) if match else ("", text)


def _short(place: str) -> str:
    """`runs/a/model.safetensors` -> `a`, `adasap:cifar_resnet20` -> `cifar_resnet20`."""
    path = Path(place)
    if path.suffix in (".safetensors", ".yaml", ".yml"):
        return path.parent.name if path.stem == "model" and path.parent.name else path.stem
    return place.rpartition(":")[2]
