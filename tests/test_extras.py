"""The core knows its extras by name alone; each can be imported first; old keys of recipes still name them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import adasap
from adasap.errors import AdasapWarning, ArgumentError, RecipeError
from adasap.experiments.recipe import parse_recipe, recipe_tree
from adasap.pruning import PREPARATIONS, SELECTIONS, Preparation, PruningOptions, PruningPlan, SelectionMethod
from adasap.registry import Registry
from adasap.sharpness import VARIANTS, Variant

SOURCE = Path(adasap.__file__).parent
EXTRAS = sorted(path.stem for path in (SOURCE / "extras").glob("*.py") if path.stem != "__init__")


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


@pytest.mark.parametrize("package", ["training", "pruning", "sharpness", "criteria", "groups"])
def test_the_core_imports_nothing_from_extras(package: str) -> None:
    files = sorted((SOURCE / package).rglob("*.py"))
    assert files
    assert [path.name for path in files if any(name.startswith("adasap.extras") for name in imported(path))] == []


FIRST = """
import importlib, os, sys, traceback, torch
for module in sys.argv[1:]:
    if (child := os.fork()) == 0:
        try:
            importlib.import_module(module)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        sys.exit(f"{module} cannot be imported first")
"""


@pytest.mark.slow
def test_each_extra_can_be_imported_first() -> None:
    """In a process that has imported torch alone."""
    modules = [f"adasap.extras.{module}" for module in EXTRAS]
    done = subprocess.run([sys.executable, "-c", FIRST, *modules], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_registered_keeps_the_protocols() -> None:
    assert all(Variant in VARIANTS.get(name).__mro__ for name in VARIANTS)
    assert all(SelectionMethod in SELECTIONS.get(name).__mro__ for name in SELECTIONS)
    assert all(Preparation in PREPARATIONS.get(name).__mro__ for name in PREPARATIONS)
    assert {*VARIANTS} >= {"gsam", "norm_only", "pruned", "removal", "stale"}
    assert {*SELECTIONS} >= {"candidates", "knapsack", "ranking"}
    assert {*PREPARATIONS} >= {"growing_l2", "none", "soft_masks"}


def test_a_name_is_given_once_and_what_is_unknown_has_a_suggestion() -> None:
    registry: Registry[int] = Registry("number")
    registry.register("one", 1)
    with pytest.raises(ArgumentError, match="there is a number 'one' already"):
        registry.register("one", 2)
    with pytest.raises(RecipeError, match="there is no number 'ones'; did you mean 'one'"):
        registry.get("ones")
    assert "one" in registry
    assert "two" not in registry


def test_a_selection_of_ones_own_is_chosen_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Everything(SelectionMethod):
        """Nothing goes."""

        loud: bool = False

        def plan(self, selection: Any, groups: Any, scores: Any, limit: float) -> PruningPlan:
            return PruningPlan.of(groups)

    monkeypatch.setitem(SELECTIONS._entries, "everything", Everything)
    assert PruningOptions(selection="everything").selection_options == {"loud": False}
    assert PruningOptions(selection="everything", selection_options={"loud": True}).method == Everything(loud=True)


OLD = {
    "warm_up.sharpness.form.direction": (
        {"warm_up": {"sharpness": {"form": {"direction": "removal", "removal": "drop", "share": 0.25}}}},
        {"warm_up": {"sharpness": {"variants": {"removal": {"how": "drop", "share": 0.25}}}}},
    ),
    "fine_tune.sharpness.form.direction": (
        {"fine_tune": {"sharpness": {"form": {"direction": "stale", "window": 0.5}}}},
        {"fine_tune": {"sharpness": {"form": {"window": 0.5}, "variants": {"stale": {}}}}},
    ),
    "pruning_sharpness.pruned": (
        {"pruning_sharpness": {"kind": "uniform", "pruned": [0.5]}},
        {"pruning_sharpness": {"kind": "uniform", "variants": {"pruned": {"fractions": [0.5]}}}},
    ),
    "warm_up.sharpness.perturbation.norm_only": (
        {"warm_up": {"sharpness": {"perturbation": {"norm_only": True, "eta": 0.1}}}},
        {"warm_up": {"sharpness": {"perturbation": {"eta": 0.1}, "variants": {"norm_only": {}}}}},
    ),
    "pruning.candidates": (
        {"pruning": {"selection": "candidates", "candidates": {"count": 7}}},
        {"pruning": {"selection": "candidates", "selection_options": {"count": 7}}},
    ),
}


@pytest.mark.parametrize("key", OLD)
def test_old_keys_are_read_with_a_warning_that_names_the_new_one(tiny_recipe: Callable[..., Any], key: str) -> None:
    old, new = OLD[key]
    with pytest.warns(AdasapWarning, match=f"the recipe's key {key} is called .* now"):
        found = parse_recipe(tiny_recipe(**old))
    assert recipe_tree(found) == recipe_tree(parse_recipe(tiny_recipe(**new)))


def test_old_keys_that_said_nothing_are_left_out_without_a_word(tiny_recipe: Callable[..., Any]) -> None:
    old = {
        "warm_up": {
            "sharpness": {
                "pruned": [],
                "perturbation": {"norm_only": False},
                "form": {"direction": "gradient", "removal": "attenuate", "share": 0.5},
            }
        },
        "pruning": {"candidates": {"count": 50}, "prepare": {"kind": "none", "score": "l1", "growth": 0.1, "every": 5}},
    }
    assert recipe_tree(parse_recipe(tiny_recipe(**old))) == recipe_tree(parse_recipe(tiny_recipe()))


def test_a_resolved_recipe_reads_back(tiny_recipe: Callable[..., Any]) -> None:
    tree = tiny_recipe(
        warm_up={"sharpness": {"variants": {"pruned": {}, "gsam": {}}}},
        pruning={"selection": "candidates", "prepare": {"kind": "growing_l2"}},
    )
    recipe = parse_recipe(tree)
    resolved = recipe_tree(recipe)
    assert resolved["warm_up"]["sharpness"]["variants"]["gsam"] == {"alpha": 0.1}
    assert resolved["pruning"]["prepare"]["ceiling"] == 1.0
    assert resolved["pruning"]["selection_options"]["count"] == 50
    assert parse_recipe(resolved) == recipe
