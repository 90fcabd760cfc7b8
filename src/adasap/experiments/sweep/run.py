"""A sweep from beginning to end: its cells run, here or on a cluster, and what they say together."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from adasap.errors import DataError, RecipeError
from adasap.experiments.compare import write_side_by_side
from adasap.experiments.compress import export_weights, run_recipe
from adasap.experiments.sweep.cells import WEIGHTS, Cell, expand, shortest_first
from adasap.experiments.sweep.cluster import run_on_cluster
from adasap.experiments.sweep.file import Sweep, parse_sweep, read_sweep
from adasap.experiments.sweep.keeping import keep_results, results_file, write_results
from adasap.experiments.sweep.results import SweepResults, first_common_seed, read_results
from adasap.experiments.sweep.running import Outcome, RunCell, run_cells, seconds_of, state_without_running
from adasap.experiments.sweep.table import differences_table, means_table, primary_line
from adasap.experiments.sweep.taking_over import Taken, take_over
from adasap.experiments.terminal import AnyConsole, JsonConsole, console_of, open_console
from adasap.experiments.trust import require_trusted_recipe
from adasap.report import PAGE, Shown, Table
from adasap.report.run_data import read_run
from adasap.sealed import read_sealed_tensors


@dataclass(frozen=True, repr=False)
class SweepReport(Shown):
    """What the finished cells of a sweep say; it prints as its tables.

    Attributes:
        results: As `sweep.json` has them: means over seeds, paired differences, the primary comparison.
        folder: Where results and page lie.
        outcomes: What became of each cell now; none if only the report was wanted.
    """

    results: SweepResults
    folder: Path
    outcomes: tuple[Outcome, ...] = ()

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """The cells that failed."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")

    def parts(self) -> Iterator[Table | str]:
        """Means, differences, the primary comparison in a sentence."""
        yield means_table(self.results)
        if self.results["comparisons"]:
            yield differences_table(self.results)
        if self.results["primary"]:
            yield primary_line(self.results).replace("**", "")
        place = self.folder / PAGE
        page = (
            f"The page of one seed: {place}" if place.is_file() else "No seed is finished in all runs, so no page yet"
        )
        yield f"All of it lies in {self.folder}\n{page}"


@dataclass(frozen=True, repr=False)
class PlannedSweep(Shown):
    """The cells of a sweep, none of them run.

    Attributes:
        cells: In the order in which they would be run.
        out: Folder of the cells.
        taken: Those that a results file holds.
    """

    cells: tuple[Cell, ...]
    out: Path
    taken: Taken

    def parts(self) -> Iterator[Table | str]:
        """A line for each cell, and how many are to run."""
        to_run = 0
        for cell in self.cells:
            state = state_without_running(cell, self.cells, self.out, self.taken)
            to_run += state is None
            told = "to run" if state is None else state.replace("found", "finished")
            yield f"{cell.title}: {told}, {cell.folder(self.out)}"
        yield f"{len(self.cells)} cells, {to_run} to run, in this order: the shortest first, by plain steps"


def plan_sweep(
    file: Sweep | Mapping[str, Any] | str | Path,
    *,
    out: str | Path = "runs/sweeps",
    results: str | Path | None = None,
    beside: str | Path | None = None,
    trust_builder: bool = False,
) -> PlannedSweep:
    """The cells that `adasap.sweep` would run, their recipes checked; arguments and errors as there."""
    checked, cells = _cells(file, beside, trust_builder)
    kept = _results_file(file, results)
    taken: Taken = {} if kept is None else take_over(kept, checked, cells)
    return PlannedSweep(tuple(shortest_first(cells)), Path(out), taken)


def sweep(
    file: Sweep | Mapping[str, Any] | str | Path,
    *,
    out: str | Path = "runs/sweeps",
    cluster: str | None = None,
    workers: int | None = None,
    results: str | Path | None = None,
    time_limit: float | str | None = None,
    report: bool = False,
    beside: str | Path | None = None,
    run: RunCell | None = None,
    console: AnyConsole = False,
    trust_builder: bool = False,
) -> SweepReport:
    """Runs a grid of recipes and seeds and compares them; the same call goes on where it was.

    A cell that fails is written down, and the rest goes on.

    Args:
        file: A path of YAML, its keys as a mapping, or a `Sweep`.
        out: Folder of the cells, which sweeps may share, and of results.
        cluster: Run the cells through Ray: `local`, or the address of a cluster.
        workers: Cells at a time with `local`.
        results: File of which cells are taken over, and to which all are written; by default NAME.json beside
            NAME.yaml, if there is one.
        time_limit: Seconds, or a text such as `150m` or `2h`, past which no cell is begun; not with `cluster`.
        report: Only write tables and page of what is there.
        beside: The folder that paths of recipes are relative to; by default that of the file, or the working folder.
        run: Makes the run of a cell; by default `run_cell`.
        console: `True` shows a line for each cell; `json` an object (`docs/logs.md`).
        trust_builder: Let recipes name a builder, task or data of a module that is not ours.
    Raises:
        RecipeError: Before any run, for a sweep or recipe that is wrong.
    """
    checked, cells = _cells(file, beside, trust_builder)
    seconds = seconds_of(time_limit) if isinstance(time_limit, str) else time_limit
    if seconds is not None and cluster is not None:
        raise RecipeError("--for goes without --cluster; there, limit the time of the job, and run it again to go on")
    kept, out, console = _results_file(file, results), Path(out), console_of(console)
    taken: Taken = {} if kept is None else take_over(kept, checked, cells)
    quiet = console.quiet or isinstance(console, JsonConsole)
    made, outcomes = run or partial(run_cell, trust_builder=trust_builder, quiet=quiet), list[Outcome]()
    try:
        if not report:
            if cluster is None:
                running = run_cells(cells, out, made, taken=taken, time_limit=seconds)
            else:
                running = run_on_cluster(
                    cells, out, made, checked.cluster, address=cluster, workers=workers, taken=taken
                )
            for outcome in keep_results(running, checked, cells, out, taken, kept):
                outcomes.append(outcome)
                _tell(console, outcome, len(outcomes), len(cells))
    finally:  # what is finished when it is interrupted has its tables, too
        found = read_results(checked, cells, out, taken)
        write_results(found, out, kept)
        _write_page(found, cells, out)
    if left := sum(outcome.state == "not begun" for outcome in outcomes):
        console.print(f"Time is up: {left} of {len(cells)} cells not begun; run it again to go on")
    return SweepReport(found, out / checked.name, tuple(outcomes))


def _results_file(file: Sweep | Mapping[str, Any] | str | Path, results: str | Path | None) -> Path | None:
    given = None if results is None else Path(results)
    return results_file(Path(file), given) if isinstance(file, str | Path) else given


def _cells(
    file: Sweep | Mapping[str, Any] | str | Path, beside: str | Path | None, trust_builder: bool
) -> tuple[Sweep, list[Cell]]:
    """The sweep and its cells, of which none runs code that is not trusted."""
    where = str(file) if isinstance(file, str | Path) else "the sweep"
    if isinstance(file, str | Path):
        checked, place = read_sweep(Path(file)), Path(file).parent
    else:
        checked, place = file if isinstance(file, Sweep) else parse_sweep(file), Path()
    cells = expand(checked, place if beside is None else Path(beside))
    for cell in cells:
        require_trusted_recipe(cell.recipe, trust_builder, f"{where}, run {cell.run!r}")
    return checked, cells


def run_cell(cell: Cell, out: Path, *, trust_builder: bool = False, quiet: bool = False) -> None:
    """One cell as a run in its folder, shown as any run is; a dense one leaves its weights for others."""
    if cell.dense is not None:
        remedy = "remove its folder, and it is trained again"
        read_sealed_tensors(cell.dense.folder(out) / WEIGHTS, error=DataError, remedy=remedy)
    console = open_console(quiet=quiet)
    console.print(f"{cell.recipe.name}: {cell.title}", soft_wrap=True)
    words = ["adasap", "compress", str(cell.folder(out) / "recipe.yaml"), "--out", str(out / "cells")]
    run = run_recipe(
        cell.recipe_in(out),
        cell.folder(out),
        console,
        command=shlex.join([*words, "--trust-builder"] if trust_builder else words),
        brief=True,
        kept_suites=out / "corrupted",
        trust_builder=trust_builder,
    )
    if cell.is_dense:
        export_weights(run, cell.folder(out) / WEIGHTS)


def _tell(console: Console, outcome: Outcome, number: int, total: int) -> None:
    if outcome.state == "not begun":
        return
    if isinstance(console, JsonConsole):
        keys = {"run": outcome.cell.run, "seed": outcome.cell.seed, "title": outcome.cell.title}
        keys |= {"state": outcome.state, "seconds": outcome.seconds, "error": outcome.error or None}
        console.tell("run", **keys, number=number, of=total)
        return
    seconds = f" ({outcome.seconds:.0f} s)" if outcome.seconds else ""
    error = f": {outcome.error}" if outcome.error else ""
    line = f"{number} of {total}: {outcome.cell.title}: {outcome.state}{seconds}{error}"
    console.print(line, soft_wrap=True, markup=False, highlight=False)


def _write_page(results: SweepResults, cells: Sequence[Cell], out: Path) -> None:
    """The page of the first seed that every run has finished in the folder."""
    folder = out / results["name"]
    seed = first_common_seed(cells, out)
    if seed is None:
        return
    chosen = [cell for cell in cells if cell.seed == seed and not cell.is_dense]
    runs = [replace(read_run(cell.folder(out)), name=cell.run) for cell in chosen]
    primary = results["primary"]
    write_side_by_side(runs, folder, baseline=primary["baseline"] if primary else "dense")
