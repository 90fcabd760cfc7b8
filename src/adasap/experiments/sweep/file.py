"""The sweep file: which recipes, which grid, which seeds, and which comparison was named before it was run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, product
from pathlib import Path
from typing import Any

from adasap.checks import MOST_SEED, require_above, require_within
from adasap.errors import RecipeError, suggestion
from adasap.experiments.recipe import parse_options, read_yaml

Overrides = dict[str, Any]
"""Dotted key of a recipe -> value, such as `pruning.criterion: taylor`."""

MOST_CELLS = 2_000
"""A sweep of more runs, or of more comparisons, is refused before any is made."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A recipe with changes.

    Attributes:
        recipe: Path of a recipe, relative to the sweep file; the sweep's own if not given.
        set: What is changed in it.
    """

    recipe: str | None = None
    set: Overrides = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Primary:
    """The one comparison that the sweep is made for; it alone is not corrected for being one of many.

    Attributes:
        run: A run, with its place in the grid: `adasap` or `adasap/0.4`.
        baseline: Another one.
        suite: On whose mean score they are compared.
    """

    run: str
    baseline: str
    suite: str = "corrupted"


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """What a cell takes of a cluster.

    Attributes:
        cpus: Cores.
        gpus: GPUs; a fraction lets cells share one.
        retries: How often a cell whose worker died is taken up again.
    """

    cpus: float = 1.0
    gpus: float = 0.0
    retries: int = 3

    def __post_init__(self) -> None:
        require_above(RecipeError, 0, 10_000, cpus=self.cpus)
        require_within(RecipeError, 0, 10_000, gpus=self.gpus, retries=self.retries)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A grid of runs.

    Attributes:
        name: Of the sweep and its folder.
        title: A line for people.
        recipe: Path of the recipe of all variants that name none.
        dense: Path of a recipe that trains the dense model; it runs once for each seed, and every cell of that seed
            starts from its weights. Without it the recipes say where their weights are.
        set: What is changed in every variant.
        runs: Name -> recipe with changes.
        grid: Axis -> label -> changes; every run is made at every point of the product.
        seeds: Their number, from 0 on, or a list.
        baselines: Runs that all others are compared with, at the same point of the grid and seed by seed.
        primary: The comparison that was named beforehand.
        cluster: What a cell takes of a cluster.
    """

    name: str
    title: str = ""
    recipe: str | None = None
    dense: str | None = None
    set: Overrides = field(default_factory=dict)
    runs: dict[str, Variant]
    grid: dict[str, dict[str, Overrides]] = field(default_factory=dict)
    seeds: int | tuple[int, ...] = 3
    baselines: tuple[str, ...] = ()
    primary: Primary | None = None
    cluster: ClusterOptions = field(default_factory=ClusterOptions)

    def __post_init__(self) -> None:
        for word in chain([self.name], self.runs, *self.grid.values()):
            plain = word.isprintable() and not any(letter in word for letter in "/\\|")
            if not plain or not word or word.startswith(".") or len(word.encode()) > 100:
                raise RecipeError(
                    f"{word!r:.200} names a sweep, run or label; give a plain word such as `plain_double`"
                )
        if not self.runs or not all(self.grid.values()):
            raise RecipeError("`runs` or an axis of `grid` is empty; name at least one run, and a label for each axis")
        self._check_seeds()
        self._check_size()
        for baseline in self.baselines:
            if baseline not in self.runs:
                raise RecipeError(f"baselines: no run is named {baseline!r}; {suggestion(baseline, self.runs)}")
        if self.primary is not None:
            for run in (self.primary.run, self.primary.baseline):
                if run not in self.run_names():
                    raise RecipeError(f"primary: no run is named {run!r}; {suggestion(run, self.run_names())}")
            if self.primary.run == self.primary.baseline:
                raise RecipeError(f"primary compares {self.primary.run!r} with itself; name two runs")

    def _check_seeds(self) -> None:
        if isinstance(self.seeds, int):
            require_within(RecipeError, 1, MOST_CELLS, seeds=self.seeds)
            return
        require_within(RecipeError, 0, MOST_SEED, seeds=self.seeds)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise RecipeError(
                f"seeds is {list(self.seeds)!r:.100}; give a number of seeds, 1 or more, or a list of different ones"
            )

    def _check_size(self) -> None:
        """Counted, not listed: the product of a grid may be larger than any memory."""
        points = math.prod(len(axis) for axis in self.grid.values())
        runs, seeds = len(self.runs) * points, len(self.all_seeds)
        if runs * (seeds + len(self.baselines)) > MOST_CELLS:
            raise RecipeError(
                f"{len(self.runs):,} runs at {points:,} points of the grid with {seeds:,} seeds make {runs * seeds:,} "
                f"cells and {runs * len(self.baselines):,} comparisons; at most {MOST_CELLS:,} in all are made: leave "
                "out labels, seeds or baselines, or write several sweeps"
            )

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds one by one."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    def points(self) -> list[tuple[str, ...]]:
        """The points of the grid, a label for each axis; one empty point without a grid."""
        return list(product(*self.grid.values()))

    def run_names(self) -> list[str]:
        """Every run at every point: `RUN`, or `RUN/LABEL/...`."""
        return [run_name(run, point) for point in self.points() for run in self.runs]

    def pairs(self) -> list[tuple[str, str]]:
        """Which runs are compared: the primary first, then all others with each baseline at their point, once."""
        found = {} if self.primary is None else {(self.primary.run, self.primary.baseline): None}  # in their order
        for point in self.points():
            for baseline in self.baselines:
                for run in self.runs:
                    pair = run_name(run, point), run_name(baseline, point)
                    if run != baseline and pair not in found and pair[::-1] not in found:
                        found[pair] = None
        return list(found)


def run_name(run: str, point: tuple[str, ...]) -> str:
    """How a run at a point of the grid is called.

    Example:
        >>> run_name("adasap", ("taylor", "0.2"))
        'adasap/taylor/0.2'
    """
    return "/".join((run, *point))


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file.

    Raises:
        RecipeError: For a missing file, an unknown key (names the nearest), or a value of the wrong kind.
    """
    return parse_sweep(read_yaml(path, what="a sweep", begins="`name:`, `recipe:` and `runs:`"))


def parse_sweep(tree: Mapping[str, Any]) -> Sweep:
    """A sweep from plain dictionaries; a run may be a path alone, short for `{recipe: PATH}`.

    Raises:
        RecipeError: For an unknown key (names the nearest), or a value of the wrong kind.
    """
    tree, runs = dict(tree), tree.get("runs")
    if isinstance(runs, dict):
        short = {name: {"recipe": run} if isinstance(run, str) else run for name, run in _labels(runs).items()}
        tree = tree | {"runs": {name: {} if run is None else run for name, run in short.items()}}
    if isinstance(tree.get("grid"), dict):
        tree["grid"] = {axis: _labels(points) for axis, points in tree["grid"].items()}
    return parse_options(tree, Sweep)


def _labels(points: Any) -> Any:
    """Labels are words, also where YAML reads a number."""
    if not isinstance(points, dict):
        return points
    labels = {str(label): changes for label, changes in points.items()}
    if len(labels) < len(points):
        raise RecipeError(f"two of the labels {list(points)!r:.100} are the same number; write them alike only once")
    return labels
