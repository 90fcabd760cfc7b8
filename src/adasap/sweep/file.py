"""The sweep file: which recipes, which grid, which seeds, and which comparison was named before it was run."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from adasap.config import parse_options, read_yaml
from adasap.errors import RecipeError, suggestion

Overrides = dict[str, Any]
"""Dotted key of a recipe -> value, such as `pruning.criterion: taylor`."""


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
        if not self.cpus > 0 or not self.gpus >= 0 or self.retries < 0:
            raise RecipeError(
                f"cluster: cpus is {self.cpus}, gpus {self.gpus}, retries {self.retries}; "
                "give cpus above 0, the others 0 or more"
            )


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
        words = [self.name, *self.runs, *(label for axis in self.grid.values() for label in axis)]
        for word in words:
            if not word or word.startswith(".") or any(letter in word for letter in "/\\\0|"):
                raise RecipeError(f"{word!r} names a sweep, run or label; give a plain word such as `plain_double`")
        if not self.runs or not all(self.grid.values()):
            raise RecipeError("`runs` or an axis of `grid` is empty; name at least one run, and a label for each axis")
        if len(self.all_seeds) == 0 or len(set(self.all_seeds)) < len(self.all_seeds):
            raise RecipeError(f"seeds is {self.seeds}; give a number of seeds, 1 or more, or a list of different ones")
        for baseline in self.baselines:
            if baseline not in self.runs:
                raise RecipeError(f"baselines: no run is named {baseline!r}; {suggestion(baseline, self.runs)}")
        if self.primary is not None:
            for run in (self.primary.run, self.primary.baseline):
                if run not in self.run_names():
                    raise RecipeError(f"primary: no run is named {run!r}; {suggestion(run, self.run_names())}")
            if self.primary.run == self.primary.baseline:
                raise RecipeError(f"primary compares {self.primary.run!r} with itself; name two runs")

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
        found = [] if self.primary is None else [(self.primary.run, self.primary.baseline)]
        for point in self.points():
            for baseline in self.baselines:
                for run in self.runs:
                    pair = run_name(run, point), run_name(baseline, point)
                    if run != baseline and pair not in found and pair[::-1] not in found:
                        found.append(pair)
        return found


def run_name(run: str, point: tuple[str, ...]) -> str:
    """How a run at a point of the grid is called.

    Example:
        >>> run_name("adasap", ("taylor", "0.2"))
        'adasap/taylor/0.2'
    """
    return "/".join((run, *point))


def read_sweep(path: Path) -> Sweep:
    """Reads a sweep file; a run may be a path alone, short for `{recipe: PATH}`.

    Raises:
        RecipeError: For a missing file, an unknown key (names the nearest), or a value of the wrong kind.
    """
    tree = read_yaml(path, what="sweep", begins="`name:`, `recipe:` and `runs:`")
    runs = tree.get("runs")
    if isinstance(runs, dict):
        short = {name: {"recipe": run} if isinstance(run, str) else run or {} for name, run in runs.items()}
        tree = tree | {"runs": {str(name): run for name, run in short.items()}}
    if isinstance(tree.get("grid"), dict):
        tree["grid"] = {axis: _labels(points) for axis, points in tree["grid"].items()}
    return parse_options(tree, Sweep)


def _labels(points: Any) -> Any:
    """Labels are words, also where YAML reads a number."""
    return {str(label): changes for label, changes in points.items()} if isinstance(points, dict) else points
