"""The command line as a user meets it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.errors import DataError, ModelError, RecipeError
from adasap.models import ModelSpec, open_model

Tree = dict[str, Any]
TinyRecipe = Callable[..., Tree]
RUNNER = CliRunner()


def call(*arguments: str) -> str:
    result = RUNNER.invoke(app, arguments, env={"COLUMNS": "160"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def written(tree: Tree, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_help_lists_the_verbs_with_a_sentence_each() -> None:
    text = call("--help")
    for verb in ("demo", "compress", "evaluate", "profile", "groups"):
        assert verb in text
    assert "small, fast and robust" in text


def test_groups_says_what_is_frozen_and_why() -> None:
    text = call("groups", "adasap:cifar_resnet20", "--size", "32")
    assert "output of the model" in text
    assert "12 of 13 groups can be pruned" in text
    assert "269,722 parameters, 40," in text


def test_groups_keeps_what_it_is_told_to_keep() -> None:
    text = call("groups", "adasap:cifar_resnet20", "--size", "32", "--keep", "layer3.*")
    assert "kept by request" in text


def test_compress_then_evaluate_then_profile(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = written(tiny_recipe(), tmp_path)
    text = call("compress", str(recipe), "--out", str(tmp_path), "--set", "fine_tune.epochs=0.5")
    assert "fine-tuned" in text
    assert "0 skipped" in text
    model = str(tmp_path / "tiny" / "model.safetensors")
    numbers = tmp_path / "numbers.json"
    text = call(
        "evaluate", model, "--data", "digits:", "--count", "100", "--corruptions", "contrast", "--out", str(numbers)
    )
    assert "contrast/5" in text
    result = json.loads((tmp_path / "tiny" / "result.json").read_text())
    evaluated = json.loads(numbers.read_text())["suites"]
    assert evaluated["clean"]["mean"] == pytest.approx(result["scores"]["fine-tuned"]["clean"])
    text = call("profile", model, "--batch", "2", "--seconds", "0.1")
    assert "dense" in text
    assert "pruned" in text
    assert "latency p50 / p95 (ms), batch 2" in text


def test_dry_run_makes_no_folder(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    text = call("compress", str(written(tiny_recipe(), tmp_path)), "--out", str(tmp_path / "out"), "--dry-run")
    assert "48 plain steps" in text
    assert not (tmp_path / "out").exists()


def test_errors_are_sentences_with_exit_code_two() -> None:
    script = Path(sys.executable).with_name("adasap")
    done = subprocess.run([script, "groups", "torchvision:resnet19"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "resnet18" in done.stderr
    assert "Traceback" not in done.stderr


# Bad input, as a recipe meets it


def compressed(tree: Tree, folder: Path) -> None:
    RUNNER.invoke(app, ["compress", str(written(tree, folder)), "--out", str(folder)], catch_exceptions=False)


def test_an_unknown_model_names_the_nearest(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cifar_resnet20"):
        compressed(tiny_recipe(model={"builder": "adasap:cifar_resnet21", "options": {}}), tmp_path)


def test_a_wrong_image_size_is_refused(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="64"):
        compressed(tiny_recipe(model={"input_size": [3, 64, 64]}), tmp_path)


def test_more_classes_than_outputs_are_refused(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 10 classes, but adasap:digits_net has 4 outputs; set model.options"):
        compressed(tiny_recipe(model={"options": {"num_classes": 4}}), tmp_path)


def test_weights_of_another_model_are_refused(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file(open_model(ModelSpec("adasap:cifar_resnet20")).state_dict(), path)
    with pytest.raises(ModelError, match=r"weights\.safetensors"):
        compressed(tiny_recipe(model={"weights": str(path)}), tmp_path)


def test_an_unknown_key_is_refused(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="did you mean 'warm_up'"):
        compressed(tiny_recipe() | {"warmup": {}}, tmp_path)


def test_evaluate_wants_a_kind_and_a_path() -> None:
    with pytest.raises(DataError, match="write KIND:PATH"):
        call("evaluate", "adasap:digits_net", "--data", "digits")


def test_import_needs_nothing_but_torch_for_the_core() -> None:
    code = (
        "import sys, adasap; adasap.trace_groups, adasap.score, adasap.select_channels, adasap.adaptive_radius;"
        "print([m for m in ('torchvision', 'timm', 'pydantic', 'accelerate', 'typer') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert adasap.__version__ == version("adasap")
    assert torch.__version__
