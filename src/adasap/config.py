"""The recipe: one YAML file, made of the options that live in the rooms, checked before anything runs."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from adasap.data import Augmentation, DataSource, DetectionAugmentation
from adasap.errors import AdasapError, RecipeError, suggestion
from adasap.models import ModelSpec
from adasap.robustness import SuiteSource
from adasap.tasks import ClassificationOptions
from adasap.training import Compression

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What the run sees.

    Attributes:
        train: Labelled images to train on.
        test: The clean images that are reported on.
        suites: Further suites by name: shifted sets and corruptions.
        augmentation: Applied to training images only.
    """

    train: DataSource
    test: DataSource
    suites: dict[str, SuiteSource] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True, kw_only=True)
class DetectionDataOptions:
    """What a detector's run sees.

    Attributes:
        train: Images with boxes to train on.
        test: The clean images that are reported on, with the same classes.
        suites: Further suites by name: corruptions.
        augmentation: Applied to training images only; the detector itself brings all images to its size.
    """

    train: DataSource
    test: DataSource
    suites: dict[str, SuiteSource] = field(default_factory=dict)
    augmentation: DetectionAugmentation = field(default_factory=DetectionAugmentation)


@dataclass(frozen=True, kw_only=True)
class Recipe(Compression):
    """Everything a classifier's run is made from.

    Attributes:
        name: Name of the run and of its folder.
        model: The dense model and its pretrained weights.
        data: Training and test data.
        task: Loss options.
    """

    name: str
    model: ModelSpec
    data: DataOptions
    task: ClassificationOptions = field(default_factory=ClassificationOptions)

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(frozen=True, kw_only=True)
class DetectionRecipe(Compression):
    """Everything a detector's run is made from; it says `task: detection`.

    Attributes:
        name: Name of the run and of its folder.
        model: The dense detector and its weights, or those of its backbone.
        data: Training and test data with boxes.
        task: Detectors bring their own losses, without options.
    """

    name: str
    model: ModelSpec
    data: DetectionDataOptions
    task: Literal["detection"]

    def __post_init__(self) -> None:
        _check_name(self.name)


AnyRecipe = Recipe | DetectionRecipe


def _check_name(name: str) -> None:
    if not name or name in (".", "..") or any(letter in name for letter in "/\\\0"):
        raise RecipeError(f"name is {name!r}; it becomes a folder, so give a plain word such as `resnet20_l2`")


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> AnyRecipe:
    """Reads a recipe from YAML.

    Args:
        path: The file. `extends: other.yaml` takes everything from another recipe (a path relative to this one) and
            lays this one's keys over it. Paths of data and weights are relative to the working folder.
        overrides: Such as `training.batch_size=64`; values are YAML.

    Raises:
        RecipeError: For a missing file, an unknown key (names the nearest), or a value of the wrong kind.
    """
    tree = _read_tree(path)
    for override in overrides:
        set_value(tree, override)
    return parse_recipe(tree)


def read_classifier_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """`read_recipe`, where a detector's recipe is of no use.

    Raises:
        RecipeError: As there, and for a detector's recipe.
    """
    recipe = read_recipe(path, overrides)
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"{path} is a detector's recipe (task: detection); give one of a classifier")
    return recipe


def _read_tree(path: Path, below: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The keys of a file over those of the file it extends."""
    if path.resolve() in below:
        raise RecipeError(f"{path} extends itself through `extends`; name a recipe that stands by itself")
    tree = read_yaml(path, what="recipe", begins="`name:`, `model:` and `data:`")
    base = tree.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise RecipeError(f"{path}: `extends` is {base!r}; give the path of another recipe")
    return _merged(_read_tree(path.parent / base, (*below, path.resolve())), tree)


def read_yaml(path: Path, *, what: str, begins: str) -> dict[str, Any]:
    """The keys of a YAML file.

    Args:
        what: What the file is, for messages.
        begins: The keys that such a file begins with.
    Raises:
        RecipeError: If there is no file, or it holds no keys.
    """
    if not path.is_file():
        raise RecipeError(f"there is no {what} at {path}; see the folder recipes/ for examples")
    try:
        tree = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is no YAML: {error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds no keys; a {what} begins with {begins}")
    return tree


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, key by key in nested dictionaries; lists and values are replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged


def parse_recipe(tree: Mapping[str, Any]) -> AnyRecipe:
    """A recipe from plain dictionaries, checked key by key and value by value; `task: detection` is a detector's."""
    task = tree.get("task")
    if isinstance(task, str) and task != "detection":
        raise RecipeError(f"task is {task!r}; write `task: detection`, or leave it out for classification")
    return parse_options(tree, DetectionRecipe) if task == "detection" else parse_options(tree, Recipe)


def parse_options(tree: Mapping[str, Any], kind: type[Options]) -> Options:
    """A dataclass of options from plain dictionaries, checked as a recipe is.

    Raises:
        RecipeError: For an unknown key (names the nearest) or a value of the wrong kind.
    """
    _check_keys(tree, kind, "")
    _check_finite(tree, "")
    try:
        options: Options = _adapter(kind).validate_python(tree)  # type: ignore[arg-type]  # it has a hash
        return options
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        cause = first.get("ctx", {}).get("error")
        if isinstance(cause, AdasapError):
            raise RecipeError(f"{place}: {cause}") from error
        given = "" if first["type"] == "missing" else f"; given: {first['input']!r}"
        raise RecipeError(f"{place}: {first['msg']}{given}") from error


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """What reads and writes a dataclass; it takes a while to make."""
    return TypeAdapter(kind)


def recipe_tree(recipe: AnyRecipe) -> dict[str, Any]:
    """The resolved recipe as plain dictionaries, every default filled in; `parse_recipe` reads it back."""
    kind: Any = type(recipe)
    tree: dict[str, Any] = _adapter(kind).dump_python(recipe, mode="json")
    return tree


def dump_recipe(recipe: AnyRecipe) -> str:
    """The resolved recipe as YAML."""
    return yaml.safe_dump(recipe_tree(recipe), sort_keys=False, allow_unicode=True)


def set_value(tree: dict[str, Any], override: str) -> None:
    """Writes what `a.b=c` says into nested dictionaries; the value is YAML."""
    path, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override!r} has no value; write it as a.b=c")
    *parents, last = path.split(".")
    for key in parents:
        child = tree.setdefault(key, {})
        if not isinstance(child, dict):
            raise RecipeError(f"--set {override!r}: {key!r} holds {child!r}, which has no keys of its own")
        tree = child
    try:
        tree[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override!r}: the value is no YAML ({error}); quote it") from error


def _check_finite(value: Any, place: str) -> None:
    """Numbers of a recipe are finite; `.nan` and `.inf` are YAML, too."""
    if isinstance(value, float) and not math.isfinite(value):
        raise RecipeError(f"{place} is {value}; give a finite number")
    children = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        _check_finite(child, f"{place}.{key}" if place else str(key))


def _check_keys(tree: Any, kind: Any, place: str) -> None:
    """Unknown keys are refused with the nearest known one, in every nested dataclass."""
    for option in _dataclasses_in(kind):
        if not isinstance(tree, Mapping):
            return
        hints = typing.get_type_hints(option)
        known = [f.name for f in dataclasses.fields(option)]
        for key, value in tree.items():
            if key not in known:
                raise RecipeError(f"unknown key {place + str(key)!r}; {suggestion(key, known)}")
            _check_keys(value, hints[key], f"{place}{key}.")
    if typing.get_origin(kind) is dict and isinstance(tree, Mapping):
        for key, value in tree.items():
            _check_keys(value, typing.get_args(kind)[1], f"{place}{key}.")


def _dataclasses_in(kind: Any) -> list[type]:
    """The dataclass itself, or those in a union with None."""
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return [kind]
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return [part for part in typing.get_args(kind) if dataclasses.is_dataclass(part) and isinstance(part, type)]
    return []
