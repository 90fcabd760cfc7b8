"""Suites cell by cell, and their results."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adasap.corruptions import corrupt
from adasap.data import DataSource, InMemoryImages
from adasap.errors import ArgumentError, DataError
from adasap.evaluation import CLEAN, Cell, SuiteResult, SuiteSource, evaluate_cell, evaluate_suite, open_suite
from adasap.evaluation.suites import Loading
from adasap.groups import evaluating
from adasap.tasks.classification.task import ClassificationTask

CPU = torch.device("cpu")
TASK = ClassificationTask(mean=(0.0,) * 3, std=(1.0,) * 3)


def images(count: int = 6) -> InMemoryImages:
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return InMemoryImages(pixels, torch.arange(count) % 2)


class BrightIsOne(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean(dim=(1, 2, 3)) - 0.5
        return torch.stack([-bright, bright], dim=1)


def test_a_result_survives_json() -> None:
    cells = {CLEAN: torch.tensor([1.0, 0.0]), Cell("contrast", 1): torch.tensor([0.25, 0.5])}
    result = SuiteResult("s", cells, {CLEAN: {"accuracy": 0.5}})
    assert list(result.to_json()["scores"]) == ["clean", "contrast/1"]
    back = SuiteResult.from_json("s", result.to_json())
    assert all(torch.equal(back.cells[cell], cells[cell]) for cell in cells)
    assert result.per_image().tolist() == [0.625, 0.25]
    assert result.mean == pytest.approx(0.4375)


def test_a_metric_that_is_not_finite_survives_as_none() -> None:
    result = SuiteResult("s", {CLEAN: torch.ones(2)}, {CLEAN: {"accuracy": 1.0, "ece": float("nan")}})
    assert result.to_json()["cells"] == {"clean": {"accuracy": 1.0, "ece": None}}
    assert math.isnan(SuiteResult.from_json("s", json.loads(json.dumps(result.to_json()))).metrics[CLEAN]["ece"])


def test_cells_are_ordered_and_survive_their_names() -> None:
    cells = [Cell("fog", 10), Cell("snow", 1), CLEAN, Cell("fog", 2), Cell("of/mine", 3)]
    assert [str(cell) for cell in sorted(cells)] == ["clean", "fog/2", "fog/10", "of/mine/3", "snow/1"]
    assert [Cell.parse(str(cell)) for cell in cells] == cells
    assert [cell.is_clean for cell in cells] == [False, False, True, False, False]


@pytest.mark.parametrize(
    "text", ["", "fog", "fog/", "/3", "fog/0", "fog/03", "fog/-1", "fog/3.0", "fog/\u0663", "fog/99999"]
)
def test_texts_that_name_no_cell_are_refused(text: str) -> None:
    with pytest.raises(DataError, match="is not a cell; wanted `clean` or `CORRUPTION/SEVERITY`, such as fog/3"):
        Cell.parse(text)


@pytest.mark.parametrize("given", [("fog", 0), ("", 3), ("fog", -1), ("fog", True), ("fog", "3")])
def test_half_a_cell_is_refused(given: tuple[Any, Any]) -> None:
    with pytest.raises(ArgumentError, match="give a name and a whole number from 1, or neither"):
        Cell(*given)
    with pytest.raises(ArgumentError, match=r"a cell of suite 's' is 'fog/3'; give Cell.parse\('fog/3'\)"):
        SuiteResult("s", {"fog/3": torch.ones(1)})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("scores", {}, "have no cells"),
        ("scores", None, "have no object 'scores'"),
        ("scores", {"clean": "01", "fog/1": "011"}, "cells of different numbers of images"),
        ("scores", {"clean": ""}, "instead of a number for each image"),
        ("scores", {"clean": "012"}, "instead of a number for each image"),
        ("scores", {"clean": [True, False]}, "instead of a number for each image"),
        ("scores", {"clean": [0.5, "0.5"]}, "instead of a number for each image"),
        ("scores", {"clean": [10**400, 1]}, "instead of a number for each image"),
        ("scores", {"clean": "01", "fog": "01"}, "the scores of suite 's': 'fog' is not a cell; wanted `clean` or"),
        ("scores", {"clean": "01", "fog/x": "01"}, "'fog/x' is not a cell"),
        ("cells", {"fog/1": {}}, "metrics or worst classes of cells without scores"),
        ("cells", {"clean": {"accuracy": "high"}}, "instead of a cell's metrics"),
        ("cells", [], "have no object 'cells'"),
        ("worst_class", {"clean": 3}, "worst classes of cells without scores"),
    ],
)
def test_scores_that_are_none_are_refused(key: str, value: object, words: str) -> None:
    data = {"mean": 0.5, "num_images": 2, "cells": {"clean": {"accuracy": 0.5}}, "scores": {"clean": "01"}}
    assert SuiteResult.from_json("s", data).mean == 0.5
    with pytest.raises(DataError, match=words):
        SuiteResult.from_json("s", {**data, key: value})
    with pytest.raises(DataError, match="have no object 'scores'"):
        SuiteResult.from_json("s", [])


class Normed(nn.Module):
    """Two norms whose running statistics are far from any batch's, so that the two modes answer differently."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3))
        self.norm, self.drop, self.head = nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Linear(4, 2)
        draw = torch.Generator().manual_seed(0)
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=draw) * (4.0 if "running" in name else 1.0) - 0.3)
        for norm in (self.body[1], self.norm):
            norm.running_var.abs_().add_(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.drop(self.norm(self.body(x)).mean((2, 3))))
        return logits


def by_hand(model: Normed, x: torch.Tensor) -> torch.Tensor:
    """Logits in double precision from the running statistics, by the definition of the layers; no mode is involved."""
    state = {name: tensor.double() for name, tensor in model.state_dict().items()}

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = nn.functional.conv2d(x.double(), state["body.0.weight"], state["body.0.bias"])
    x = nn.functional.conv2d(normed(x, "body.1").clamp(min=0), state["body.3.weight"], state["body.3.bias"])
    return normed(x, "norm").mean((2, 3)) @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize("training", [True, False])
def test_norms_answer_with_their_running_statistics_whatever_mode_the_model_comes_in(training: bool) -> None:
    model, data = Normed().train(training), images(12)
    model.norm.eval()  # one layer of another mode than the rest keeps it
    flags = [module.training for module in model.modules()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    suite = open_suite("s", SuiteSource("clean"), data)
    result = evaluate_cell(model, TASK, suite, CLEAN, CPU, Loading(batch_size=5))
    expected = by_hand(model, data.images.float() / 255).log_softmax(dim=1)
    loss = -expected.gather(1, data.labels[:, None]).squeeze(1)
    assert result.records["loss"].double() == pytest.approx(loss, abs=1e-5)
    assert result.scores.tolist() == (expected.argmax(1) == data.labels).float().tolist()
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    in_training = Normed().train()(data.images[:5].float() / 255).log_softmax(dim=1)
    assert (in_training.double() - expected[:5]).abs().max() > 0.1  # the two modes can be told apart


def test_the_worst_class_is_a_name_and_has_no_mean() -> None:
    data = images()
    named = InMemoryImages(data.images, data.labels, ("dark", "bright"))
    for each, name in ((named, {CLEAN: "bright"}), (data, {})):
        result = evaluate_suite(AlwaysDark(), TASK, open_suite("s", SuiteSource("clean"), each), CPU)
        assert result.metrics[CLEAN]["worst_class"] == 1.0
        assert result.worst_class == name
        assert SuiteResult.from_json("s", result.to_json()).worst_class == name


class AlwaysDark(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[1.0, 0.0]]).expand(len(x), 2)


def test_corrupting_on_the_fly_equals_corrupting_first() -> None:
    data, source = images(), SuiteSource(kind="corrupted", corruptions=("gaussian_noise",), severities=(1, 5))
    suite = open_suite("noisy", source, data)
    result = evaluate_suite(BrightIsOne(), TASK, suite, CPU)
    assert list(result.cells) == [Cell("gaussian_noise", 1), Cell("gaussian_noise", 5)]
    noisy = corrupt(data.images, "gaussian_noise", 5, seeds=torch.arange(6)).float() / 255
    right = BrightIsOne()(noisy).argmax(1) == data.labels
    assert result.cells[Cell("gaussian_noise", 5)].tolist() == right.float().tolist()


def test_arrays_on_disk_are_read_severity_by_severity(tmp_path: Path) -> None:
    stack = np.stack([np.full((2, 4, 4, 3), 40 * s, np.uint8) for s in range(1, 6)])
    path = tmp_path / "arrays.npz"
    np.savez(path, labels=np.array([0, 1]), contrast=stack)
    source = SuiteSource(kind="corruption-arrays", path=str(path), corruptions=("contrast",))
    result = evaluate_suite(BrightIsOne(), TASK, open_suite("c", source), CPU)
    # 40, 80, 120 are dark (class 0), 160 and 200 bright (class 1).
    assert [cell.tolist() for cell in result.cells.values()] == [[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            SuiteSource(kind="corruption-arrays", path="nowhere.npz"),
            "wants an npz of labels .* nowhere.npz does not exist",
        ),
        (SuiteSource(kind="clean"), "names no data"),
        (SuiteSource(kind="clean", data=DataSource("npz", "nowhere.npz")), "nowhere.npz"),
    ],
)
def test_missing_suites_are_refused(source: SuiteSource, words: str) -> None:
    with pytest.raises(DataError, match=words):
        open_suite("s", source)


def test_an_unknown_corruption_is_refused_when_the_suite_is_opened() -> None:
    with pytest.raises(DataError, match="did you mean 'contrast'"):
        open_suite("s", SuiteSource(kind="corrupted", corruptions=("contrst",)), images())


def test_arrays_of_the_wrong_shape_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    np.savez(path, labels=np.array([0, 1]), contrast=np.zeros((4, 2, 4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"wanted uint8 \[5, 2, H, W, C\]"):
        open_suite("c", SuiteSource(kind="corruption-arrays", path=str(path), corruptions=("contrast",)))


def test_evaluation_mode_gives_every_module_its_flag_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    with pytest.raises(ZeroDivisionError), evaluating(model):  # noqa: PT012
        assert not model[0].training
        raise ZeroDivisionError
    assert [model.training, model[0].training, model[1].training] == [True, True, False]
