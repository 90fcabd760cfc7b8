"""An evaluation of one model or several: opened from what a user gives, then run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adasap.data import DataSource
from adasap.evaluation import Loading, Suite, SuiteSource
from adasap.experiments.classes import classes_of
from adasap.experiments.evaluate_several import listed_models, run_side_by_side
from adasap.experiments.evaluation import Evaluation, EvaluationResult, processes
from adasap.experiments.exported_models import (
    Preparation,
    exported_name,
    open_exported,
    require_own_precision,
    task_said,
)
from adasap.experiments.name_models import AnyModel, ModelName, OpenedModel, Size, open_any, sized
from adasap.experiments.name_suites import own_suites, recipe_named, require_indexed, side_of, sources_of, task_of
from adasap.experiments.recipe import DEFAULT_TASK, Recipe, TaskSpec, parse_options, plain_options
from adasap.experiments.terminal import AnyConsole, console_of, open_console
from adasap.experiments.trust import require_trust
from adasap.tasks import BaseTask
from adasap.tasks.data import Opening, class_list
from adasap.training.precision import Asked


def evaluate(
    model: AnyModel | Sequence[AnyModel] | Mapping[str, AnyModel],
    data: str | Path | DataSource | Sequence[Suite] | Any = None,
    suites: str | Sequence[str] | Mapping[str, SuiteSource] | None = None,
    *,
    split: str | None = None,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] | None = None,
    task: BaseTask[Any] | str | None = None,
    task_options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    seed: int = 0,
    size: Size | None = None,
    mean: Sequence[float] = (),
    std: Sequence[float] = (),
    classes: Sequence[str] | None = None,
    batch: int | None = None,
    workers: int = 0,
    precision: Asked = "float32",
    out: str | Path | None = None,
    console: AnyConsole = False,
    trust_builder: bool = False,
) -> EvaluationResult:
    """Scores one model or several on clean, shifted and corrupted images, as `adasap evaluate` does.

    Several are scored on the same images, one after the other, and measured from the first, paired image by image.
    Under torchrun the cells are shared out over the processes, and each gets all results.

    Args:
        model: A module (copied), a `ModelSpec`, a builder's name, a model file, a recipe or the folder of a run. Or
            several in a list; a mapping, or `NAME=MODEL` in a text, names them.
        data: `KIND:PATH`, a `DataSource`, or a map-style data set of (image, target); or opened suites, which need no
            `suites`. Or a recipe or the folder of a run, whose test data with their resizing, suites and task are
            taken; without data those of the (first) model, if it is one.
        suites: Names, `NAME=PLACE`, or name -> `SuiteSource`; a source without data takes `data`. By default all of the
            recipe that the data are of, else `clean`.
        split: Part of data that are named; by default `test`, or what the data call it.
        corruptions: Only these, of suites that are named.
        severities: Only these of 1 to 5, of suites that are named.
        task: What good means: `classification`, `detection`, `segmentation`, `package.module:Class` of your own, or a
            task itself; by default what named data are for, else classification.
        task_options: Keys of a recipe's `task:`, such as `{"coco": True}`, of a task that is named.
        limit: A sample of so many images, the same in all cells.
        seed: Of the sample.
        size: Of the images, where neither the model nor its kind nor the data know: a side, or channels, height, width.
        mean: Per channel, of a module that no builder or file knows: 8-bit images are prepared as
            (x / 255 - mean) / std; by default ImageNet's.
        std: Likewise.
        classes: Names of the model's outputs, by which labels are numbered; by default those that its file keeps.
        batch: Images per batch; by default 500, above 64 pixels 50, and 32 of a data set of your own.
        workers: Processes that load and corrupt images ahead.
        precision: Of the forward pass: `float32`, `bf16`, `fp16` (GPU only), or `auto`, bf16 where it is native.
        out: Folder: cells as they come, `evaluation.json` and `evaluation.md`; the same call goes on where it was. Of
            several models each has such a folder in it, and `report.html` shows them side by side. By default nothing
            is kept.
        console: `True` shows a bar, or lines where none can move, and prints the result; `json` prints one object a
            line (`docs/logs.md`).
        trust_builder: Let a file import the module that it names.
    Raises:
        AdasapError: Before any evaluation, for a model, data and task that do not fit each other.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10))
        >>> found = evaluate(net, "digits:", ["clean", "corrupted"], corruptions=["fog"], severities=[1, 5], limit=20)
        >>> list(found["corrupted"].metrics), len(found["clean"].per_image())
        ([Cell(corruption='fog', severity=1), Cell(corruption='fog', severity=5)], 20)
    """
    given = listed_models(model)
    first, several = next(iter(given.values())), len(given) > 1
    recipe = _trusted(recipe_named(data, first), first, trust_builder)
    if task is None and recipe is None and data is not None and not isinstance(data, str | Path | DataSource):
        task = task_said(first)
    asked = _Asked.of(
        data,
        suites,
        corruptions,
        severities,
        split=split,
        recipe=recipe,
        task=task,
        task_options=task_options,
        classes=classes,
    )
    place = str(data) if isinstance(data, str | Path) else None if data is None else type(data).__name__
    known = None if recipe is None else Preparation.of_recipe(recipe, first if data is None else data)
    evaluations = {}
    with torch.random.fork_rng(devices=[]):
        for name, one in sorted(given.items(), key=lambda pair: exported_name(pair[1]) is not None):
            torch.manual_seed(0)  # weights that no file fills: the same in every process and when the call goes on
            side = asked.side if size is None and not isinstance(one, nn.Module) else size
            if exported_name(one) is not None:
                require_own_precision(precision)
                given_too: Any = {"task": asked.kind.name, "classes": classes, "trust_builder": trust_builder}
                opened = open_exported(one, known, size=size, mean=mean, std=std, **given_too)
            else:
                opened = open_any(one, size=side, mean=mean, std=std, trust_builder=trust_builder)
            opened, its_task, found = asked.opened_for(opened)
            some = [suite.sampled(limit, seed=seed) if limit else suite for suite in found]
            what = {"model": opened.title, "data": place, "limit": limit, "seed": seed}
            evaluations[name] = Evaluation(opened, its_task, some, Loading(batch, workers), what, precision)
            if not opened.exported and not (known is not None and known.model is not None):
                known = Preparation.like(name or opened.title, opened)  # files are taken for exports of the first model
        evaluations = {name: evaluations[name] for name in given}
        folder, shown = None if out is None else Path(out), console_of(console)
        with processes() as is_first:
            shown = shown if is_first else open_console(quiet=True)
            if several:
                return run_side_by_side(evaluations, folder, shown)
            return next(iter(evaluations.values())).run(folder, shown)


@dataclass(frozen=True)
class _Asked:
    """What models are scored on: suites that are open, or sources that are opened for each model.

    Attributes:
        suites: Opened by the caller.
        test: A data set of the caller's.
        sources: Named ones.
        kind: Of the task.
        task: As it is given.
        options: Of the task, where it is named.
        classes: Of the outputs, where the caller says them.
    """

    suites: Sequence[Suite]
    test: Any
    sources: Mapping[str, SuiteSource]
    kind: type[BaseTask[Any]]
    task: BaseTask[Any] | str | None
    options: Any
    classes: Sequence[str] | None

    @classmethod
    def of(
        cls,
        data: Any,
        suites: Any,
        corruptions: Sequence[str] | None,
        severities: Sequence[int] | None,
        *,
        split: str | None,
        recipe: Recipe | None,
        task: BaseTask[Any] | str | None,
        task_options: Mapping[str, Any] | None,
        classes: Sequence[str] | None,
    ) -> _Asked:
        """As the arguments of `evaluate` say it."""
        given: list[Suite] = [*data] if _are_suites(data) else []
        test = None if given or data is None or isinstance(data, str | Path | DataSource) else data
        if test is not None:
            require_indexed(test)
        sources = {} if given else sources_of(data, suites, corruptions, severities, split=split, recipe=recipe)
        kind, known = _kind_of(task, sources, recipe)
        options = parse_options({**known, **(task_options or {})}, kind.options_type, place="task.")
        return cls(given, test, sources, kind, task, options, classes)

    @property
    def side(self) -> int | None:
        """Side of labelled images that have a size of their own."""
        return side_of(self.sources) if self.kind.name == DEFAULT_TASK else None

    def opened_for(self, opened: OpenedModel) -> tuple[OpenedModel, BaseTask[Any], Sequence[Suite]]:
        """The model with the size of its images, its task, and its suites."""
        images = self.suites[0].images if self.suites else self.test
        opened = replace(opened, spec=sized(opened.spec, images, side=side_of(self.sources)))
        if isinstance(self.task, BaseTask):
            return opened, self.task, self.suites or own_suites(self.sources, self.test, self.task)
        known = self.classes or classes_of(opened)
        of = Opening(spec=opened.spec, model=opened.model, classes=known, options=self.options, trust_code=True)
        found = self.suites or self.kind.open_suites(self.sources, of, test=self.test)
        labels = class_list(found[0].images)
        return opened, self.kind.opened(self.options, opened.spec, classes=labels, channels_last=True), found


def _are_suites(data: Any) -> bool:
    return isinstance(data, list | tuple) and bool(data) and all(hasattr(one, "cells") for one in data)


def _trusted(recipe: Recipe | None, model: AnyModel, trust_builder: bool) -> Recipe | None:
    """The recipe that data are taken from, if it names no code of the user's or the flag was given."""
    trust_builder = trust_builder or (isinstance(model, ModelName) and model.trust_builder)
    for code in () if recipe is None else recipe.own_code:
        require_trust(code, trust_builder, "the recipe")
    return None if recipe is None else recipe.trusted()


def _kind_of(
    task: BaseTask[Any] | str | None, sources: Mapping[str, SuiteSource], recipe: Recipe | None
) -> tuple[type[BaseTask[Any]], Mapping[str, Any]]:
    """The class of a task: as it is given, of the recipe, or what data are for; and the options of the recipe's."""
    if isinstance(task, BaseTask):
        return type(task), {}
    if task is None and recipe is not None:
        return recipe.task_class(), plain_options(recipe.task.options) or {}
    return TaskSpec(task or task_of(sources.values())).task_class(trust_code=True), {}  # a name is the user's word
