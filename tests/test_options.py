"""Keys of recipes and sweeps as they are listed, and the schemas by which editors check them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from adasap.cli import app
from adasap.errors import RecipeError
from adasap.experiments.keys import options, page, undocumented
from adasap.experiments.recipe import parse_recipe, recipe_tree
from adasap.experiments.schema_files import FOLDER, schema_text, schemas
from adasap.io import parse_yaml

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))
AGAIN = "python -m adasap.experiments.schema_files docs"


@pytest.fixture(scope="module")
def validators() -> dict[str, Draft202012Validator]:
    found = {path.stem: Draft202012Validator(json.loads(path.read_text())) for path in FOLDER.glob("*.json")}
    for validator in found.values():
        validator.check_schema(validator.schema)
    return found


def test_schemas_and_page_are_those_of_the_options() -> None:
    made = {name: schema_text(schema) for name, schema in schemas().items()}
    assert made == {path.name: path.read_text() for path in FOLDER.glob("*.json")}, f"write them again: {AGAIN}"
    assert page() == (ROOT / "docs" / "options.md").read_text(), f"write it again: {AGAIN}"


def test_every_key_says_what_it_is() -> None:
    assert undocumented() == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_name_their_schema(
    path: Path, validators: dict[str, Draft202012Validator]
) -> None:
    text = path.read_text()
    kind = "sweep" if path.parent.name == "sweeps" else "recipe"
    named = (path.parent / text.partition("\n")[0].removeprefix("# yaml-language-server: $schema=")).resolve()
    assert named == FOLDER / f"{kind}.json"
    tree = json.loads(json.dumps(parse_yaml(text, where=str(path), error=RecipeError)))  # labels are text
    assert [error.message for error in validators[kind].iter_errors(tree)] == []


def test_a_recipe_with_every_default_is_valid(
    validators: dict[str, Draft202012Validator], tiny_recipe: Callable[..., dict[str, Any]]
) -> None:
    for task in ("classification", "detection", "segmentation"):
        tree = recipe_tree(parse_recipe(tiny_recipe(task=task)))
        assert [error.message for error in validators["recipe"].iter_errors(tree)] == []


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("recipe", {"prunning": {}}),
        ("recipe", {"pruning": {"bugdet": {"macs": 0.5}}}),
        ("recipe", {"pruning": {"budget": {"macs": "half"}}}),
        ("recipe", {"warm_up": {"sharpness": {"kind": "adaptiv"}}}),
        ("recipe", {"warm_up": {"sharpness": {"variants": {"gsam": {"alfa": 1}}}}}),
        ("recipe", {"data": {"suites": {"fog": {"kinds": "corrupted"}}}}),
        ("recipe", {"data": {"augmentation": {"horizontal": True}}}),
        ("recipe", {"task": {"kind": "detection", "cocoa": True}}),
        ("recipe", {"training": {"batch_size": 1.5}}),
        ("sweep", {"run": {}}),
        ("sweep", {"set": {"training.batchsize": 1}}),
        ("sweep", {"runs": {"a": {"set": {"data.suite.fog.kind": "x"}}}}),
        ("sweep", {"grid": {"rate": {"low": {"learning_rate": 1}}}}),
    ],
)
def test_wrong_keys_and_values_are_not(
    validators: dict[str, Draft202012Validator], kind: str, keys: dict[str, Any]
) -> None:
    assert list(validators[kind].iter_errors(keys)) != []


def test_the_verb_lists_keys() -> None:
    def call(*arguments: str) -> str:
        return CliRunner().invoke(app, ["options", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False).output

    assert "taylor" in call("pruning.criterion")
    assert "retries" in call("sweep.cluster")
    assert [key.name for key in options("fine_tune.sharpness.perturbation.loss_budget.sigma").keys]
    with pytest.raises(RecipeError, match=r"did you mean 'training\.batch_size'"):
        call("training.batchsize")


def test_a_shared_part_is_listed_once_and_found_everywhere() -> None:
    names = [key.name for key in options().keys]
    assert "warm_up.sharpness.rho_max" in names
    assert "pruning_sharpness.rho_max" not in names
    assert options("pruning_sharpness.rho_max").keys[0].default == "2.0"
    assert names == list(dict.fromkeys(names))
