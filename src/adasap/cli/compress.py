"""`adasap compress RECIPE`: a dense pretrained model in, a smaller robust one out."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adasap.cli.runs import check_classes, cost_line, open_any_task, open_data, run_recipe
from adasap.config import AnyRecipe, read_recipe
from adasap.models import open_model
from adasap.pruning import amount
from adasap.report import PAGE, profile_table, stage_table
from adasap.training import CompressionRun, first_plan, ignore, is_main_process


def compress(
    recipe: Annotated[Path, typer.Argument(help="YAML file; see recipes/.")],
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a key.")] = None,
    out: Annotated[Path, typer.Option(help="Folder in which the run's own folder is made.")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option(help="Show plan, cost and time, then stop before training.")] = False,
) -> None:
    """Train, prune and fine-tune by a recipe; run it again to resume."""
    console = Console()
    checked = read_recipe(recipe, set_ or ())
    if dry_run:
        preview(checked, console)
        return
    words = ["adasap", "compress", str(recipe), *(word for key in set_ or () for word in ("--set", key))]
    finished = run_recipe(checked, out / checked.name, console, command=shlex.join([*words, "--out", str(out)]))
    if not is_main_process():
        return
    console.print(stage_table(finished.result.stages))
    console.print(profile_table(finished.profiles))
    console.print(f"{cost_line(finished, checked)}\nAll of it lies in {finished.folder}", highlight=False)
    console.print(f"The page: {finished.folder / PAGE}", highlight=False, soft_wrap=True)


def preview(recipe: AnyRecipe, console: Console) -> None:
    """What a run would do: widths by the criterion at the starting weights, cost, and time in plain steps."""
    data, model = open_data(recipe), open_model(recipe.model, trust_builder=True)
    check_classes(model, recipe, data)
    task = open_any_task(recipe, data, copy.deepcopy(model))
    run = CompressionRun(model, task, data, recipe, folder=None, observe=ignore)
    times = run.timetable
    plan, seconds = first_plan(run)
    table = Table("group", "channels", "would keep", "frozen because", title=recipe.name)
    kept = plan.widths()
    for group in run.dense_groups:
        left = str(kept.get(group.name, group.num_channels))
        table.add_row(group.name, str(group.num_channels), left, "; ".join(group.frozen))
    console.print(table)
    cost, dense = run.cost.total(kept), run.cost.dense
    console.print(
        f"{amount(dense)} {run.cost.unit} now, at most {amount(times.events[-1].limit)} allowed at the end, "
        f"{amount(cost)} ({cost / dense:.3f}) by this plan.\n"
        f"{times.num_steps} steps: warm-up to {times.warm_up_end}, {len(times.events)} pruning events to "
        f"{times.pruning_end}, then fine-tuning.\n"
        f"Cost: {times.plain_steps(recipe):.0f} plain steps; one took {seconds:.2f} s here at dense width, "
        f"so at most about {times.plain_steps(recipe) * seconds / 60:.0f} minutes without evaluations.",
        highlight=False,
    )
