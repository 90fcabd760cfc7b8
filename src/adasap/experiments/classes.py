"""Whose class names count: those that a file of weights keeps, else those of the training data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from adasap.data.classes import Names
from adasap.errors import DataError
from adasap.experiments.name_models import OpenedModel, scaled_as_imagenet
from adasap.experiments.recipe import Recipe, read_recipe
from adasap.export import kept_classes
from adasap.tasks import BaseTask, Data
from adasap.tasks.data import Opening


def classes_of(opened: OpenedModel) -> Names | None:
    """The class names of a model: kept in its file or weights, or of its recipe's training data."""
    name = opened.name
    if opened.exported:
        return opened.classes
    if opened.header is not None:
        return kept_classes(name)
    kept = kept_classes(opened.spec.weights)
    if kept is not None or not name.endswith((".yaml", ".yml")):
        return kept
    recipe = read_recipe(Path(name))
    if recipe.task.is_own:
        return None
    try:
        found: Names | None = recipe.task_class().classes_of(
            recipe.data, Opening(spec=recipe.model, model=opened.model)
        )
        return found
    except DataError:  # the training data need not be on this machine
        return None


def opening_lines(recipe: Recipe, model: nn.Module, data: Data, task: BaseTask[Any]) -> list[str]:
    """What is to be known before a model is trained: data, classes, outputs and weights."""
    lines, spec = [*data.remarks, *task.opening_lines(model, data)], recipe.model
    lines += scaled_as_imagenet(spec, data.train, task)
    if spec.weights is None and spec.backbone_weights is None:
        lines.append(
            f"model.weights is not given: {spec.builder} starts from what its builder fills it with, as a rule random "
            "numbers, and warm-up is all the training it gets before channels are cut"
        )
    return lines
