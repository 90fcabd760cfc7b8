"""Recipes: what is refused, and with which words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from adasap.config import dump_recipe, parse_recipe, read_recipe
from adasap.errors import RecipeError

Tree = dict[str, Any]
TinyRecipe = Callable[..., Tree]
RECIPES = sorted(p for p in (Path(__file__).parents[1] / "recipes").rglob("*.yaml") if p.parent.name != "sweeps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.batch_size=[", "the value is no YAML"),
        ("training.optimizer.learning_rate=.nan", "training.optimizer.learning_rate is nan; give a finite number"),
        ("warm_up.sharpness.rho_max=.inf", "warm_up.sharpness.rho_max is inf"),
        ("training.clip_norm=-1", "clip_norm is -1"),
        ("pruning.recalibration_batches=-1", "recalibration_batches is -1"),
        ("name=../../elsewhere", "it becomes a folder"),
    ],
)
def test_values_that_cannot_work_are_refused(
    tiny_recipe: TinyRecipe, tmp_path: Path, change: str, message: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe()))
    with pytest.raises(RecipeError) as error:
        read_recipe(path, [change])
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"extends: r.yaml\n", "extends itself"), (b"extends: 5\n", "give the path"), (b"\xff\xfe\x80", "is no YAML")],
)
def test_files_that_are_no_recipes_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "r.yaml").write_bytes(content)
    with pytest.raises(RecipeError, match=message):
        read_recipe(tmp_path / "r.yaml")


def test_step_three_is_uniform_unless_it_says_otherwise(tiny_recipe: TinyRecipe) -> None:
    assert parse_recipe(tiny_recipe(fine_tune={"epochs": 1, "sharpness": {}})).fine_tune.sharpness.kind == "uniform"
    tree = tiny_recipe()
    tree["fine_tune"] = {"epochs": 2}
    assert parse_recipe(tree).fine_tune.sharpness.kind == "uniform"
    assert parse_recipe(tree).warm_up.sharpness.kind == "adaptive"


def test_a_resolved_recipe_reads_back_as_itself(tiny_recipe: TinyRecipe) -> None:
    recipe = parse_recipe(tiny_recipe())
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("warmup", "unknown key 'warmup'; did you mean 'warm_up'"),
        ("training.batchsize", "unknown key 'training.batchsize'; did you mean 'batch_size'"),
        ("warm_up.sharpness.rho_maximum", "did you mean 'rho_max'"),
        ("data.suites.corrupted.severity", "did you mean 'severities'"),
        ("pruning.budget.flops", "unknown key 'pruning.budget.flops'; there are: parameters, macs"),
    ],
)
def test_an_unknown_key_names_its_nearest_neighbour(
    tiny_recipe: TinyRecipe, tmp_path: Path, key: str, nearest: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe()))
    with pytest.raises(RecipeError) as error:
        read_recipe(path, [f"{key}=1"])
    assert nearest in str(error.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.batch_size=many", "training.batch_size"),
        ("training.batch_size=0", "must be at least 1"),
        ("warm_up.sharpness.rho_min=3", "wanted 0 <= rho_min <= rho_max"),
        ("warm_up.sharpness.kind=sam", "warm_up.sharpness.kind"),
        ("warm_up.sharpness.radius_score=taylor", "needs gradients; use l2"),
        ("pruning.budget.parameters=0.5", "give exactly one of parameters"),
        ("training.optimizer.learning_rate=-1", "give a number above 0"),
        ("pruning.min_kept=2", "give a fraction from 0 to 1"),
        ("task.label_smoothing=2", "give a fraction from 0 to 1"),
        ("training.average_decay=1.5", "between 0 and 1"),
        ("name.first=1", "which has no keys"),
        ("seed", "write it as a.b=c"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_in_words(
    tiny_recipe: TinyRecipe, tmp_path: Path, override: str, words: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe()))
    with pytest.raises(RecipeError) as error:
        read_recipe(path, [override])
    assert words in str(error.value)


def test_overrides_and_extends_lay_keys_over_keys(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(tiny_recipe()))
    (tmp_path / "child.yaml").write_text("extends: base.yaml\nname: child\npruning: {criterion: l1}\n")
    recipe = read_recipe(tmp_path / "child.yaml", ["fine_tune.sharpness.rho=0.25", "seed=4"])
    assert (recipe.name, recipe.seed, recipe.pruning.criterion) == ("child", 4, "l1")
    assert (recipe.pruning.events, recipe.fine_tune.sharpness.rho) == (3, 0.25)
    assert recipe.fine_tune.sharpness.kind == "uniform"


@pytest.mark.parametrize(
    ("text", "words"), [("a: [", "is no YAML"), ("- 1", "holds no keys"), (None, "there is no recipe at")]
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "recipe.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        read_recipe(path)


@pytest.mark.parametrize("path", [path for path in RECIPES if "\nname: " in path.read_text()], ids=lambda p: p.stem)
def test_every_recipe_of_the_repository_is_valid(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.name == path.stem
