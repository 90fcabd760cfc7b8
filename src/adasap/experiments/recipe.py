"""The recipe: one YAML file, made of the options that live in the packages, checked before anything runs."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from adasap.errors import AdasapError, AdasapWarning, RecipeError, suggestion
from adasap.experiments.renamed_keys import renamed
from adasap.io import dump_yaml, parse_yaml, read_text
from adasap.models import ModelSpec
from adasap.models.own_code import imported
from adasap.tasks import TASKS, BaseTask, DataOptions
from adasap.training import Compression
from adasap.training.options import DEFAULT_TRACKERS

Options = TypeVar("Options")

Overrides = Sequence[str] | Mapping[str, Any]
"""Texts such as `a.b=c`, the value in YAML, or dotted key -> value."""

MOST_EXTENDED = 10
"""Length of a chain of `extends`."""
MOST_LEVELS = 20
"""Keys in one dotted key."""


DEFAULT_TASK = "classification"
"""The task of a recipe that names none."""


@dataclass(frozen=True)
class TaskSpec:
    """Which task a recipe is for.

    Attributes:
        kind: A registered name (`adasap.tasks.TASKS`), or `package.module:Class` or `path/to/file.py:Class` of a class
            derived from `BaseTask`.
        options: Of the task's `options_type`; None takes its defaults. As plain dictionaries where the class is the
            user's and was not trusted yet (`trusted`).
    """

    kind: str = DEFAULT_TASK
    options: Any = None

    @property
    def is_own(self) -> bool:
        """Whether the class is the user's."""
        return ":" in self.kind

    def task_class(self, *, trust_code: bool = False) -> type[BaseTask[Any]]:
        """The class.

        Raises:
            RecipeError: If there is none of that name, or it is code that is not trusted.
        """
        if not self.is_own:
            return TASKS.get(self.kind)
        if not trust_code:
            raise RecipeError(
                f"task {self.kind!r:.120} is code that is not of adasap; add --trust-builder to the command "
                "(trust_builder=True in Python) if you know that code"
            )
        found = imported(self.kind, what="task", error=RecipeError)
        if not (isinstance(found, type) and issubclass(found, BaseTask)):
            raise RecipeError(f"task {self.kind!r} is no class derived from adasap.BaseTask; derive it")
        return found


@dataclass(frozen=True, kw_only=True)
class Recipe(Compression):
    """Everything a run is made from.

    Attributes:
        name: Name of the run and of its folder.
        model: The dense model and its pretrained weights.
        data: Training and test data.
        task: Which task, and its options.
    """

    name: str
    model: ModelSpec
    data: DataOptions
    task: TaskSpec = field(default_factory=TaskSpec)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_name(self.name)

    @property
    def own_code(self) -> tuple[str, ...]:
        """The code of the user's that the recipe names, beside the model's builder."""
        kinds = [source.kind for source in self.data.sources if source.is_own]
        named = [self.task.kind] * self.task.is_own + kinds + list(self.pruning.budget.own_code)
        return tuple(dict.fromkeys(named))

    def trusted(self) -> Recipe:
        """The same with the options of a task of the user's read; its code is imported."""
        return parse_recipe(recipe_tree(self), trust_code=True) if self.task.is_own else self

    def task_class(self) -> type[BaseTask[Any]]:
        """The class of the task; the user's own is taken as trusted."""
        return self.task.task_class(trust_code=True)


def _check_name(name: str) -> None:
    plain = name.isprintable() and not any(letter in name for letter in "/\\")
    if not plain or name in ("", ".", "..") or len(name.encode()) > 200:
        raise RecipeError(f"name is {name!r:.200}; it becomes a folder, so give a plain word such as `resnet20_l2`")


def read_recipe(path: Path, overrides: Overrides = ()) -> Recipe:
    """Reads a recipe from YAML.

    Args:
        path: The file. `extends: other.yaml` takes everything from another recipe (a path relative to this one) and
            lays this one's keys over it. Paths of data and weights are relative to the working folder.
        overrides: Such as `training.batch_size=64`; values are YAML. Or dotted key -> value.

    Raises:
        RecipeError: For a missing file, an unknown key (names the nearest), or a value of the wrong kind.
    """
    if not isinstance(path, str | Path):
        raise RecipeError(f"read_recipe reads a YAML file; got a {type(path).__name__}: adasap.run takes keys, too")
    return parse_recipe(overridden(read_tree(path), overrides))


def open_recipe(recipe: Recipe | Mapping[str, Any] | str | Path, overrides: Overrides = ()) -> Recipe:
    """A recipe however it is given: by its path, as its keys, or as it is.

    Raises:
        RecipeError: As `read_recipe` and `parse_recipe`.
    """
    if isinstance(recipe, str | Path):
        return read_recipe(Path(recipe), overrides)
    if isinstance(recipe, Recipe):
        return parse_recipe(overridden(recipe_tree(recipe), overrides)) if overrides else recipe
    if not isinstance(recipe, Mapping):
        raise RecipeError(f"the recipe is a {type(recipe).__name__}; give a path, its keys as a mapping, or a Recipe")
    return parse_recipe(overridden(recipe, overrides))


def read_tree(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a recipe over those of the one it extends; `below` are the files that extend it."""
    tree = read_yaml(path, what="a recipe", begins="`name:`, `model:` and `data:`")
    base, place = tree.pop("extends", None), path.resolve()
    if place in below:
        raise RecipeError(f"{path} extends itself through `extends`; name a recipe that stands by itself")
    if len(below) >= MOST_EXTENDED:
        raise RecipeError(f"{below[0]} extends over {MOST_EXTENDED} recipes, one through the other; give fewer")
    if base is None:
        return tree
    if not isinstance(base, str):
        raise RecipeError(f"{path}: `extends` is {base!r:.80}; give the path of another recipe")
    return _merged(read_tree(path.parent / base, (*below, place)), tree)


def read_yaml(path: Path, *, what: str, begins: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Args:
        what: What the file is, for messages: `a recipe`.
        begins: The keys that such a file begins with.
    Raises:
        RecipeError: If there is no file, or it holds no keys.
    """
    text = read_text(path, what=f"{what} (see the folder recipes/ for examples)", error=RecipeError, most_bytes=10**6)
    tree = parse_yaml(text, where=str(path), error=RecipeError)
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds no keys; {what} begins with {begins}")
    return tree


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, key by key in nested dictionaries; lists and values are replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def parse_recipe(tree: Mapping[str, Any], *, trust_code: bool = False) -> Recipe:
    """A recipe from plain dictionaries, checked key by key and value by value.

    `task:` is a name, or a mapping of the task's options with its name as `kind`; without one it is classification.

    Args:
        tree: The keys.
        trust_code: Let `task: package.module:Class` be imported; else its options are checked by `Recipe.trusted`.
    Raises:
        RecipeError: For an unknown key (names the nearest) or a value of the wrong kind.
    """
    _check_plain(tree, "")
    tree = renamed(tree)
    spec, given = _task_of(tree)
    data = tree.get("data")
    varied = data.get("augmentation") if isinstance(data, Mapping) else None
    if not spec.is_own or trust_code:
        kind = spec.task_class(trust_code=trust_code)
        given = parse_options(given, kind.options_type, place="task.")
        if varied is not None:
            varied = parse_options(varied, kind.augmentation_type, place="data.augmentation.")
        elif isinstance(data, Mapping):
            varied = kind.augmentation_type()
    rest = {key: value for key, value in tree.items() if key != "task"}
    if isinstance(data, Mapping):
        rest["data"] = {key: value for key, value in data.items() if key != "augmentation"}
    recipe = parse_options(rest, Recipe)
    return dataclasses.replace(
        recipe,
        task=dataclasses.replace(spec, options=given),
        data=dataclasses.replace(recipe.data, augmentation=varied),
    )


def _task_of(tree: Mapping[str, Any]) -> tuple[TaskSpec, Mapping[str, Any]]:
    """The task that a recipe names, and its options as they are written."""
    task = tree.get("task", {})
    if isinstance(task, str):
        return TaskSpec(task), {}
    if not isinstance(task, Mapping):
        raise RecipeError(f"task is {task!r:.80}; give a name such as `detection`, or options with the name as `kind`")
    kind = task.get("kind", DEFAULT_TASK)
    if not isinstance(kind, str):
        raise RecipeError(f"task.kind is {kind!r:.80}; give a name such as `detection`")
    return TaskSpec(kind), {key: value for key, value in task.items() if key != "kind"}


def parse_options(tree: Mapping[str, Any], kind: type[Options], *, place: str = "") -> Options:
    """A dataclass of options from plain dictionaries, checked as a recipe is.

    Kinds are not converted: text is no number (nor is `true`), and a number is no text.

    Args:
        tree: The keys.
        kind: The dataclass.
        place: What keys begin with in messages, such as `task.`.
    Raises:
        RecipeError: For an unknown key (names the nearest) or a value of the wrong kind.
    """
    _check_plain(tree, place.rstrip("."))
    if not isinstance(tree, Mapping):
        raise RecipeError(f"{place.rstrip('.') or 'the recipe'} is {tree!r:.80}; give keys, such as those of the docs")
    _check_keys(tree, kind, place)
    try:  # by JSON, whose strict reading takes lists for tuples and whole numbers for others, and nothing else
        options: Options = _adapter(kind).validate_json(json.dumps(tree), strict=True)  # type: ignore[arg-type]
        return options
    except ValidationError as error:
        raise RecipeError(place + _sentence(error, tree)) from error


def _sentence(error: ValidationError, tree: Mapping[str, Any]) -> str:
    """What is wrong first: its dotted key, what was wanted and what was given."""
    first, *others = error.errors(include_url=False)
    place = _place(first["loc"], tree, missing=first["type"] == "missing")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, AdasapError):
        return f"{place}: {cause}" if place else str(cause)
    wanted = [first["msg"], *(e["msg"] for e in others if first["loc"] and _place(e["loc"], tree) == place)]
    given = "" if first["type"] == "missing" else f"; given: {first['input']!r:.100}"
    return f"{place}: {', or: '.join(dict.fromkeys(wanted))}{given}"


def _place(location: Sequence[int | str], tree: Any, *, missing: bool = False) -> str:
    """The dotted key of an error, without the kinds that pydantic tried at a key of several."""
    keys: list[str] = []
    for number, part in enumerate(location):
        inside = isinstance(tree, Mapping) and part in tree
        inside |= isinstance(tree, list) and isinstance(part, int) and part < len(tree)
        if inside:
            tree = tree[part]
        if inside or (missing and number == len(location) - 1):
            keys.append(str(part))
    return ".".join(keys)


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """What reads and writes a dataclass; it takes a while to make."""
    return TypeAdapter(kind)


def recipe_tree(recipe: Recipe) -> dict[str, Any]:
    """The resolved recipe as plain dictionaries, every default filled in; `parse_recipe` reads it back."""
    plain = dataclasses.replace(
        recipe, task=TaskSpec(recipe.task.kind), data=dataclasses.replace(recipe.data, augmentation=None)
    )
    tree: dict[str, Any] = _adapter(Recipe).dump_python(plain, mode="json")
    for source in _sources_in(tree["data"]):
        if not source["options"]:
            del source["options"]  # which earlier versions do not know
    if recipe.training.trackers == DEFAULT_TRACKERS:
        del tree["training"]["trackers"]  # likewise; names of cells of sweeps are digests of this
    tree["data"]["augmentation"] = plain_options(recipe.data.augmentation)
    tree["task"] = _task_tree(recipe.task)
    return tree


def _sources_in(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    sources = [data["train"], data["test"], *(suite["data"] for suite in data["suites"].values())]
    return [source for source in sources if source is not None]


def _task_tree(task: TaskSpec) -> Any:
    """As it is written in a recipe: the name alone where there is nothing else to say."""
    options = plain_options(task.options) or {}
    if task.kind == DEFAULT_TASK:
        return options
    unchanged = not task.is_own and options == plain_options(TASKS.get(task.kind).options_type())
    return task.kind if unchanged or not options else {"kind": task.kind, **options}


def plain_options(options: Any) -> Any:
    """A dataclass of options as plain dictionaries; anything else as it is."""
    known = dataclasses.is_dataclass(options) and not isinstance(options, type)
    kind: Any = type(options)
    return _adapter(kind).dump_python(options, mode="json") if known else options


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML."""
    return dump_yaml(recipe_tree(recipe))


def overridden(tree: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The keys with others written over them.

    Example:
        >>> overridden({"a": {"b": 1}}, {"a.b": 2}), overridden({"a": {"b": 1}}, ["a.c=[3]"])
        ({'a': {'b': 2}}, {'a': {'b': 1, 'c': [3]}})
    """
    changed = dict(tree)
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            set_key(changed, key, value)
        return changed
    for override in overrides:
        set_value(changed, override)
    return changed


def set_value(tree: dict[str, Any], override: str) -> None:
    """Writes what `a.b=c` says into nested dictionaries; the value is YAML."""
    path, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override!r:.100} has no value; write it as a.b=c")
    set_key(tree, path, parse_yaml(value, where=f"--set {path:.80}", error=RecipeError))


_WHOLE = {"training", "training.optimizer", "training.schedule", "training.runtime", "warm_up", "pruning", "fine_tune"}
"""Sections of which a part is often meant; what names a choice (`sharpness`, `budget`, `data.train`) is meant whole."""


def set_key(tree: dict[str, Any], path: str, value: Any) -> None:
    """Writes a value at a dotted key into nested dictionaries; those below the first are replaced by copies."""
    *parents, last = path.split(".")
    if len(parents) > MOST_LEVELS:
        raise RecipeError(f"the key {path:.80}... has {len(parents)} dots; keys are nested {MOST_LEVELS} deep at most")
    for key in parents:
        child = tree.get(key, {})
        if not isinstance(child, dict):
            raise RecipeError(f"{path} cannot be set: {key!r} holds {child!r:.100}, which has no keys of its own")
        tree[key] = child = dict(child)  # an alias of YAML, or another cell of a sweep, may hold the same dictionary
        tree = child
    lost = [f"`{path}.{key}`" for key in _dropped(path, tree.get(last), value)]
    if lost:
        alone = f"`{path}.{next(iter(value), 'KEY')}`"
        warnings.warn(
            f"setting `{path}` replaces that section of the recipe: {', '.join(lost)} of it no longer stand; name a "
            f"key such as {alone} to change it alone",
            AdasapWarning,
            stacklevel=2,
        )
    tree[last] = value


def _dropped(path: str, before: Any, value: Any) -> list[str]:
    """The keys of a section that a new one in its place does not name."""
    both = isinstance(before, Mapping) and isinstance(value, Mapping)
    return [key for key in before if key not in value] if both and path in _WHOLE else []


def _check_plain(value: Any, place: str) -> None:
    """Values are what JSON has: text, finite numbers of a size that something could have, lists, keys that are text."""
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise RecipeError(f"{place} holds half a character ({value!r:.80}); give whole ones")
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        if not abs(value) < 2**63:  # nor is nan
            raise RecipeError(f"{place} is {value!r:.40}; give a finite number below 2^63")
    elif isinstance(value, Mapping):
        for key, child in value.items():
            if not isinstance(key, str):
                raise RecipeError(f"{place or 'the recipe'} has the key {key!r:.80}; keys are text, put it in quotes")
            _check_plain(child, f"{place}.{key}" if place else key)
    elif isinstance(value, list | tuple):
        for number, child in enumerate(value):
            _check_plain(child, f"{place}.{number}")
    else:
        raise RecipeError(f"{place} is of type {type(value).__name__}; give text, numbers, true, false, lists or keys")


def _check_keys(tree: Any, kind: Any, place: str) -> None:
    """Unknown keys are refused with the nearest known one, in every nested dataclass."""
    for option in _dataclasses_in(kind):
        if not isinstance(tree, Mapping):
            return
        hints = _hints(option)
        known = [f.name for f in dataclasses.fields(option)]
        for key, value in tree.items():
            if key not in known:
                raise RecipeError(f"unknown key {place + str(key)!r:.200}; {suggestion(key, known)}")
            _check_keys(value, hints[key], f"{place}{key}.")
    if typing.get_origin(kind) is dict and isinstance(tree, Mapping):
        for key, value in tree.items():
            _check_keys(value, typing.get_args(kind)[1], f"{place}{key}.")


@cache
def _hints(option: type) -> dict[str, Any]:
    return typing.get_type_hints(option)


def _dataclasses_in(kind: Any) -> list[type]:
    """The dataclass itself, or those in a union with None."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return [kind]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(kind) if dataclasses.is_dataclass(part) and isinstance(part, type)]
    return []
