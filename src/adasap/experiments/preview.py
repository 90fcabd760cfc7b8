"""What a run would do, on one screen: data, model, device, plan, cost and time, before any training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adasap.data import DataSource
from adasap.experiments.classes import opening_lines
from adasap.experiments.compress import open_data, open_task, require_readable_images, with_input_size
from adasap.experiments.recipe import Overrides, Recipe, open_recipe
from adasap.experiments.trust import require_trusted_recipe
from adasap.groups import ChannelGroup
from adasap.groups.group import not_exact
from adasap.groups.past import branches_of
from adasap.models import open_model
from adasap.pruning import PruningPlan, amount
from adasap.pruning.plan import widths_after
from adasap.report import Shown, Table
from adasap.report.format import duration
from adasap.tasks import Data
from adasap.tasks.data import class_list
from adasap.training import CompressionRun, first_plan, first_score, ignore
from adasap.training.preview import evaluation_seconds, reading_seconds
from adasap.training.trackers import require_installed

_MOST_PARTS, _FEWEST_PARTS, _MOST_LINES = 12, 4, 8
_UNEVEN = 10
"""Images of the most frequent class for one of the rarest, from which on that is said."""


@dataclass(frozen=True, repr=False)
class Preview(Shown):
    """What a run would do; it prints as one screen. `table` has every group of channels.

    Attributes:
        name: Of the recipe.
        plan: What the criterion would keep at the starting weights.
        cost: What that costs, in `unit`.
        dense_cost: What the dense model costs.
        limit: What the budget allows at the end.
        unit: Of the costs.
        plain_steps: Cost of the run in steps of plain training.
        step_seconds: One plain step here, at dense width.
        training_seconds: About what all steps take here, reading included.
        evaluation_seconds: About what the evaluations of all stages take here; None where that cannot be timed.
        data: Images, classes, what was passed over, suites; in lines.
        model: What is built and what fills it, in lines.
        score: How the model does as it is loaded, in one line.
        device: Where and how precisely it computes, in one line.
        by_part: The plan in brief: channels of each part of the network.
        table: The groups.
        summary: Costs, steps and time, in sentences.
        unusual: What is to be looked at, in lines.
    """

    name: str
    plan: PruningPlan
    cost: float
    dense_cost: float
    limit: float
    unit: str
    plain_steps: float
    step_seconds: float
    training_seconds: float
    evaluation_seconds: float | None
    data: tuple[str, ...]
    model: tuple[str, ...]
    score: str
    device: str
    by_part: Table
    table: Table
    summary: str
    unusual: tuple[str, ...]

    def parts(self) -> Iterator[Table | str]:
        """One screen: data, model, device, the plan by parts of the network, cost and time, what is unusual."""
        yield from (self.name, *_shortened(self.data), *self.model, self.score, self.device)
        yield self.by_part
        yield self.summary
        if self.unusual:
            yield "To look at:"
        yield from (f"- {line}" for line in _shortened(self.unusual))


def preview(
    recipe: Recipe | Mapping[str, Any] | str | Path, *, overrides: Overrides = (), trust_builder: bool = False
) -> Preview:
    """Widths by the criterion at the starting weights, cost, and time here; nothing is trained or written.

    Args:
        recipe: As for `adasap.run`.
        overrides: Likewise.
        trust_builder: Likewise.
    Raises:
        AdasapError: For anything that the run itself would refuse.
    """
    recipe = open_recipe(recipe, overrides)
    require_trusted_recipe(recipe, trust_builder, f"the recipe {recipe.name!r}")
    require_installed(recipe.training.trackers)
    recipe, found = recipe.trusted(), list[str]()
    model = open_model(recipe.model, trust_builder=trust_builder, say=found.append)
    data = open_data(recipe, model, trust_code=trust_builder)
    recipe = with_input_size(recipe, data)
    task = open_task(recipe, copy.deepcopy(model), classes=class_list(data.train))
    task.check(model, data)
    require_readable_images(recipe, data)
    to_look_at = [line for line in opening_lines(recipe, model, data, task) if line not in data.remarks]
    run = CompressionRun(model, task, data, recipe, folder=None, observe=ignore)
    plan, seconds = first_plan(run)
    score = first_score(run)
    kept, steps = widths_after(run.dense_groups, plan), run.timetable.plain_steps(recipe)
    cost = run.cost.total(plan.widths())
    reading, workers = reading_seconds(run), recipe.training.num_workers
    waiting = max(0.0, reading / workers - seconds) if workers else reading
    training, evaluation = steps * seconds + run.timetable.num_steps * waiting, evaluation_seconds(run)
    evaluations = _num_evaluations(run)
    return Preview(
        name=recipe.name,
        plan=plan,
        cost=cost,
        dense_cost=run.cost.dense,
        limit=run.timetable.events[-1].limit,
        unit=run.cost.unit,
        plain_steps=steps,
        step_seconds=seconds,
        training_seconds=training,
        evaluation_seconds=None if evaluation is None else evaluation * evaluations,
        data=(*data.remarks, _suites_line(data)),
        model=(_model_line(recipe, model), *found),
        score=score,
        device=_device_line(run),
        by_part=parts_table(run.dense_groups, kept),
        table=_groups_table(run.dense_groups, kept),
        summary="\n".join(_summary(run, plan, cost, steps, seconds, training, evaluation, evaluations)),
        unusual=(*to_look_at, *_about_data(recipe, data)),
    )


def _num_evaluations(run: CompressionRun) -> int:
    """Evaluations whose weights differ, of the five stages."""
    return 5 - (run.timetable.warm_up_end == 0) - (run.config.pruning.recalibration_batches == 0)


def _summary(
    run: CompressionRun,
    plan: PruningPlan,
    cost: float,
    steps: float,
    seconds: float,
    training: float,
    evaluation: float | None,
    evaluations: int,
) -> Iterator[str]:
    dense, times, branches = run.cost.dense, run.timetable, branches_of(run.dense_groups)
    yield (
        f"Budget: {amount(dense)} {run.cost.unit} now, at most {amount(times.events[-1].limit)} allowed at the end, "
        f"{amount(cost)} ({cost / dense:.3f}) by this plan."
    )
    if branches:
        taken = [branch.name for branch in branches if branch.modules.items() <= plan.removed.items()]
        yield f"Depth: {len(taken)} of {len(branches)} residual branches go whole: {', '.join(taken) or 'none'}."
    yield (
        f"Steps: {times.num_steps:,}: warm-up to {times.warm_up_end:,}, {len(times.events)} pruning events to "
        f"{times.pruning_end:,}, then fine-tuning; they cost {steps:.0f} plain steps, and one took {seconds:.2f} "
        "s here at dense width."
    )
    if evaluation is None:
        yield f"Time: about {duration(training)} of training at most; evaluations come on top, and could not be timed."
        return
    scored = evaluation * evaluations
    yield (
        f"Time: about {duration(training + scored)} here at most: {duration(training)} of training with reading, "
        f"{duration(scored)} for {evaluations} evaluations of all suites."
    )


def _model_line(recipe: Recipe, model: torch.nn.Module) -> str:
    spec = recipe.model
    count = sum(parameter.numel() for parameter in model.parameters())
    size = " x ".join(map(str, spec.input_size or ()))
    weights = spec.weights or spec.backbone_weights
    return f"Model: {spec.builder}, {count:,} parameters, images {size}; weights: {weights or 'those of its builder'}"


def _suites_line(data: Data) -> str:
    suites = [
        f"{suite.name} ({len(suite.images):,} images" + (f" x {len(suite.cells)} cells)" if suite.cells[1:] else ")")
        for suite in data.opened_suites
    ]
    return f"suites: {', '.join(suites)}"


def _device_line(run: CompressionRun) -> str:
    device, threads = run.runtime.device, torch.get_num_threads()
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"the CPU, {threads} threads"
    asked = run.config.training.runtime.precision
    chosen = " (chosen by auto)" if asked == "auto" else ""
    return f"Device: {where}; training in {run.runtime.precision}{chosen}, evaluations in {run.scoring_precision}"


def _about_data(recipe: Recipe, data: Data) -> Iterator[str]:
    """What is seldom meant: training images as test images, classes of very different size."""
    train, test = recipe.data.train, recipe.data.test
    if _same_images(train, test):
        yield "data.train and data.test are the same images, so scores say nothing about new ones; give another split"
    labels = getattr(data.train, "labels", None)
    if not isinstance(labels, Tensor) or not len(labels):
        return
    names, counts = class_list(data.train), torch.unique(labels, return_counts=True)
    rare, frequent = int(counts[1].min()), int(counts[1].max())
    if frequent >= _UNEVEN * rare:
        labelled = [names[int(counts[0][place])] for place in (counts[1].argmax(), counts[1].argmin())]
        yield (
            f"class {labelled[0]!r} has {frequent:,} training images and {labelled[1]!r} {rare:,}: accuracy says "
            "little about rare classes"
        )


def _same_images(train: DataSource, test: DataSource) -> bool:
    if replace(train, split=None) != replace(test, split=None):
        return False
    if train.path is not None and Path(train.path).is_file():
        return True
    splits = [source.own_split(asked) for source, asked in ((train, "train"), (test, "test"))]
    return splits[0] is not None and splits[0] == splits[1]


def parts_table(groups: Sequence[ChannelGroup], kept: Mapping[str, int]) -> Table:
    """Channels of each part of the network now and by a plan; parts are the modules near the root, a dozen at most.

    Example:
        >>> groups = [ChannelGroup(f"layer{n}.conv", 8, ()) for n in range(1, 4)]
        >>> print(parts_table(groups, {"layer1.conv": 4, "layer2.conv": 8, "layer3.conv": 8}))
        | part | groups | channels | would keep | % | of them frozen |
        |---|---:|---:|---:|---:|---:|
        | layer1 | 1 | 8 | 4 | 50 | 0 |
        | layer2 | 1 | 8 | 8 | 100 | 0 |
        | layer3 | 1 | 8 | 8 | 100 | 0 |
        | all | 3 | 24 | 20 | 83 | 0 |
    """
    rows = []
    for title, some in (*_parts_of(groups), ("all", groups)):
        before = sum(group.num_channels for group in some)
        after = sum(kept.get(group.name, group.num_channels) for group in some)
        frozen = sum(group.num_channels for group in some if group.frozen)
        counts = (len(some), before, after, round(100 * after / before), frozen)
        rows.append([title, *(f"{count:,}" for count in counts)])
    return Table(["part", "groups", "channels", "would keep", "%", "of them frozen"], rows)


def _parts_of(groups: Sequence[ChannelGroup]) -> list[tuple[str, Sequence[ChannelGroup]]]:
    """Groups by the beginning of their names, as much of it as tells a few parts apart; neighbours share a row."""
    paths = [group.name.split(".") for group in groups]
    deepest = max(map(len, paths))
    counts = [len({tuple(path[:depth]) for path in paths}) for depth in range(1, deepest + 1)]
    depth = next((d for d, count in enumerate(counts, start=1) if count >= _FEWEST_PARTS), deepest)
    parts: dict[str, list[ChannelGroup]] = {}
    for group, path in zip(groups, paths, strict=True):
        parts.setdefault(".".join(path[: min(depth, max(1, len(path) - 1))]), []).append(group)
    names, each = list(parts), -(-len(parts) // _MOST_PARTS)
    chunks = [names[start : start + each] for start in range(0, len(names), each)]
    return [
        (chunk[0] if len(chunk) == 1 else f"{chunk[0]} to {chunk[-1]}", [g for name in chunk for g in parts[name]])
        for chunk in chunks
    ]


def _groups_table(groups: Sequence[ChannelGroup], kept: Mapping[str, int]) -> Table:
    width = {group.name: kept.get(group.name, group.num_channels) for group in groups}
    said = {group.name: "; ".join(group.frozen) or not_exact(group, width[group.name]) for group in groups}
    rows = [[g.name, str(g.num_channels), str(width[g.name]), said[g.name]] for g in groups]
    inexact = any(group.inexact for group in groups)
    heading = "frozen because, or not exact" if inexact else "frozen because"
    return Table(["group", "channels", "would keep", heading], rows, left=(0, 3))


def _shortened(lines: Sequence[str]) -> list[str]:
    more = len(lines) - _MOST_LINES
    last = [f"and {more} more lines; a run prints all of them at its beginning"] if more > 0 else []
    return [*lines[:_MOST_LINES], *last]
