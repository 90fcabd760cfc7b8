"""Folders as hubs have them: three files without code, opened from a place here or from a hub's cache."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

import adasap
from adasap.errors import AdasapError, ModelFileError
from adasap.experiments.compress import run_recipe
from adasap.experiments.recipe import parse_recipe
from adasap.experiments.terminal import open_console

IMAGES = torch.linspace(-1, 1, 2 * 3 * 32 * 32).view(2, 3, 32, 32)


@pytest.fixture(scope="module")
def pruned() -> Any:
    torch.manual_seed(0)
    net = adasap.open_model(adasap.ModelSpec("adasap:digits_net", {"widths": [4, 8, 16]}, (3, 32, 32)))
    return adasap.prune(net, torch.zeros(1, 3, 32, 32), "l2", {"macs": 0.5})


def test_a_folder_closes_the_loop(pruned: Any, tmp_path: Path) -> None:
    metadata = {"classes": list("abcdefghij"), "scores": {"clean": 0.9, "corrupted": 0.75}}
    folder = adasap.save_pretrained(tmp_path / "small", pruned.model, groups=pruned.groups, metadata=metadata)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = adasap.from_pretrained(folder)
    assert not again.training
    assert torch.equal(again(IMAGES), pruned.model.eval()(IMAGES))
    config = json.loads((folder / "config.json").read_text())
    assert config["classes"] == list("abcdefghij")
    assert config["preprocessing"]["input_size"] == [3, 32, 32]
    assert config["channels_kept"] == pruned.plan.widths()
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "adasap"
    assert "| corrupted | 75.00 % |" in card.text
    assert "adasap.from_pretrained" in card.text


def test_a_hub_name_is_taken_from_the_cache(pruned: Any, tmp_path: Path) -> None:
    """The cache as huggingface_hub lays it out; nothing is asked of a network."""
    repo = tmp_path / "cache" / "models--somebody--small"
    adasap.save_pretrained(repo / "snapshots" / ("a" * 40), pruned.model, groups=pruned.groups)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    options: Any = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    assert torch.equal(adasap.from_pretrained("somebody/small", **options)(IMAGES), pruned.model.eval()(IMAGES))
    with pytest.raises(ModelFileError, match="'somebody/else' is no folder here, and the hub gave none"):
        adasap.from_pretrained("somebody/else", **options)


def test_files_of_two_models_are_not_mixed(pruned: Any, tmp_path: Path) -> None:
    one = adasap.save_pretrained(tmp_path / "one", pruned.model, groups=pruned.groups)
    other = adasap.save_pretrained(tmp_path / "two", pruned.model, groups=pruned.groups, metadata={"of": "two"})
    shutil.copy(other / "config.json", one / "config.json")
    with pytest.raises(ModelFileError, match=r"config.json was written for another model.safetensors"):
        adasap.from_pretrained(one)


@pytest.mark.parametrize("name", ["nothing", "strange"])
def test_what_is_no_such_folder_is_said(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    if name == "strange":
        (tmp_path / name / "pytorch_model.bin").write_bytes(b"1")
    there = {"nothing": "there is nothing", "strange": "there is pytorch_model.bin"}[name]
    with pytest.raises(ModelFileError, match=there):
        adasap.from_pretrained(tmp_path / name)
    with pytest.raises(AdasapError, match="not the folder of a finished run"):
        adasap.save_pretrained(tmp_path / "out", tmp_path / name)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_card_of_a_run_says_how_good_how_large_and_how_fast(
    tiny_recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    run = run_recipe(parse_recipe(tiny_recipe()), tmp_path / "run", open_console(quiet=True), brief=True)
    folder = adasap.save_pretrained(tmp_path / "small", run.folder, license="apache-2.0")
    card = ModelCard.load(folder / "README.md")
    clean = run.result.stages["fine-tuned"]["clean"].mean
    dense = run.result.stages["dense"]["clean"].mean
    assert card.data.license == "apache-2.0"
    assert f"| clean | {100 * dense:.2f} % | {100 * clean:.2f} % |" in card.text
    assert f"| MACs | {run.profiles['dense'].macs:,} | {run.profiles['compressed'].macs:,} |" in card.text
    assert "| latency, batch 1, median (ms) |" in card.text
    assert torch.allclose(adasap.from_pretrained(folder)(IMAGES), run.result.model.eval().cpu()(IMAGES), atol=1e-5)
