"""From a sweep to its cells: one recipe for each run, point and seed, and the dense models before them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from adasap.config import Recipe, read_recipe, recipe_tree
from adasap.errors import RecipeError, suggestion
from adasap.sweep.file import Overrides, Sweep, run_name

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
        """Whether everything that is wanted of it is there."""
        folder = self.folder(out)
        return (folder / "result.json").is_file() and (not self.is_dense or (folder / WEIGHTS).is_file())

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
    return list(chain.from_iterable(_of_seed(sweep, beside, seed) for seed in sweep.all_seeds))


def _of_seed(sweep: Sweep, beside: Path, seed: int) -> list[Cell]:
    dense = None
    if sweep.dense is not None:
        dense = _cell("dense", seed, beside / sweep.dense, {}, None)
        if sweep_uses_name_dense(sweep):
            raise RecipeError("a run is named `dense`, which is the name of the dense models; give it another name")
    cells = [] if dense is None else [dense]
    for point in sweep.points():
        changes = [sweep.grid[axis][label] for axis, label in zip(sweep.grid, point, strict=True)]
        for name, variant in sweep.runs.items():
            path = variant.recipe or sweep.recipe
            if path is None:
                raise RecipeError(f"run {name!r} has no recipe; give `recipe:` there, or for the whole sweep")
            overrides: Overrides = {}
            for part in (sweep.set, variant.set, *changes):
                overrides |= part
            cells.append(_cell(run_name(name, point), seed, beside / path, overrides, dense))
    for cell in cells:
        _check_suite(sweep, cell)
    return cells


def sweep_uses_name_dense(sweep: Sweep) -> bool:
    """Whether a run has the name that dense cells have."""
    return "dense" in sweep.run_names()


def _cell(run: str, seed: int, path: Path, overrides: Overrides, dense: Cell | None) -> Cell:
    texts = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]  # JSON is YAML
    try:
        recipe = read_recipe(path, [*texts, f"seed={seed}"])
    except RecipeError as error:
        raise RecipeError(f"run {run!r}: {error}") from error
    if dense is not None:
        recipe = replace(recipe, model=replace(recipe.model, weights=f"of {dense.recipe.name}"))
    return Cell(run, seed, replace(recipe, name=f"{recipe.name}-{_digest(recipe_tree(recipe))}"), dense)


def _digest(tree: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:12]


def _check_suite(sweep: Sweep, cell: Cell) -> None:
    """The primary's suite must be one that is evaluated."""
    if sweep.primary is None or cell.is_dense:
        return
    suites = ["clean", *cell.recipe.data.suites]
    if sweep.primary.suite not in suites:
        raise RecipeError(
            f"primary.suite is {sweep.primary.suite!r}, which run {cell.run!r} is not evaluated on; "
            f"{suggestion(sweep.primary.suite, suites)}"
        )
