"""Every key of a recipe and of a sweep: its kind, default and meaning, from the options' dataclasses and docstrings."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, Literal

from adasap.corruptions import CORRUPTIONS
from adasap.criteria import CRITERIA
from adasap.data import SOURCES
from adasap.errors import RecipeError, suggestion
from adasap.evaluation import SUITES
from adasap.experiments.recipe import DEFAULT_TASK, Recipe
from adasap.experiments.sweep.file import Sweep
from adasap.pruning import COST_MODELS, PRUNING_SCHEDULES
from adasap.pruning.protocols import PREPARATIONS, SELECTIONS
from adasap.registry import Registry
from adasap.report import Shown, Table
from adasap.sharpness.phase import VARIANTS
from adasap.tasks import TASKS
from adasap.training import LEARNING_RATES

SWEEP = "sweep"
"""What keys of sweeps begin with, where they are named beside those of recipes."""
NAME = "NAME"
"""Stands in a key for a name that the user gives."""
_OWN: dict[str, Registry[Any]] = {
    "data.train.kind": SOURCES,
    "data.test.kind": SOURCES,
    "data.suites.NAME.data.kind": SOURCES,
    "data.suites.NAME.kind": SUITES,
    "data.suites.NAME.corruptions": CORRUPTIONS,
    "pruning.criterion": CRITERIA,
    "pruning.selection": SELECTIONS,
    "pruning.prepare.kind": PREPARATIONS,
    "pruning.schedule": PRUNING_SCHEDULES,
    "pruning.budget.cost": COST_MODELS,
    "training.schedule.name": LEARNING_RATES,
    "task.kind": TASKS,
}
"""Keys whose values are registered names."""


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        name: Dotted; `NAME` where the user gives a name.
        kind: Of its value, in words.
        default: As it is written in YAML; empty where the key must be given, or has keys of its own.
        meaning: What it is, of the docstring of the options.
        names: Registered names that it may have.
        same_as: The key whose keys it has, too.
    """

    name: str
    kind: str
    default: str
    meaning: str
    names: tuple[str, ...] = ()
    same_as: str = ""

    @property
    def line(self) -> str:
        """The first sentence of the meaning."""
        first = re.split(r"(?<=[.;])\s", self.meaning, maxsplit=1)[0].rstrip(".;")
        return f"{first}, as {self.same_as}" if self.same_as else first


@dataclass(frozen=True, repr=False)
class Keys(Shown):
    """Keys that were asked for; they print as tables.

    Attributes:
        keys: In their order.
        whole: Whether the whole meaning of each is shown, and not its first sentence.
    """

    keys: tuple[Key, ...]
    whole: bool = False

    def parts(self) -> Iterator[Table | str]:
        """A table of keys, and what the names of one key are."""
        rows = [[key.name, key.kind, key.default, key.meaning if self.whole else key.line] for key in self.keys]
        yield Table(["key", "value", "default", "what"], rows, left=(0, 1, 2, 3))
        if self.whole:
            yield from (f"{key.name}: {', '.join(key.names)}" for key in self.keys if key.names)


def options(key: str | None = None) -> Keys:
    """Keys of recipes and sweeps with kind, default and meaning, as `adasap options` prints them.

    Args:
        key: One key, with all keys below it; `sweep` and what begins with `sweep.` are of sweeps. All keys by default,
            those that several places share once.
    Raises:
        RecipeError: If there is no such key; names the nearest.

    Example:
        >>> [(one.name, one.default) for one in options("training.batch_size").keys]
        [('training.batch_size', '128')]
    """
    if key is None:
        return Keys((*recipe_keys(), *sweep_keys()))
    every = (*recipe_keys(folded=False), *sweep_keys())
    found = tuple(one for one in every if one.name == key or one.name.startswith(f"{key}."))
    if not found:
        raise RecipeError(f"there is no key {key!r:.80}; {suggestion(key, [one.name for one in every])}")
    return Keys(found, whole=True)


@cache
def recipe_keys(*, folded: bool = True) -> tuple[Key, ...]:
    """All keys of a recipe; those of options that occur in several places once, if folded."""
    extends = Key("extends", "text", "null", "Path of another recipe, relative to this one, whose keys these overlay.")
    return (extends, *_walk(Recipe, "", {} if folded else None))


@cache
def sweep_keys() -> tuple[Key, ...]:
    """All keys of a sweep file."""
    return (Key(SWEEP, "", "", "A file for `adasap sweep`."), *_walk(Sweep, f"{SWEEP}.", None))


def _walk(option: type, place: str, seen: dict[type, str] | None) -> Iterator[Key]:
    """The keys of a dataclass of options and of those within."""
    meanings = meanings_of(option)
    for field, hint in fields_of(option):
        name, meaning = f"{place}{field.name}", meanings.get(field.name, "")
        yield from _key(field, hint, name, meaning, seen)


def _key(
    field: dataclasses.Field[Any], hint: Any, name: str, meaning: str, seen: dict[type, str] | None
) -> Iterator[Key]:
    inner, below = parts_of(hint, name)
    known = None if seen is None or inner is None else next((at for kind, at in seen.items() if kind is inner), None)
    own = tuple(sorted(_OWN.get(name, ())))
    yield Key(name, in_words(hint), _default(field), meaning, own, known or "")
    if known:
        return
    if inner is not None:
        if seen is not None:
            seen[inner] = name
        yield from _walk(inner, f"{below}.", seen)
    yield from _several(name)
    if name in ("task", "pruning.prepare"):
        at, default = f"{name}.kind", DEFAULT_TASK if name == "task" else "none"
        yield Key(at, "text", default, "A registered name, or `package.module:Class`.", tuple(sorted(_OWN[at])))


def _several(name: str) -> list[Key]:
    """The keys of all options that may stand at a key; of those that share a name the meanings one after the other."""
    found: dict[str, Key] = {}
    for kind, title in options_at(name):
        for key in _walk(kind, f"{name}.", None):
            said = f"{title}: {key.meaning}"
            before = found.get(key.name)
            found[key.name] = dataclasses.replace(key, meaning=f"{before.meaning} {said}" if before else said)
    return list(found.values())


def fields_of(option: type) -> list[tuple[dataclasses.Field[Any], Any]]:
    """The keys of a dataclass of options with the kinds of their values; the task's options are in `options_at`."""
    hints = typing.get_type_hints(option)
    fields = [field for field in dataclasses.fields(option) if field.init]
    return [(field, Any if (option, field.name) == (Recipe, "task") else hints[field.name]) for field in fields]


def options_at(name: str) -> list[tuple[type, str]]:
    """Dataclasses whose keys stand at a key, with what they are for: those of tasks, variants, selections."""
    if name == "task":
        return [(TASKS.get(task).options_type, task) for task in sorted(TASKS)]
    if name == "data.augmentation":
        return [(TASKS.get(task).augmentation_type, task) for task in sorted(TASKS)]
    of_registry: dict[str, Registry[Any]] = {
        "pruning.selection_options": SELECTIONS,
        "pruning.prepare": PREPARATIONS,
    }
    return [(of_registry[name].get(one), one) for one in sorted(of_registry.get(name, ()))]


def variants() -> dict[str, type]:
    """Name -> options of what varies a step."""
    return {name: VARIANTS.get(name) for name in sorted(VARIANTS)}


def parts_of(hint: Any, name: str = "") -> tuple[type | None, str]:
    """The dataclass that a kind of value holds, alone or in a union, a list or under names, and its place."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return hint, name
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return next((found for part in inside if (found := parts_of(part, name))[0] is not None), (None, name))
    if origin is dict:
        return parts_of(inside[1], f"{name}.{NAME}")
    if origin in (tuple, list) and inside:
        return parts_of(inside[0], name)
    return None, name


@cache
def meanings_of(option: type) -> dict[str, str]:
    """Key -> what its docstring says under `Attributes`, also that of the classes it is derived from."""
    found: dict[str, str] = {}
    for kind in reversed(inspect.getmro(option)):
        text = inspect.cleandoc(kind.__dict__.get("__doc__") or "")
        _, _, listed = text.partition("Attributes:\n")
        name = ""
        for line in listed.splitlines():
            entry = re.match(r"    (\w+(?:, \w+)*): (.*)", line)
            if line and not line.startswith("    "):
                break
            if entry:
                name = entry[1]
                found |= dict.fromkeys(name.split(", "), entry[2])
            elif name and line.strip():
                found |= {key: f"{found[key]} {line.strip()}" for key in name.split(", ")}
    return found


_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    type(None): "null",
    Any: "keys",
}


def in_words(hint: Any) -> str:
    """The kind of a value, for people.

    Example:
        >>> in_words(float | None), in_words(Literal["a", "b"]), in_words(tuple[int, ...])
        ('number or null', 'a, b', 'list: whole number')
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if dataclasses.is_dataclass(hint):
        return "keys"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(in_words, inside)))
    if origin is Literal:
        return ", ".join(map(str, inside))
    if origin is typing.Annotated:
        return in_words(inside[0])
    if origin in (tuple, list):
        return f"list: {in_words(inside[0])}" if inside[-1] is ... or origin is list else f"{len(inside)} of a list"
    return "keys"


def _default(field: dataclasses.Field[Any]) -> str:
    """As it is written; empty without one, and for options with keys of their own."""
    value = field.default
    if value is MISSING:
        if field.default_factory is MISSING:
            return ""
        value = field.default_factory()
    return "" if dataclasses.is_dataclass(value) else json.dumps(value, ensure_ascii=False).strip('"')


def undocumented() -> list[str]:
    """Keys that no docstring says anything of."""
    every: Iterable[Key] = (*recipe_keys(folded=False), *sweep_keys(), *_variant_keys())
    return [key.name for key in every if not key.meaning or key.meaning.endswith(": ")]


_PAGE = """# All keys of recipes and sweeps

Made from the docstrings of the options; `adasap options` prints the same, `adasap options pruning.budget` one part of
it. `NAME` stands for a name that you give. Editors check and complete keys by the JSON schemas `recipe.json` and
`sweep.json` in `adasap/experiments/schemas`, which the first line of a recipe names
([how](first-recipe.md#in-an-editor)).
"""


def page() -> str:
    """docs/options.md."""
    recipe: dict[str, list[Key]] = {}
    for key in recipe_keys():
        part = key.name.partition(".")[0]
        recipe.setdefault(part if part in ("data", "model", "task", "training", "pruning") else "", []).append(key)
    titles = {"": "A recipe, and its three steps", "model": "Model", "data": "Data", "task": "Task"}
    titles |= {"training": "Training", "pruning": "Pruning"}
    parts = [_PAGE]
    for part, title in titles.items():
        parts.append(f"## {title}\n\n{_table(recipe[part])}\n")
    parts.append(f"## Variants of the step\n\n{_table(_variant_keys())}\n")
    sweep = [dataclasses.replace(key, name=key.name.removeprefix("sweep.")) for key in sweep_keys()[1:]]
    parts.append(f"## A sweep\n\n{_table(sweep)}\n")
    return "\n".join(parts)


def _variant_keys() -> list[Key]:
    found: list[Key] = []
    for name, kind in variants().items():
        about = (inspect.getdoc(kind) or "").partition("\n")[0]
        found += [Key(f"variants.{name}", "keys", "", about), *_walk(kind, f"variants.{name}.", None)]
    return found


def _table(keys: Iterable[Key]) -> Table:
    rows = []
    for key in keys:
        names = f" Known: {', '.join(f'`{name}`' for name in key.names)}." if key.names else ""
        text = f"{key.meaning.rstrip('.')}; as `{key.same_as}`." if key.same_as else f"{key.meaning}{names}"
        rows.append([f"`{key.name}`", key.kind, f"`{key.default}`" if key.default else "", text])
    return Table(["key", "value", "default", "what"], rows, left=(0, 1, 2, 3))
