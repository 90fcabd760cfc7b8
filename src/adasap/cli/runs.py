"""Verbs that make and compare runs: `init`, `options`, `compress`, `compare`, `sweep`, `demo`."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from adasap.cli.messages import for_command_line
from adasap.cli.options import DataOptions, JsonOption, QuietOption, SeedOption, TrustOption
from adasap.errors import AdasapError
from adasap.experiments import help_texts as text
from adasap.experiments.known_names import DemoTask, complete_data, complete_model, complete_path
from adasap.experiments.terminal import open_console, print_parts

if TYPE_CHECKING:
    from adasap.experiments.sweep import Cell


def init(
    model: Annotated[str, Argument(help=text.MODEL_INIT, autocompletion=complete_model)],
    data: Annotated[str, Argument(help=text.DATA_INIT, autocompletion=complete_data)],
    weights: Annotated[Path | None, Option(help=text.WEIGHTS, autocompletion=complete_path)] = None,
    task: Annotated[str | None, Option(help=text.TASK_INIT, show_default="what the data are for")] = None,
    budget: Annotated[str, Option(metavar="KEY=VALUE", help=text.BUDGET)] = "macs=0.5",
    out: Annotated[Path, Option(help="The recipe's file.", autocompletion=complete_path)] = Path("recipe.yaml"),
    model_option: Annotated[list[str] | None, Option(help="KEY=VALUE for the model's builder; repeat.")] = None,
    data_option: DataOptions = None,
) -> None:
    """Look at a model, at data and at this machine, and write a short recipe with reasons."""
    from adasap.experiments.first_recipe import init_recipe

    console, options = open_console(), {"model_options": model_option or (), "data_option": data_option or ()}
    found = init_recipe(model, data, weights=weights, task=task, budget=budget, out=out, console=console, **options)
    print_parts(console, found.parts())


def options(key: Annotated[str | None, Argument(metavar="KEY", help=text.KEY)] = None) -> None:
    """Print the keys of recipes and sweeps: value, default, and what each is."""
    from adasap.experiments import keys

    print_parts(open_console(), keys.options(key).parts())


def compress(
    recipe: Annotated[Path, Argument(help="YAML file; see recipes/.", autocompletion=complete_path)],
    set_: Annotated[list[str] | None, Option("--set", metavar="A.B=C", help="Override a key.")] = None,
    out: Annotated[Path, Option(help="Folder in which the run's own folder is made.")] = Path("runs"),
    dry_run: Annotated[bool, Option(help="Show data, plan, cost and time, then stop before training.")] = False,
    plan: Annotated[bool, Option("--plan", help="The same, with every group of channels.")] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
    trust_builder: TrustOption = False,
) -> None:
    """Train, prune and fine-tune by a recipe; run it again to resume."""
    from adasap.experiments.compress import run
    from adasap.experiments.preview import preview
    from adasap.training import is_main_process

    console, keys = open_console(quiet=quiet, json=json), set_ or ()
    if dry_run or plan:
        found = preview(recipe, overrides=keys, trust_builder=trust_builder)
        print_parts(console, [*found.parts(), *([found.table] if plan else [])])
        return
    words = ["adasap", "compress", str(recipe), *(word for key in keys for word in ("--set", key)), "--out", str(out)]
    command = shlex.join([*words, "--trust-builder"] if trust_builder else words)
    finished = run(recipe, out=out, overrides=keys, console=console, command=command, trust_builder=trust_builder)
    if is_main_process() and not json:  # `run` told it
        print_parts(console, finished.parts())


def compare(
    runs: Annotated[list[Path], Argument(metavar="RUN...", help=text.RUNS, autocompletion=complete_path)],
    baseline: Annotated[str, Option(metavar="RUN|dense", help=text.BASELINE)] = "dense",
    out: Annotated[Path, Option(help="Folder for the page and its numbers.")] = Path("comparison"),
) -> None:
    """Show finished runs side by side on one page."""
    from adasap.experiments import compare as experiment

    print_parts(open_console(), experiment.compare(runs, baseline=baseline, out=out).parts())


def sweep(
    file: Annotated[Path, Argument(metavar="SWEEP", help=text.FILE, autocompletion=complete_path)],
    out: Annotated[Path, Option(help=text.OUT)] = Path("runs/sweeps"),
    cluster: Annotated[str | None, Option(metavar="local|ADDRESS", help=text.CLUSTER)] = None,
    workers: Annotated[int | None, Option(min=1, max=1024, help="Cells at a time with --cluster local.")] = None,
    results: Annotated[
        Path | None, Option(help=text.RESULTS, show_default=text.BESIDE, autocompletion=complete_path)
    ] = None,
    time_limit: Annotated[str | None, Option("--for", metavar="TIME", help=text.FOR)] = None,
    report: Annotated[bool, Option(help="Only write tables and page of what is there.")] = False,
    dry_run: Annotated[bool, Option(help="Only check the recipes and list the cells.")] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
    trust_builder: TrustOption = False,
) -> None:
    """Run a grid of recipes and seeds and compare them; run it again to go on. Exit code 1 if a cell failed."""
    from adasap.experiments.sweep import run as experiment

    console = open_console(quiet=quiet, json=json)
    if dry_run:
        print_parts(console, experiment.plan_sweep(file, out=out, results=results, trust_builder=trust_builder).parts())
        return
    found = experiment.sweep(
        file,
        out=out,
        cluster=cluster,
        workers=workers,
        results=results,
        time_limit=time_limit,
        report=report,
        run=partial(run_cell, trust_builder=trust_builder, quiet=quiet or json),
        console=console,
        trust_builder=trust_builder,
    )
    print_parts(console, found.parts())
    if found.failed:
        raise Exit(1)


def run_cell(cell: Cell, out: Path, *, trust_builder: bool = False, quiet: bool = False) -> None:
    """One cell; an error is told, and kept, in the command line's words."""
    from adasap.experiments.sweep.run import run_cell as run

    try:
        run(cell, out, trust_builder=trust_builder, quiet=quiet)
    except AdasapError as error:
        raise type(error)(for_command_line(str(error))) from error


def demo(
    task: Annotated[DemoTask, Option(help=text.TASK)] = "classification",
    out: Annotated[Path, Option(help="Folder for everything the demo makes.")] = Path("demo-output"),
    seed: SeedOption = 0,
) -> None:
    """Train a small model, compress it three ways, compare them clean and corrupted."""
    from adasap.experiments.demo import run_demo

    console = open_console()
    words = ["adasap", "demo", *(["--task", task] if task != "classification" else []), "--out", str(out)]
    command = shlex.join([*words, "--seed", str(seed)])
    print_parts(console, ["", *run_demo(task, out=out, seed=seed, console=console, command=command).parts()])
