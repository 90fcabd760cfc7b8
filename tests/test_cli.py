"""The command line as a user meets it."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.errors import AdasapError, BudgetError, DataError, ModelError, RecipeError
from adasap.models import ModelSpec, open_model
from adasap.profiling.table import LatencyTable

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
    for verb in ("demo", "compress", "compare", "sweep", "evaluate", "profile", "groups", "export"):
        assert verb in text
    assert "small, fast and robust" in text


@pytest.mark.slow
def test_groups_says_what_is_frozen_and_why() -> None:
    text = call("groups", "adasap:cifar_resnet20", "--size", "32")
    assert "output of the model" in text
    assert "12 of 13 groups can be pruned" in text
    assert "269,722 parameters, 40," in text


@pytest.mark.slow
def test_groups_keeps_what_it_is_told_to_keep() -> None:
    text = call("groups", "adasap:cifar_resnet20", "--size", "32", "--keep", "layer3.*")
    assert "kept by request" in text


@pytest.mark.slow
def test_compress_then_evaluate_then_profile(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = written(tiny_recipe(), tmp_path)
    text = call("compress", str(recipe), "--out", str(tmp_path), "--set", "fine_tune.epochs=0.5")
    assert "fine-tuned" in text
    assert "0 skipped" in text
    model = str(tmp_path / "tiny" / "model.safetensors")
    what = ("--data", "digits:", "--count", "100", "--suite", "clean", "--suite", "corrupted")
    text = call("evaluate", model, *what, "--corruptions", "contrast", "--out", str(tmp_path / "numbers"))
    assert re.search(r"contrast .* 1: [0-9.]+, 2: .* 5: ", text)
    result = json.loads((tmp_path / "tiny" / "result.json").read_text())
    evaluated = json.loads((tmp_path / "numbers" / "evaluation.json").read_text())["suites"]
    assert evaluated["clean"]["mean"] == pytest.approx(result["scores"]["fine-tuned"]["clean"])
    text = call("profile", model, "--batch", "2", "--seconds", "0.1")
    assert "dense" in text
    assert "pruned" in text
    assert "latency p50 / p95 (ms), batch 2" in text


@pytest.mark.slow
def test_dry_run_makes_no_folder(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    text = call("compress", str(written(tiny_recipe(), tmp_path)), "--out", str(tmp_path / "out"), "--dry-run")
    assert "48 plain steps" in text
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
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


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """An npz file of random images."""

    def write(count: int = 8, side: int = 32, largest_label: int = 9) -> Path:
        path = tmp_path / f"images{side}.npz"
        labels = np.arange(count) % 10
        labels[3] = largest_label
        np.savez(path, images=np.zeros((count, side, side, 3), np.uint8), labels=labels)
        return path

    return write


@pytest.mark.parametrize("place", ["test", "suite"])
def test_a_label_out_of_range_is_refused(
    tiny_recipe: TinyRecipe, tmp_path: Path, archive: Callable[..., Path], place: str
) -> None:
    source = {"kind": "npz", "path": str(archive(largest_label=19))}
    data = {"test": source} if place == "test" else {"suites": {"far": {"kind": "clean", "data": source}}}
    with pytest.raises(DataError, match=r"label 19 of image 3 is out of range: the model has 10 outputs"):
        compressed(tiny_recipe(data=data), tmp_path)


def test_a_suite_of_another_image_size_is_refused(
    tiny_recipe: TinyRecipe, tmp_path: Path, archive: Callable[..., Path]
) -> None:
    source = {"kind": "npz", "path": str(archive(side=64))}
    with pytest.raises(DataError, match=r"suite 'far': images are 3 x 64 x 64 .* the model wants 3 x 32 x 32"):
        compressed(tiny_recipe(data={"suites": {"far": {"kind": "clean", "data": source}}}), tmp_path)


def test_evaluate_refuses_labels_and_sizes_that_do_not_fit(archive: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="label 19 of image 3 is out of range"):
        call("evaluate", "adasap:digits_net", "--data", f"npz:{archive(largest_label=19)}")
    with pytest.raises(DataError, match="the model wants 3 x 48 x 48"):
        call("evaluate", "adasap:digits_net", "--data", f"npz:{archive()}", "--size", "48")


def test_evaluate_takes_the_size_of_the_images_and_the_preprocessing(archive: Callable[..., Path]) -> None:
    data = f"npz:{archive(side=48)}"
    first = call("evaluate", "adasap:digits_net", "--data", data)
    other = call("evaluate", "adasap:digits_net", "--data", data, "--mean", "0.1", "0.9", "0.5", "--std", "1", "1", "2")
    assert first.splitlines()[2:] != other.splitlines()[2:]


def test_an_evaluation_of_a_model_that_no_file_filled_says_so(archive: Callable[..., Path]) -> None:
    said = call("evaluate", "adasap:digits_net", "--data", f"npz:{archive()}").replace("\n", " ")
    assert "adasap:digits_net has the numbers that its builder fills it with" in said


@pytest.mark.slow
@pytest.mark.parametrize("model", ["timm:resnet10t in_chans", "adasap:cifar_resnet20 in_channels"])
def test_a_model_of_one_channel_is_profiled_at_its_own_size(model: str) -> None:
    name, option = model.split()
    assert "parameters" in call("profile", name, "--model-option", f"{option}=1")


def test_arrays_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"cannot be read as an \.npz archive"):
        call("evaluate", "adasap:digits_net", "--suite", f"corruption-arrays={tmp_path / 'x.npz'}")


@pytest.mark.slow
def test_errors_keep_their_square_brackets(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("adasap")
    folder = tmp_path / "[red]"
    done = subprocess.run([script, "compress", str(folder / "a.yaml")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "[red]" in done.stderr.replace("\n", "")


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_a_sentence(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    script = Path(sys.executable).with_name("adasap")
    arguments = ["compress", str(written(tiny_recipe(), tmp_path)), "--out", str(tmp_path / "file")]
    done = subprocess.run([script, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_evaluate_wants_a_kind_and_a_path() -> None:
    with pytest.raises(DataError, match="write KIND:PATH"):
        call("evaluate", "adasap:digits_net", "--data", "digits")


@pytest.mark.slow
def test_import_needs_nothing_but_torch_for_the_core() -> None:
    code = (
        "import sys, adasap; adasap.trace_groups, adasap.score, adasap.select_channels, adasap.adaptive_radius;"
        "heavy = ('torchvision', 'timm', 'pydantic', 'accelerate', 'typer', 'plotly', 'jinja2');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_version_is_the_packages() -> None:
    from importlib.metadata import version

    assert adasap.__version__ == version("adasap")
    assert torch.__version__


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(("depth", "percent", "limit"), [(20, 91.73, None), (56, 93.39, 1000)])
def test_pretrained_networks_reach_their_published_accuracy(
    shared_data: Path, tmp_path: Path, depth: int, percent: float, limit: int | None
) -> None:
    strips = [np.asarray(Image.open(file)) for file in sorted((shared_data / "cifar10").glob("test_*.webp"))]
    with np.load(shared_data / "cifar10" / "labels.npz") as labels:
        np.savez(tmp_path / "test.npz", images=np.concatenate(strips).reshape(-1, 32, 32, 3), labels=labels["test"])
    weights, out = shared_data / "weights" / f"resnet{depth}_cifar10.safetensors", tmp_path / "numbers"
    data = ["--data", f"npz:{tmp_path / 'test.npz'}", "--out", str(out)]
    sample = [] if limit is None else ["--limit", str(limit)]
    call("evaluate", f"adasap:cifar_resnet{depth}", "--weights", str(weights), *data, *sample)
    mean = json.loads((out / "evaluation.json").read_text())["suites"]["clean"]["mean"]
    allowed = 0.02 if limit is None else 2.4  # ties in the last bit differ between machines; three standard errors
    assert 100 * mean == pytest.approx(percent, abs=allowed)


@pytest.mark.slow
def test_a_latency_table_is_made_and_spent(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    table = tmp_path / "table.json"
    tree = tiny_recipe()
    arguments = ("--latency-table", str(table), "--threads", "1", "--plans", "1", "--seconds", "0")
    text = call("profile", str(written(tree, tmp_path)), *arguments)
    assert "points of" in text
    assert "error of a plan's share of the dense time" in text
    settings = json.loads(table.read_text())["settings"]
    assert settings["threads"] == 1
    assert settings["batch"] == 1
    with pytest.raises(BudgetError, match=r"was measured with batch=1, now it would be 2; take another file"):
        call("profile", str(written(tree, tmp_path)), *arguments, "--batch", "2")

    made_up = LatencyTable.from_json(table.read_text())  # a measured one of a network this small is mostly noise
    made_up.scale, made_up.call_ms = 1.0, 0.0
    made_up.settings["processor"] = "another"  # so that nobody measures whether it is right
    made_up.points = {key: {at: 1.0 + math.prod(at) for at in points} for key, points in made_up.points.items()}
    table.write_text(made_up.to_json())
    tree["pruning"]["budget"] = {"latency": 0.6, "latency_table": str(table)}
    call("compress", str(written(tree, tmp_path)), "--out", str(tmp_path / "runs"))
    folder = tmp_path / "runs" / tree["name"]
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    last = [record for record in records if record.get("unit") == "ms"][-1]
    assert last["cost"] <= last["cost_limit"]
    assert "allowed, not measured (the table is of another)" in (folder / "summary.md").read_text()

    table.write_text(table.read_text().replace('"scale": ', '"scale": 1'))
    with pytest.raises(AdasapError, match=r"table\.json was altered or damaged: .* --latency-table FILE`"):
        call("compress", str(written(tree, tmp_path)), "--out", str(tmp_path / "runs"))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"device 'cuda:77' cannot be used .* give --device cpu, or cuda where there is one"
    ):
        call("profile", "adasap:digits_net", "--device", "cuda:77")
