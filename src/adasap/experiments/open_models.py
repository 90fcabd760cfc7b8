"""What is analysed: models however they are given, a run's folder with all its stages, and a sample of images."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Subset

from adasap.analysis import Objective, Subject, fold_batch_norms
from adasap.analysis.subject import first_fitting
from adasap.data import DataSource, SomeImages, evaluation_batches, open_dataset, open_source, sample_indices
from adasap.data.classes import Names, matched_images, names_of_outputs
from adasap.data.images import class_names, is_image_set, remarks_of
from adasap.data.items import read_items
from adasap.errors import DataError, ModelError
from adasap.experiments.classes import classes_of
from adasap.experiments.compress import open_task
from adasap.experiments.name_models import (
    AnyModel,
    ModelName,
    Size,
    name_before,
    open_any,
    short_name,
    sized,
    without_weights,
)
from adasap.experiments.name_suites import require_indexed
from adasap.experiments.recipe import DEFAULT_TASK, Recipe, read_recipe
from adasap.experiments.trust import require_trust, require_trusted_recipe
from adasap.export import kept_classes, load, read_header
from adasap.groups import trace_groups
from adasap.models import ModelSpec, default_input_size, input_size_of, open_model
from adasap.pruning import PruningPlan, apply_plan_
from adasap.tasks import TASKS, BaseTask
from adasap.tasks.classification.data import count_outputs
from adasap.tasks.classification.task import ClassificationTask
from adasap.tasks.data import class_list
from adasap.training import derived_seed
from adasap.training.checkpoint import read_checkpoint

STAGES = {"warmed up": "after warm-up", "recalibrated": "after pruning"}
"""Stages of a run whose weights are looked at, beside the dense and the final model -> their names on the page."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model that was opened: how it is built, the plan that cut it in the dense model's indices, its class names.

    `recipe` is that of the run it comes from; a model without one is a classifier.
    """

    name: str
    model: nn.Module
    spec: ModelSpec
    plan: PruningPlan | None = None
    classes: Names | None = None
    remarks: Sequence[str] = ()
    recipe: Recipe | None = None


def open_candidates(
    models: Sequence[AnyModel | tuple[str, AnyModel]],
    trust_builder: bool = False,
    *,
    size: Size | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
) -> list[Candidate]:
    """The models that are given, with a name or without, or as `NAME=MODEL`; a run's folder gives several.

    Raises:
        ModelError: If there is none, or two have the same name.
    """
    found: list[Candidate] = []
    for entry in models:
        name, model = entry if isinstance(entry, tuple) else ("", entry)
        if isinstance(model, str | Path):
            known: dict[str, Any] = {"size": size, "mean": mean, "std": std, "trust_builder": trust_builder}
            model = ModelName(name=str(model), **known)
        if isinstance(model, ModelName):
            said, place = name_before(model.name)
            name, model = name or said, replace(model, name=place)
            if Path(place).is_dir():
                prefix = f"{name}: " if name else ""
                found += [replace(c, name=prefix + c.name) for c in _of_run(Path(place), model.trust_builder)]
                continue
        opened = open_any(model, size=size, mean=mean, std=std)
        plan = opened.header.plan if opened.header else None
        title = name or short_name(opened.title)
        classes = classes_of(opened)
        found.append(Candidate(title, opened.model, opened.spec, plan, classes, without_weights(opened)))
    if not found:
        raise ModelError("no model is given; give one or several")
    if len({c.name for c in found}) < len(found):
        raise ModelError("two models have the same name; write NAME=MODEL to tell them apart (a mapping in Python)")
    _require_alike(found)
    return found


def _require_alike(candidates: Sequence[Candidate]) -> None:
    """Raises ModelError if two take other inputs, as far as that is known, or number their classes otherwise."""
    first = candidates[0]
    for other in candidates[1:]:
        sizes = {size for c in (first, other) if (size := default_input_size(c.spec)) is not None}
        scales = {(c.spec.mean, c.spec.std) for c in (first, other)}
        if len(sizes) > 1 or len(scales) > 1:
            raise ModelError(
                f"{other.name} and {first.name} take inputs of different size or scale; analyse them apart"
            )
        if other.classes is not None and first.classes is not None and other.classes != first.classes:
            raise ModelError(
                f"{other.name} and {first.name} number their classes differently ({', '.join(other.classes[:4])}, "
                f"... and {', '.join(first.classes[:4])}, ...); analyse them apart"
            )


def run_recipe_of(text: str) -> Recipe | None:
    """The recipe in a run's folder; None if this names something else."""
    path = folder_of(text) / "recipe.yaml"
    return read_recipe(path) if path.is_file() else None


def folder_of(text: str) -> Path:
    """The path without a name before it."""
    return Path(name_before(text)[1])


def open_images(
    data: Any,
    split: str,
    count: int,
    seed: int,
    candidates: Sequence[Candidate],
    task: BaseTask[Any] | None = None,
    *,
    fewer_do: bool = False,
) -> tuple[list[Candidate], Any, list[str]]:
    """The candidates with the size of their images, a sample of these, and what is to be said about them.

    Args:
        data: A `DataSource`, or a map-style data set.
        split: Of a source.
        count: How many images.
        seed: Of the sample.
        candidates: Images with labels are numbered by their classes.
        task: Of candidates that no run knows; None is classification.
        fewer_do: Take all images where there are fewer.
    Raises:
        DataError: If there are fewer, or images of a class that the models do not know.
        ModelError: If the models cannot be analysed together.
    """
    by_items = task is not None or _recipe_of_another_task(candidates) is not None
    if isinstance(data, DataSource):
        by_items = by_items or data.is_own or data.row.task not in ("", DEFAULT_TASK)
    else:
        by_items = by_items or not is_image_set(data)
    images = _open_data(data, split, len(candidates[0].spec.mean), by_items=by_items)
    candidates = [replace(c, spec=sized(c.spec, images)) for c in candidates]
    _require_alike(candidates)
    where = data.where if isinstance(data, DataSource) else type(data).__name__
    said = list(dict.fromkeys(line for candidate in candidates for line in candidate.remarks))
    count = min(count, len(images)) if fewer_do else count
    if by_items:
        _require_enough(where, len(images), count)
        summary = [images.summary()] if hasattr(images, "summary") else []
        return candidates, Subset(images, sample_indices(len(images), count, seed=seed).tolist()), [*said, *summary]
    classes = next((c.classes for c in candidates if c.classes is not None), None)
    if classes is None:
        num_outputs = count_outputs(candidates[0].model, input_size_of(candidates[0].spec))
        classes = names_of_outputs(num_outputs, class_names(images), set(images.labels.tolist()))
    remarks = [f"{where}: {remark}" for remark in remarks_of(images)]
    images, match = matched_images(images, classes, where=where, of="the model")
    count = min(count, len(images)) if fewer_do else count
    _require_enough(where, len(images), count)
    sample = SomeImages(images, sample_indices(len(images), count, seed=seed))
    return candidates, sample, said + remarks + [match.remark] * bool(match.remark)


def _open_data(data: Any, split: str, channels: int, *, by_items: bool) -> Any:
    """A data set as it is, or that of a source: of any items, or of images with labels."""
    if not isinstance(data, DataSource):
        require_indexed(data)
        return data
    if by_items:
        return open_source(data, split, channels=channels, trust_code=True)
    if data.kind == "objectnet":
        raise DataError("objectnet numbers its classes for its suite alone; give --data of another kind")
    return open_dataset(data, split, channels=channels)


def subjects_of(
    candidates: Sequence[Candidate],
    images: Any,
    images_per_batch: int,
    device: torch.device,
    *,
    task: BaseTask[Any] | None = None,
    data_for: str = "",
    folded: bool,
) -> tuple[dict[str, Subject], int]:
    """Subjects over the same prepared batches, and how many batch norms were folded in all.

    A plan of any candidate says which channels go in those whose groups it fits. The task is the one given, else that
    of a run, else the one that the data are for (`data_for`), else classification.
    """
    plans = {c.name: c.plan for c in candidates if c.plan is not None}
    spec, recipe = candidates[0].spec, _recipe_of_another_task(candidates)
    if task is None and recipe is not None:
        task = open_task(recipe, classes=class_list(images.dataset))
    elif task is None and data_for not in ("", DEFAULT_TASK):
        kind = TASKS.get(data_for)
        task = kind.opened(kind.options_type(), spec, classes=class_list(images.dataset))
    task = task or ClassificationTask(mean=spec.mean, std=spec.std)
    batches = prepared_batches(images, images_per_batch, task, device)
    subjects, num_folded = {}, 0
    example = torch.zeros(1, *input_size_of(spec))
    for candidate in candidates:
        model = candidate.model
        if folded:
            model, names = fold_batch_norms(model, example)
            num_folded += len(names)
        groups = trace_groups(model, example)
        objective = Objective(model.to(device).eval(), batches, task.loss)
        subjects[candidate.name] = Subject(objective, groups, first_fitting(plans, groups), images_per_batch)
    return subjects, num_folded


def prepared_batches(images: Any, images_per_batch: int, task: BaseTask[Any], device: torch.device) -> list[Any]:
    """The sample that `open_images` gave, in prepared batches."""
    if isinstance(images, Subset):
        parts = torch.split(torch.arange(len(images)), images_per_batch)
        return [task.prepare(task.collate(read_items(images, part)), device) for part in parts]
    return [task.prepare(batch, device) for batch in evaluation_batches(images, images_per_batch)]


def _recipe_of_another_task(candidates: Sequence[Candidate]) -> Recipe | None:
    """The recipe of the first run whose task is not classification."""
    recipes = [c.recipe for c in candidates if c.recipe is not None]
    return next((recipe for recipe in recipes if recipe.task.kind != DEFAULT_TASK), None)


def _require_enough(where: str, there: int, count: int) -> None:
    if there < count:
        raise DataError(f"{where} has {there} images, {count} are wanted; give a lower --images")


def _of_run(folder: Path, trust_builder: bool) -> list[Candidate]:
    """The dense model, the stages whose weights were kept, and the final model."""
    if not (folder / "recipe.yaml").is_file() or not (folder / "model.safetensors").is_file():
        raise ModelError(f"{folder} holds no finished run; give a folder that `adasap compress` made, or a model file")
    recipe = read_recipe(folder / "recipe.yaml")
    require_trusted_recipe(recipe, trust_builder, folder / "recipe.yaml")
    recipe = recipe.trusted()
    require_trust(read_header(folder / "model.safetensors").spec.builder, trust_builder, folder / "model.safetensors")
    dense = _dense(folder / "stage-dense.safetensors", recipe, trust_builder)
    final = load(folder / "model.safetensors", trust_builder=trust_builder)
    plan, classes = read_header(folder / "model.safetensors").plan, kept_classes(folder / "model.safetensors")
    stages = [_stage(folder, stage, title, dense, recipe) for stage, title in STAGES.items()]
    found = [
        Candidate("before warm-up", dense, recipe.model),
        *(stage for stage in stages if stage is not None),
        Candidate("fine-tuned", final, recipe.model, plan),
    ]
    return [replace(candidate, classes=classes, recipe=recipe) for candidate in found]


def _dense(kept: Path, recipe: Recipe, trust_builder: bool) -> nn.Module:
    """As the run found it: from the weights it kept, else opened anew."""
    spec = replace(recipe.model, weights=None) if kept.is_file() else recipe.model
    torch.manual_seed(derived_seed(recipe.seed, "model"))  # weights that no file fills, as in the run
    model = open_model(spec, trust_builder=trust_builder, download=False).eval()
    if kept.is_file():
        model.load_state_dict(read_checkpoint(kept, remedy="remove it, and the model is opened anew")[0])
    return model


def _stage(folder: Path, stage: str, title: str, dense: nn.Module, recipe: Recipe) -> Candidate | None:
    path = folder / f"stage-{stage.replace(' ', '_')}.safetensors"
    if not path.is_file():
        return None
    tensors, metadata = read_checkpoint(path, remedy="remove it, and the stage is left out")
    model, text = copy.deepcopy(dense), metadata["plan"]
    plan = PruningPlan.from_json(text) if text else None
    if plan is not None:
        example, pruning = torch.zeros(1, *input_size_of(recipe.model)), recipe.pruning
        groups = trace_groups(model, example, keep=pruning.keep, allow_inexact=pruning.allow_inexact)
        apply_plan_(model, groups, plan)
    model.load_state_dict(tensors)
    return Candidate(title, model.eval(), recipe.model)
