"""Runs cells one after the other; a cell that fails is written down, and the rest goes on."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from adasap.export import atomic_write
from adasap.sweep.cells import Cell

RunCell = Callable[[Cell, Path], None]
"""Makes the run of a cell below a folder, or goes on with it; importable by name, for workers elsewhere."""

FAILURE = "failure.json"
"""In a cell's folder: how it failed."""


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: `finished` now, `found` finished, or `failed` with an error."""

    cell: Cell
    state: str
    seconds: float = 0.0
    error: str = ""


def run_cells(cells: Iterable[Cell], out: Path, run: RunCell) -> Iterator[Outcome]:
    """Runs what is not finished, one after the other; cells that failed before are tried again.

    Every outcome is on disk before it is given out. An interrupt passes through; the next call goes on from there.
    """
    failed: set[str] = set()
    for cell in cells:
        lost = cell.dense is not None and cell.dense.recipe.name in failed
        outcome = dense_failed(cell) if lost else run_one(cell, out, run)
        if outcome.state == "failed":
            failed.add(cell.recipe.name)
        yield outcome


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
