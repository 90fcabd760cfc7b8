"""The demos: recipes that differ in what they compare and in nothing else, and one of detection made small."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from adasap.cli import app
from adasap.experiments.demo import compression_recipes
from adasap.experiments.demo_data import DEMOS
from adasap.experiments.known_names import DemoTask
from adasap.experiments.recipe import parse_recipe
from adasap.experiments.sweep import expand, read_sweep

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_the_runs_differ_in_sharpness_and_in_epochs_only(task: DemoTask) -> None:
    demo = DEMOS[task]
    before = copy.deepcopy(dict(demo.tree))
    recipes = {name: parse_recipe(tree) for name, tree in compression_recipes(demo, "dense.safetensors", 7).items()}
    dense = parse_recipe(demo.recipe(7))
    assert demo.tree == before
    adasap, plain, double = (recipes[name] for name in ("adasap", "plain", "plain-twice-the-epochs"))
    assert (adasap.warm_up.sharpness.kind, plain.warm_up.sharpness.kind) == ("adaptive", "plain")
    for one in recipes.values():
        assert (one.data, one.training, one.seed) == (dense.data, dense.training, 7)
        assert one.pruning.budget == adasap.pruning.budget
        assert one.model.weights == "dense.safetensors"
    steps = ("warm_up", "pruning", "fine_tune")
    assert [getattr(plain, step).epochs for step in steps] == [getattr(adasap, step).epochs for step in steps]
    assert [getattr(double, step).epochs for step in steps] == [2 * getattr(plain, step).epochs for step in steps]


def test_the_sweep_of_ten_seeds_is_of_the_demos_runs() -> None:
    """`recipes/sweeps/digits_demo.yaml`, whose results the documents state."""
    demo, path = DEMOS["classification"], ROOT / "recipes" / "sweeps" / "digits_demo.yaml"
    cells = {cell.run: cell.recipe for cell in expand(read_sweep(path), path.parent) if cell.seed == 200}
    runs = {"adasap": "adasap", "plain": "plain", "plain_double": "plain-twice-the-epochs"}
    trees = compression_recipes(demo, "dense.safetensors", 200)
    for run, recipe in [(run, parse_recipe(trees[name])) for run, name in runs.items()]:
        for part in ("warm_up", "pruning", "fine_tune"):
            assert getattr(cells[run], part) == getattr(recipe, part), (run, part)
        assert replace(cells[run].training, keep_stages=True) == recipe.training
        assert cells[run].data.suites == recipe.data.suites
        assert cells[run].model.builder == recipe.model.builder
    assert cells["dense"].fine_tune.epochs == demo.dense_epochs


@pytest.mark.slow
def test_the_demo_of_detection_ends_with_a_table_and_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo, tree = DEMOS["detection"], copy.deepcopy(dict(DEMOS["detection"].tree))
    tree["model"]["options"]["image_size"], tree["model"]["input_size"] = 64, [3, 64, 64]
    tree["data"]["train"]["count"], tree["data"]["test"]["count"], tree["training"]["batch_size"] = 16, 8, 8
    tree["data"]["suites"]["corrupted"] |= {"corruptions": ["contrast"], "severities": [3]}
    small = {"warm_up": 0.5, "pruning": 0.5, "fine_tune": 0.5}
    pruning = {**demo.pruning, "events": 1, "every": 1, "recalibration_batches": 1}
    tiny = replace(demo, tree=tree, dense_epochs=0.5, epochs=small, pruning=pruning)
    monkeypatch.setitem(DEMOS, "detection", tiny)
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["demo", "--task", "detection", "--out", str(out)], env={"COLUMNS": "120"})
    assert result.exit_code == 0, result.output
    output = " ".join(result.output.split())
    for word in ("AP50 (%)", "AdaSAP's gain", "plain, 2 x", "--data shapes:", "shapes, split train: 16 images"):
        assert word in output
    page = (out / "comparison" / "report.html").read_text()
    assert page.count('class="scene"') == 3 * 4  # three runs; two images, clean and under one corruption
    assert (out / "adasap" / "model.safetensors").is_file()
