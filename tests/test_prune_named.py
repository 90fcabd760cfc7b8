"""`adasap prune`: a model by its name is cut once, proven, scored before and after, and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.data import DataSource
from adasap.errors import ArgumentError, BudgetError, RecipeError
from adasap.experiments.budgets import budget_named
from adasap.experiments.find_data import find_data
from adasap.experiments.prune import prune_model

NET = "adasap:digits_net"


def written(folder: Path, **splits: np.ndarray) -> Path:
    """Archives of noise 32 x 32 with these labels, classes a, b, c, ... those that occur."""
    for name, labels in splits.items():
        images = np.random.default_rng(0).integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        kept = np.unique(labels)
        names = np.array(list("abcdefghij"))[kept]
        np.savez(folder / f"{name}.npz", images=images, labels=np.searchsorted(kept, labels), classes=names)
    return folder


@pytest.mark.slow
def test_the_file_is_the_cut_model_with_its_classes_and_scores(tmp_path: Path) -> None:
    data = written(tmp_path, train=np.arange(40) % 10, valid=np.arange(9, 39) % 10)
    found = prune_model(NET, tmp_path / "small.safetensors", "macs=0.5", data=str(data), criterion="taylor", images=20)
    loaded, cut = adasap.load(tmp_path / "small.safetensors").state_dict(), found.model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in cut.items())
    assert found.pruned.cost_after <= 0.5 * found.pruned.cost_before
    assert found.pruned.mask_error < 1e-4
    again = adasap.evaluate(tmp_path / "small.safetensors", DataSource("npz", str(data), split="valid"))
    assert found.scores == {"dense": found.scores["dense"], "pruned": again["clean"].mean}


@pytest.mark.slow
def test_labels_are_numbered_by_the_training_images(tmp_path: Path) -> None:
    """The validation images lack the first class; numbered by themselves every label would be one too low."""
    labels = np.arange(60) % 10
    data = written(tmp_path, train=labels, val=labels[labels > 0])
    first = adasap.open_model(adasap.ModelSpec(NET))
    with torch.no_grad():  # always answers with class b
        for parameter in first.parameters():
            parameter.zero_()
        list(first.parameters())[-1][1] = 1.0
    scores = prune_model(first, budget={"macs": 0.9}, data=str(data)).scores
    assert scores["dense"] == pytest.approx(6 / 54)
    assert prune_model(first, budget={"macs": 0.9}, data=str(data), test_split="train").scores[
        "dense"
    ] == pytest.approx(0.1)


def test_what_is_missing_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match="criterion taylor and least_squares: images are missing; give --data FOLDER"
    ):
        prune_model("none:such", criterion="taylor", compensate="least_squares")
    with pytest.raises(RecipeError, match=r"has no value; write it as macs=0\.5"):
        prune_model(NET, budget="macs")
    with pytest.raises(BudgetError, match="the buffers of the dense model alone take"):
        budget_named("size_mb=0.00001", torch.nn.BatchNorm2d(9))


@pytest.mark.slow
def test_a_size_is_that_of_the_weights(tmp_path: Path) -> None:
    found = prune_model("adasap:cifar_resnet20", tmp_path / "small.safetensors", "size_mb=0.5")
    assert 0.45e6 < sum(t.numel() * t.element_size() for t in found.model.state_dict().values()) <= 0.5e6


@pytest.mark.slow
def test_the_verb_prints_the_proof(tmp_path: Path) -> None:
    arguments = [
        "prune",
        NET,
        str(tmp_path / "a.safetensors"),
        "--budget",
        "macs=0.5",
        "--data",
        "digits:",
        "--limit",
        "9",
    ]
    output = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False).output
    assert "masked = cut to" in output
    assert "accuracy" in output


@pytest.mark.parametrize(
    ("names", "train", "test", "validation"),
    [
        (("train", "val"), "train", "val", None),
        (("Training", "validation", "Test"), "Training", "Test", "validation"),
        (("train", "valid", "other"), "train", "valid", None),
    ],
)
def test_splits_are_found_under_their_usual_names(
    tmp_path: Path, names: tuple[str, ...], train: str, test: str, validation: str | None
) -> None:
    written(tmp_path, **dict.fromkeys(names, np.arange(3)))
    found = find_data(str(tmp_path))
    assert (found.train.kind, found.train.split, found.test and found.test.split) == ("npz", train, test)
    assert (found.validation and found.validation.split) == validation


@pytest.mark.parametrize("budget", ["macs=0.5, depth=True", "depth=on,macs=0.5", {"macs": 0.5, "depth": True}])
def test_depth_asks_for_images_however_it_is_written(budget: str | dict[str, float]) -> None:
    with pytest.raises(ArgumentError, match="a budget with depth: images are missing; give --data"):
        prune_model(NET, budget=budget)


@pytest.mark.slow
def test_depth_from_the_command_line_looks_at_images(tmp_path: Path) -> None:
    data = written(tmp_path, train=np.arange(20) % 10, valid=np.arange(20) % 10)
    found = prune_model("adasap:cifar_resnet20", budget="macs=0.3,depth=yes", data=str(data), images=10)
    assert found.pruned.cost_after <= 0.3 * found.pruned.cost_before
    assert any("a budget with depth: 10 images" in remark for remark in found.remarks)
