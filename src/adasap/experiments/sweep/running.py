"""Runs cells one after the other; a cell that fails is written down, and the rest goes on."""

from __future__ import annotations

import json
import re
import time
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from adasap.errors import ArgumentError
from adasap.experiments.sweep.cells import Cell, plain_costs, shortest_first
from adasap.io import atomic_write

RunCell = Callable[[Cell, Path], None]
"""Makes the run of a cell below a folder, or goes on with it; importable by name, for workers elsewhere."""

FAILURE = "failure.json"
"""In a cell's folder: how it failed."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        state: `finished` now, `found` finished, `taken over` from a results file, `failed` with an error, `not needed`
            (a dense model of which all cells are there), or `not begun` within the time limit.
    """

    cell: Cell
    state: str
    seconds: float = 0.0
    error: str = ""


def run_cells(
    cells: Iterable[Cell],
    out: Path,
    run: RunCell,
    *,
    taken: Collection[tuple[str, int]] = (),
    time_limit: float | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Runs what is not finished, one after the other, shortest first; cells that failed before are tried again.

    Every outcome is on disk before it is given out. An interrupt passes through; the next call goes on from there.

    Args:
        taken: Run and seed of cells that are not to be run, for their results are known (`take_over`).
        time_limit: Seconds after which no cell is begun, nor one before of which the cells that this call has finished
            say that it would take longer: those of the same run, else by estimated cost. The first cell is always
            begun, so that a limit shorter than any cell still gets on.
        clock: What tells seconds.
    """
    cells = list(cells)
    failed: set[str] = set()
    pace, started, any_begun, is_over = _Pace(plain_costs(cells)), clock(), False, False
    for cell in shortest_first(cells):
        if (state := state_without_running(cell, cells, out, taken)) is not None:
            yield Outcome(cell, state)
            continue
        if cell.dense is not None and cell.dense.recipe.name in failed:
            yield dense_failed(cell)
            continue
        if time_limit is not None and any_begun and not is_over:
            is_over = clock() - started + pace.expected(cell) > time_limit
        if is_over:
            yield Outcome(cell, "not begun")
            continue
        begun, any_begun = clock(), True
        outcome = run_one(cell, out, run)
        if outcome.state == "failed":
            failed.add(cell.recipe.name)
        else:
            pace.add(cell, clock() - begun)
        yield outcome


def state_without_running(
    cell: Cell, cells: Iterable[Cell], out: Path, taken: Collection[tuple[str, int]]
) -> str | None:
    """`found`, `taken over` or `not needed`: what becomes of a cell that need not run; None for one that must."""
    if cell.is_finished(out):
        return "found"
    if (cell.run, cell.seed) in taken:
        return "taken over"
    if cell.is_dense and all(
        (other.run, other.seed) in taken or other.is_finished(out) for other in cells if other.dense is cell
    ):
        return "not needed"
    return None


@dataclass
class _Pace:
    """How long cells take on this machine.

    Attributes:
        costs: Run -> estimated cost of a cell.
        seconds: Run -> seconds of those that were finished.
    """

    costs: Mapping[str, float]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def add(self, cell: Cell, seconds: float) -> None:
        self.seconds.setdefault(cell.run, []).append(seconds)

    def expected(self, cell: Cell) -> float:
        """Seconds of a cell: mean of its run, else by the cost of all that were run; 0 where nothing was."""
        if cell.run in self.seconds:
            return fmean(self.seconds[cell.run])
        cost = sum(self.costs[run] * len(some) for run, some in self.seconds.items())
        return self.costs[cell.run] * sum(map(sum, self.seconds.values())) / cost if cost else 0.0


def seconds_of(text: str) -> float:
    """A length of time such as `150m`, `2h`, `90s` or `1h30m`, in seconds.

    Raises:
        ArgumentError: For any other text.

    Example:
        >>> seconds_of("1h30m")
        5400.0
    """
    parts = re.fullmatch(r"(?:(\d{1,6}(?:\.\d+)?)h)?(?:(\d{1,6}(?:\.\d+)?)m)?(?:(\d{1,6}(?:\.\d+)?)s)?", text.strip())
    seconds = (
        sum(float(part or 0) * unit for part, unit in zip(parts.groups(), (3600, 60, 1), strict=True)) if parts else 0
    )
    if not seconds > 0:
        raise ArgumentError(
            f"the length of time is {text!r:.80}; give hours, minutes or seconds, such as 2h, 150m or 90s"
        )
    return seconds


def run_one(cell: Cell, out: Path, run: RunCell) -> Outcome:
    """One cell: skipped if it is finished; an error of any kind becomes a failure with its traceback."""
    if cell.is_finished(out):
        return Outcome(cell, "found")
    started = time.perf_counter()
    try:
        run(cell, out)
    except Exception as error:
        seconds = time.perf_counter() - started
        return failure(cell, out, f"{type(error).__name__}: {error}", traceback.format_exc(), seconds)
    (cell.folder(out) / FAILURE).unlink(missing_ok=True)
    return Outcome(cell, "finished", time.perf_counter() - started)


def failure(cell: Cell, out: Path, error: str, trace: str = "", seconds: float = 0.0) -> Outcome:
    """A failed cell, written down in its folder."""
    folder = cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / FAILURE) as file:
        text = {"run": cell.run, "seed": cell.seed, "error": error, "traceback": trace}
        file.write(json.dumps(text, indent=1).encode())
    return Outcome(cell, "failed", seconds, error)


def dense_failed(cell: Cell) -> Outcome:
    """A cell that cannot begin."""
    return Outcome(cell, "failed", error="its dense model failed")
