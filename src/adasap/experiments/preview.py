"""What a run would do: plan, cost and time, before any training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adasap.experiments.classes import opening_lines
from adasap.experiments.compress import open_data, open_task, require_readable_images, with_input_size
from adasap.experiments.recipe import Overrides, Recipe, open_recipe
from adasap.experiments.trust import require_trusted_recipe
from adasap.models import open_model
from adasap.pruning import PruningPlan, amount
from adasap.report import Shown, Table
from adasap.tasks.data import class_list
from adasap.training import CompressionRun, first_plan, first_score, ignore


@dataclass(frozen=True, repr=False)
class Preview(Shown):
    """What a run would do; it prints as a table of groups and what they cost.

    Attributes:
        name: Of the recipe.
        plan: What the criterion would keep at the starting weights.
        cost: What that costs, in `unit`.
        dense_cost: What the dense model costs.
        limit: What the budget allows at the end.
        unit: Of the costs.
        plain_steps: Cost of the run in steps of plain training.
        step_seconds: One plain step here, at dense width.
        remarks: What is to be known of data, classes and weights.
        score: How the model does as it is loaded, in one line.
        table: The groups.
        summary: Costs and steps, in sentences.
    """

    name: str
    plan: PruningPlan
    cost: float
    dense_cost: float
    limit: float
    unit: str
    plain_steps: float
    step_seconds: float
    remarks: tuple[str, ...]
    score: str
    table: Table
    summary: str

    def parts(self) -> Iterator[Table | str]:
        """Remarks, groups, score and summary."""
        yield from (*self.remarks, self.name)
        yield self.table
        yield self.score
        yield self.summary


def preview(
    recipe: Recipe | Mapping[str, Any] | str | Path, *, overrides: Overrides = (), trust_builder: bool = False
) -> Preview:
    """Widths by the criterion at the starting weights, cost, and time in plain steps; nothing is trained or written.

    Args:
        recipe: As for `adasap.run`.
        overrides: Likewise.
        trust_builder: Likewise.
    Raises:
        AdasapError: For anything that the run itself would refuse.
    """
    recipe = open_recipe(recipe, overrides)
    require_trusted_recipe(recipe, trust_builder, f"the recipe {recipe.name!r}")
    recipe, found = recipe.trusted(), list[str]()
    model = open_model(recipe.model, trust_builder=trust_builder, say=found.append)
    data = open_data(recipe, model, trust_code=trust_builder)
    recipe = with_input_size(recipe, data)
    task = open_task(recipe, copy.deepcopy(model), classes=class_list(data.train))
    task.check(model, data)
    require_readable_images(recipe, data)
    remarks = (*found, *opening_lines(recipe, model, data, task))
    run = CompressionRun(model, task, data, recipe, folder=None, observe=ignore)
    times, (plan, seconds) = run.timetable, first_plan(run)
    kept = plan.widths()
    rows = [
        [g.name, str(g.num_channels), str(kept.get(g.name, g.num_channels)), "; ".join(g.frozen)]
        for g in run.dense_groups
    ]
    cost, dense, limit, steps = run.cost.total(kept), run.cost.dense, times.events[-1].limit, times.plain_steps(recipe)
    summary = (
        f"{amount(dense)} {run.cost.unit} now, at most {amount(limit)} allowed at the end, "
        f"{amount(cost)} ({cost / dense:.3f}) by this plan.\n"
        f"{times.num_steps} steps: warm-up to {times.warm_up_end}, {len(times.events)} pruning events to "
        f"{times.pruning_end}, then fine-tuning.\n"
        f"Cost: {steps:.0f} plain steps; one took {seconds:.2f} s here at dense width, "
        f"so at most about {steps * seconds / 60:.0f} minutes without evaluations."
    )
    table = Table(["group", "channels", "would keep", "frozen because"], rows, left=(0, 3))
    score = first_score(run)
    return Preview(recipe.name, plan, cost, dense, limit, run.cost.unit, steps, seconds, remarks, score, table, summary)
