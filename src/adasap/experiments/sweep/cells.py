"""From a sweep to its cells: one recipe for each run, point and seed, and the dense models before them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from adasap.errors import RecipeError, suggestion
from adasap.experiments.recipe import Recipe, parse_recipe, read_tree, recipe_tree, set_key
from adasap.experiments.sweep.file import Overrides, Sweep, run_name
from adasap.sealed import is_whole_json
from adasap.training.run_schedule import Timetable

WEIGHTS = "dense.safetensors"
"""The weights of a dense cell, in its folder."""


@dataclass(frozen=True)
class Cell:
    """One run to be made.

    Attributes:
        run: Its name in the sweep; `dense` for a dense model.
        seed: Of the recipe.
        recipe: All of it but the weights, where they come from a dense cell. Its name ends in a digest of it, so
            that a changed recipe is another cell, and sweeps in one folder share the cells they have in common.
        dense: The cell whose weights it starts from.
    """

    run: str
    seed: int
    recipe: Recipe
    dense: Cell | None = None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.run}, seed {self.seed}"

    @property
    def is_dense(self) -> bool:
        """Whether other cells start from it."""
        return self.run == "dense"

    def folder(self, out: Path) -> Path:
        """Where the run lies."""
        return out / "cells" / self.recipe.name

    def is_finished(self, out: Path) -> bool:
        """Whether everything that is wanted of it is there, whole and unaltered."""
        folder = self.folder(out)
        return is_whole_json(folder / "result.json") and (not self.is_dense or (folder / WEIGHTS).is_file())

    @property
    def resolved(self) -> dict[str, Any]:
        """Every key of the recipe but those that differ between the cells of one run: name, seed, dense weights."""
        recipe = self.recipe
        if self.dense is not None:
            recipe = replace(recipe, model=replace(recipe.model, weights=None))
        return {key: value for key, value in recipe_tree(recipe).items() if key not in ("name", "seed")}

    def recipe_in(self, out: Path) -> Recipe:
        """The recipe with the dense cell's weights."""
        if self.dense is None:
            return self.recipe
        weights = str(self.dense.folder(out) / WEIGHTS)
        return replace(self.recipe, model=replace(self.recipe.model, weights=weights))


def expand(sweep: Sweep, beside: Path) -> list[Cell]:
    """All cells, seed by seed, each dense cell before those that start from it.

    Args:
        beside: The folder that paths of recipes are relative to.
    Raises:
        RecipeError: For a recipe that is missing or wrong; names the run.
    """
    if sweep.dense is not None and "dense" in sweep.run_names():
        raise RecipeError("a run is named `dense`, which is the name of the dense models; give it another name")
    dense = None if sweep.dense is None else _recipe("dense", beside / sweep.dense, {}, {})
    recipes = _recipes(sweep, beside)
    return list(chain.from_iterable(_of_seed(dense, recipes, seed) for seed in sweep.all_seeds))


def shortest_first(cells: Sequence[Cell]) -> list[Cell]:
    """The cells by estimated cost, those alike as they stand; a dense one just before the first that starts from it."""
    costs, ordered = plain_costs(cells), dict[str, Cell]()
    for cell in sorted((cell for cell in cells if not cell.is_dense), key=lambda cell: costs[cell.run]):
        for one in (cell.dense, cell):
            if one is not None:
                ordered.setdefault(one.title, one)
    for cell in cells:
        ordered.setdefault(cell.title, cell)
    return list(ordered.values())


def plain_costs(cells: Iterable[Cell]) -> dict[str, float]:
    """Run -> training cost of one of its cells: epochs of plain steps, times the images where recipes limit them."""
    first = {cell.run: cell.recipe for cell in reversed(list(cells))}
    counts = {run: recipe.data.train.count for run, recipe in first.items()}
    largest = max((count for count in counts.values() if count), default=1)
    return {run: _plain_epochs(recipe) * (counts[run] or largest) for run, recipe in first.items()}


def _plain_epochs(recipe: Recipe) -> float:
    """Cost of the three steps in epochs of plain steps."""
    warm_up_end = round(recipe.warm_up.epochs * _STEPS)
    pruning_end = warm_up_end + round(recipe.pruning.epochs * _STEPS)
    num_steps = pruning_end + round(recipe.fine_tune.epochs * _STEPS)
    return Timetable(warm_up_end, pruning_end, num_steps, rising=0, events=()).plain_steps(recipe) / _STEPS


_STEPS = 100
"""Of an epoch, for estimates: how many there are is known when the data are read."""


def _of_seed(dense: Recipe | None, recipes: Mapping[str, Recipe], seed: int) -> list[Cell]:
    first = None if dense is None else _cell("dense", seed, dense, None)
    cells = [_cell(run, seed, recipe, first) for run, recipe in recipes.items()]
    return cells if first is None else [first, *cells]


def _recipes(sweep: Sweep, beside: Path) -> dict[str, Recipe]:
    """Every run at every point, whatever the seed."""
    recipes: dict[str, Recipe] = {}
    files: dict[Path, dict[str, Any]] = {}
    for point in sweep.points():
        changes = [sweep.grid[axis][label] for axis, label in zip(sweep.grid, point, strict=True)]
        for name, variant in sweep.runs.items():
            path = variant.recipe or sweep.recipe
            if path is None:
                raise RecipeError(f"run {name!r} has no recipe; give `recipe:` there, or for the whole sweep")
            overrides: Overrides = {}
            for part in (sweep.set, variant.set, *changes):
                overrides = {key: value for key, value in overrides.items() if key not in part} | part  # the last wins
            run = run_name(name, point)
            recipes[run] = _recipe(run, beside / path, overrides, files)
            _check_suite(sweep, run, recipes[run])
    return recipes


def _recipe(run: str, path: Path, overrides: Overrides, files: dict[Path, dict[str, Any]]) -> Recipe:
    """A recipe with changes; `files` keeps what has been read."""
    try:
        if path not in files:
            files[path] = read_tree(path)
        tree = dict(files[path])
        for key, value in overrides.items():
            set_key(tree, key, value)
        return parse_recipe(tree)
    except RecipeError as error:
        raise RecipeError(f"run {run!r}: {error}") from error


def _cell(run: str, seed: int, recipe: Recipe, dense: Cell | None) -> Cell:
    recipe = replace(recipe, seed=seed)
    if dense is not None:
        recipe = replace(recipe, model=replace(recipe.model, weights=f"of {dense.recipe.name}"))
    return Cell(run, seed, replace(recipe, name=f"{recipe.name}-{_digest(recipe_tree(recipe))}"), dense)


def _digest(tree: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def _check_suite(sweep: Sweep, run: str, recipe: Recipe) -> None:
    """The primary's suite must be one that is evaluated."""
    if sweep.primary is None:
        return
    suites = ["clean", *recipe.data.suites]
    if sweep.primary.suite not in suites:
        raise RecipeError(
            f"primary.suite is {sweep.primary.suite!r}, which run {run!r} is not evaluated on; "
            f"{suggestion(sweep.primary.suite, suites)}"
        )
