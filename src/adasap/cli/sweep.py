"""`adasap sweep SWEEP`: a grid of recipes and seeds, cell by cell, and what they say together."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adasap.cli.compare import write_side_by_side
from adasap.cli.runs import export_weights, run_recipe
from adasap.export import atomic_write
from adasap.report import PAGE
from adasap.report.run_data import read_run
from adasap.sweep import Cell, Outcome, Sweep, SweepResults, expand, read_results, read_sweep, run_cells
from adasap.sweep.cells import WEIGHTS
from adasap.sweep.results import first_common_seed
from adasap.sweep.table import differences_table, means_table, primary_line, sweep_text


def sweep(
    file: Annotated[Path, typer.Argument(metavar="SWEEP", help="YAML file; see recipes/sweeps/.")],
    out: Annotated[Path, typer.Option(help="Folder of the cells, which sweeps may share, and of results.")] = Path(
        "runs/sweeps"
    ),
    cluster: Annotated[
        str | None, typer.Option(metavar="local|ADDRESS", help="Run the cells through Ray, here or on its cluster.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Cells at a time with --cluster local.")] = None,
    report: Annotated[bool, typer.Option(help="Only write tables and page of what is there.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Only check the recipes and list the cells.")] = False,
) -> None:
    """Run a grid of recipes and seeds and compare them; run it again to go on. Exit code 1 if a cell failed."""
    console, checked = Console(), read_sweep(file)
    cells = expand(checked, file.parent)
    if dry_run:
        _list(cells, out, console)
        return
    failed = 0
    try:
        if not report:
            failed = _run(checked, cells, out, console, cluster, workers)
    finally:  # what is finished when it is interrupted has its tables, too
        results = read_results(checked, cells, out)
        _write(results, cells, out)
    _print(results, out / checked.name, console)
    if failed:
        raise typer.Exit(1)


def run_cell(cell: Cell, out: Path) -> None:
    """One cell as a run in its folder; a dense one leaves its weights for the others."""
    command = shlex.join(["adasap", "compress", str(cell.folder(out) / "recipe.yaml"), "--out", str(out / "cells")])
    run = run_recipe(
        cell.recipe_in(out),
        cell.folder(out),
        Console(quiet=not sys.stdout.isatty()),
        command=command,
        brief=True,
        kept_suites=out / "corrupted",
    )
    if cell.is_dense:
        export_weights(run.result.model, cell.folder(out) / WEIGHTS)


def _run(
    checked: Sweep, cells: Sequence[Cell], out: Path, console: Console, cluster: str | None, workers: int | None
) -> int:
    """Runs what is not finished and says so line by line; how many failed."""
    outcomes: Iterator[Outcome]
    if cluster is None:
        outcomes = run_cells(cells, out, run_cell)
    else:
        from adasap.sweep.cluster import run_on_cluster

        outcomes = run_on_cluster(cells, out, run_cell, checked.cluster, address=cluster, workers=workers)
    states: Counter[str] = Counter()
    for number, outcome in enumerate(outcomes, start=1):
        states[outcome.state] += 1
        seconds = f" ({outcome.seconds:.0f} s)" if outcome.seconds else ""
        error = f": {outcome.error}" if outcome.error else ""
        line = f"{number} of {len(cells)}: {outcome.cell.title}: {outcome.state}{seconds}{error}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    return states["failed"]


def _list(cells: Sequence[Cell], out: Path, console: Console) -> None:
    for cell in cells:
        state = "finished" if cell.is_finished(out) else "to run"
        console.print(f"{cell.title}: {state}, {cell.folder(out)}", highlight=False, markup=False, soft_wrap=True)
    to_run = sum(not cell.is_finished(out) for cell in cells)
    console.print(f"{len(cells)} cells, {to_run} to run", highlight=False)


def _write(results: SweepResults, cells: Sequence[Cell], out: Path) -> None:
    """`sweep.json`, `sweep.md`, and the page of the first seed that all runs have finished."""
    folder = out / results["name"]
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"sweep.json": json.dumps(results) + "\n", "sweep.md": sweep_text(results)}.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    seed = first_common_seed(results)
    if seed is None:
        return
    chosen = [cell for cell in cells if cell.seed == seed and not cell.is_dense]
    runs = [dataclasses.replace(read_run(cell.folder(out)), name=cell.run) for cell in chosen]
    primary = results["primary"]
    write_side_by_side(runs, folder, baseline=primary["baseline"] if primary else "dense")


def _print(results: SweepResults, folder: Path, console: Console) -> None:
    console.print(means_table(results))
    if results["comparisons"]:
        console.print(differences_table(results))
    if results["primary"]:
        console.print(primary_line(results).replace("**", ""), highlight=False)
    place = folder / PAGE
    page = f"The page of one seed: {place}" if place.is_file() else "No seed is finished in all runs, so no page yet"
    console.print(f"All of it lies in {folder}\n{page}", highlight=False, soft_wrap=True)
