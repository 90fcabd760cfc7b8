"""Recipes: what is refused, and with which words."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adasap.errors import AdasapWarning, RecipeError
from adasap.experiments.recipe import Recipe, dump_recipe, overridden, parse_recipe, read_recipe, recipe_tree, set_key
from adasap.io import parse_yaml

Tree = dict[str, Any]
TinyRecipe = Callable[..., Tree]
RECIPES = sorted(p for p in (Path(__file__).parents[1] / "recipes").rglob("*.yaml") if p.parent.name != "sweeps")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.batch_size=[", "--set training.batch_size is not valid YAML"),
        (
            "training.optimizer.learning_rate=.nan",
            "training.optimizer.learning_rate is not valid YAML: line 1: the number .nan",
        ),
        ("warm_up.sharpness.rho_max=.inf", "the number .inf is not finite"),
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
    [
        (b"extends: r.yaml\n", "extends itself"),
        (b"extends: 5\n", "give the path"),
        (b"\xff\xfe\x80", "is not UTF-8 text"),
    ],
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
    ("text", "words"),
    [("a: [", "is not valid YAML"), ("- 1", "holds no keys"), (None, "does not exist; give the path of a recipe")],
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


def leaves(tree: Tree, before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{before}{key}.")
        else:
            yield before + key, value


NOT_NUMBERS = ("5", "inf", "nan", "1e400", True, math.nan, math.inf, -math.inf, 10**300, [], {})


def test_no_number_is_text_or_infinite_or_a_truth_value_and_no_truth_value_a_number(tiny_recipe: TinyRecipe) -> None:
    tree = tiny_recipe()
    found = {}
    for key, value in leaves(recipe_tree(parse_recipe(tree))):
        if isinstance(value, int | float) and key.partition(".")[0] != "name":
            wrong = (0, 1, "yes", "true", 1.0) if isinstance(value, bool) else (*NOT_NUMBERS, -(10**300))
            found[key] = [other for other in wrong if accepted(tree, key, other)]
    assert {key: others for key, others in found.items() if others} == {}
    assert len(found) > 60


def accepted(tree: Tree, key: str, value: Any) -> bool:
    changed = dict(tree)
    set_key(changed, key, value)
    try:
        parse_recipe(changed)
    except RecipeError:
        return False
    return True


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.clip_norm", "inf"),
        ("training.average_decay", True),
        ("data.train.count", True),
        ("data.train.resize", "1e400"),
        ("data.train.center_crop", 10**6),
        ("data.augmentation.random_resized_crop", -3),
        ("data.augmentation.random_crop_padding", 10**6),
        ("data.augmentation.extra", [{"name": "Pad", "options": {"padding": [10**6, 1]}}]),
        ("data.suites.corrupted.severities", [True]),
        ("model.input_size", [3, 10**6, 10**6]),
        ("model.input_size", [3, 8192, 8192]),
        ("model.input_size", []),
        ("model.mean", ["0.5", 0.5, 0.5]),
        ("pruning.budget", {"macs": "0.5"}),
        ("pruning.budget", {"latency_ms": -1.0, "latency_table": "t.json"}),
        ("pruning.events", 10**9),
        ("pruning.criterion_options", {"seed": math.inf}),
        ("training.batch_size", 10**9),
        ("training.num_workers", 100_000),
        ("training.schedule.milestones", [0.5, -1]),
        ("training.schedule.gamma", -0.1),
        ("warm_up.epochs", 10**9),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", 10**399),
        ("name", "a\nb"),
        ("name", "x" * 300),
        ("name", "\ud800"),
    ],
)
def test_sizes_beyond_reason_are_refused_where_they_stand(tiny_recipe: TinyRecipe, key: str, value: Any) -> None:
    assert not accepted(tiny_recipe(), key, value)


def test_numbers_with_an_exponent_are_numbers(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe()) + "seed: 3\npruning_sharpness: {rho_min: 0, rho_max: 1e-3}\n")
    recipe = read_recipe(path, ["training.optimizer.learning_rate=5e-4", "name=1e5x"])
    assert isinstance(recipe, Recipe)
    assert recipe.training.optimizer.learning_rate == 0.0005
    assert recipe.pruning_sharpness is not None
    assert recipe.pruning_sharpness.rho_max == 0.001
    named = dataclasses.replace(recipe, name="1e5")
    assert parse_recipe(parse_yaml(dump_recipe(named), where="", error=RecipeError)) == named


def test_a_change_reaches_no_other_place_by_an_alias(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    tree = tiny_recipe(warm_up={"epochs": 1, "sharpness": {}})
    tree["pruning_sharpness"] = tree["warm_up"]["sharpness"] = {"rho": 0.1}
    path.write_text(yaml.safe_dump(tree))
    assert "*id" in path.read_text()
    recipe = read_recipe(path, ["pruning_sharpness.rho=0.9"])
    assert [sharpness.rho for sharpness in recipe.sharpnesses[:2]] == [0.1, 0.9]


def test_chains_of_recipes_end(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    with pytest.raises(RecipeError, match="extends over 10 recipes"):
        read_recipe(tmp_path / "0.yaml")
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(RecipeError, match="extends itself"):
        read_recipe(tmp_path / "a.yaml")


@pytest.mark.parametrize("change", ["." * 5000 + "=1", "name=" + "[" * 5000, "name=!!set {a}", "seed=" + "9" * 5000])
def test_overrides_that_are_no_values_are_refused(tiny_recipe: TinyRecipe, tmp_path: Path, change: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe()))
    with pytest.raises(RecipeError, match=r"20 deep|not valid YAML"):
        read_recipe(path, [change])


def test_setting_part_of_a_section_says_what_no_longer_stands() -> None:
    """`pruning: {epochs: 2}` drops the budget of the recipe; `pruning.epochs` does not."""
    recipe = {
        "pruning": {"epochs": 1, "budget": {"macs": 0.5}},
        "warm_up": {"sharpness": {"kind": "adaptive", "rho_max": 1.0}},
    }
    words = r"`pruning.budget` of it no longer stand; name a key such as `pruning.epochs`"
    with pytest.warns(AdasapWarning, match=words):
        assert overridden(recipe, {"pruning": {"epochs": 2}})["pruning"] == {"epochs": 2}
    with warnings.catch_warnings(action="error"):
        changed = overridden(
            recipe, {"pruning.epochs": 2, "warm_up.sharpness": {"kind": "plain"}, "pruning.budget": {"parameters": 0.4}}
        )
        overridden(recipe, {"warm_up": {"epochs": 2, "sharpness": {"kind": "plain"}}})
    assert changed["pruning"] == {"epochs": 2, "budget": {"parameters": 0.4}}
