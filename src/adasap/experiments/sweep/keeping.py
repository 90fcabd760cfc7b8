"""What a sweep leaves behind: its results, written after each cell, and the file that they are taken over from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from adasap.errors import DataError
from adasap.experiments.sweep.cells import Cell
from adasap.experiments.sweep.file import Sweep
from adasap.experiments.sweep.results import read_results
from adasap.experiments.sweep.running import Outcome
from adasap.experiments.sweep.taking_over import Taken
from adasap.io import atomic_write
from adasap.sealed import write_sealed_json


def results_file(file: Path, given: Path | None = None) -> Path | None:
    """The results file of a sweep: the one given, else NAME.json beside NAME.yaml if there is one, else None.

    Raises:
        DataError: If a folder was given.
    """
    if given is not None and given.is_dir():
        raise DataError(f"{given} is a folder; give a results file, such as {given / file.with_suffix('.json').name}")
    beside = file.with_suffix(".json")
    return given or (beside if beside.is_file() and beside != file else None)


def keep_results(
    outcomes: Iterable[Outcome],
    sweep: Sweep,
    cells: Sequence[Cell],
    out: Path,
    taken: Taken | None = None,
    results: Path | None = None,
) -> Iterator[Outcome]:
    """The outcomes, with all results written after each cell that ran: a killed sweep leaves those of all before."""
    read: dict[str, Any] = {}
    for outcome in outcomes:
        if outcome.state in ("finished", "failed"):
            write_results(read_results(sweep, cells, out, taken, read=read), out, results)
        yield outcome
    write_results(read_results(sweep, cells, out, taken, read=read), out, results)


def write_results(found: Mapping[str, Any], out: Path, results: Path | None = None) -> None:
    """`sweep.json` and `sweep.md` in the sweep's folder, and the results file where there is one, each whole or not."""
    from adasap.experiments.sweep.table import sweep_text

    folder = out / found["name"]
    folder.mkdir(parents=True, exist_ok=True)
    write_sealed_json(folder / "sweep.json", found)
    with atomic_write(folder / "sweep.md") as file:
        file.write(sweep_text(dict(found)).encode())
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        write_sealed_json(results, found, indent=1)
