"""Cells that a results file holds already, so that a sweep goes on on another machine from what was committed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from adasap.errors import DataError, RecipeError
from adasap.experiments.recipe import parse_recipe
from adasap.experiments.sweep.cells import Cell
from adasap.experiments.sweep.file import Sweep
from adasap.experiments.sweep.schema import load_results

Taken = Mapping[tuple[str, int], Mapping[str, Any]]
"""Run and seed -> what `read_results` keeps of a cell, its metric and environment beside it."""

_REMEDY = "give another results file, and this one stays as it is"


def take_over(path: Path, sweep: Sweep, cells: Iterable[Cell]) -> Taken:
    """The cells of a results file, all of which must be of this sweep and of the recipes that it has now.

    A recipe is known by its keys, defaults filled in, not by its file: keys that this version added since, at their
    defaults, make no other recipe of it. Paths of data are keys, too.

    Args:
        path: What a sweep wrote; nothing is taken where there is no file.
    Raises:
        DataError: If it is half-written, altered, of another sweep, or holds a cell of another recipe: names the run,
            the key and both values.
    """
    if not path.is_file():
        return {}
    results = load_results(path, remedy=_REMEDY)
    if results["name"] != sweep.name:
        raise DataError(
            f"{path} is of the sweep {results['name']!r:.100}, and this one is {sweep.name!r:.100}; {_REMEDY}"
        )
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.run, cell)
    known = {(run, seed) for run in first for seed in sweep.all_seeds}
    taken: dict[tuple[str, int], Mapping[str, Any]] = {}
    for run, found in results["runs"].items():
        for seed, data in found["cells"].items():
            if (run, int(seed)) not in known:
                raise DataError(f"{path} holds {run!r:.100}, seed {seed}, which the sweep has not; {_REMEDY}")
            environment = results["environments"][data["environment"]]
            taken[run, int(seed)] = {**data, "metric": results["metric"], "environment": environment}
    for run in dict.fromkeys(run for run, _ in taken):
        cell = first[run]
        for one in (cell, cell.dense):
            if one is not None:
                _require_same(one, results["recipes"], path)
    return taken


def _require_same(cell: Cell, recipes: Mapping[str, Any], path: Path) -> None:
    if cell.run not in recipes:
        raise DataError(f"{path} does not say which recipe {cell.run!r:.100} was made of; {_REMEDY}")
    try:
        was = Cell(cell.run, 0, parse_recipe({**recipes[cell.run], "name": cell.run.replace("/", " ")})).resolved
    except RecipeError as error:
        raise DataError(f"{path}: the recipe of {cell.run!r:.100} cannot be read: {error}; {_REMEDY}") from error
    if (difference := _first_difference(was, cell.resolved)) is not None:
        key, old, new = difference
        raise DataError(
            f"{path} holds results of {cell.run!r:.100} with {key} {old!r:.80}, and the sweep says {new!r:.80}; "
            f"{_REMEDY}"
        )


def _first_difference(was: Any, now: Any, place: str = "") -> tuple[str, Any, Any] | None:
    """The first dotted key with different values, and both."""
    if not (isinstance(was, Mapping) and isinstance(now, Mapping)):
        return None if was == now else (place, was, now)
    for key in dict.fromkeys([*was, *now]):
        found = _first_difference(was.get(key), now.get(key), f"{place}.{key}".lstrip("."))
        if found is not None:
            return found
    return None
