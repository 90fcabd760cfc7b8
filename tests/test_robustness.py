"""Suites cell by cell, and their results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from adasap.corruptions import corrupt
from adasap.data import DataSource, InMemoryImages
from adasap.errors import DataError
from adasap.groups import evaluating
from adasap.robustness import SuiteResult, SuiteSource, evaluate_suite, open_suite
from adasap.tasks import ClassificationTask

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
    cells = {"clean": torch.tensor([1.0, 0.0]), "contrast/1": torch.tensor([0.25, 0.5])}
    result = SuiteResult("s", cells, {"clean": {"accuracy": 0.5}})
    back = SuiteResult.from_json("s", result.to_json())
    assert all(torch.equal(back.cells[name], cells[name]) for name in cells)
    assert result.per_image().tolist() == [0.625, 0.25]
    assert result.mean == pytest.approx(0.4375)


def test_corrupting_on_the_fly_equals_corrupting_first() -> None:
    data, source = images(), SuiteSource(kind="corrupted", corruptions=("gaussian_noise",), severities=(1, 5))
    suite = open_suite("noisy", source, data)
    result = evaluate_suite(BrightIsOne(), TASK, suite, CPU)
    assert list(result.cells) == ["gaussian_noise/1", "gaussian_noise/5"]
    noisy = corrupt(data.images, "gaussian_noise", 5, seeds=torch.arange(6)).float() / 255
    right = BrightIsOne()(noisy).argmax(1) == data.labels
    assert result.cells["gaussian_noise/5"].tolist() == right.float().tolist()


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
    with pytest.raises(DataError, match=r"wanted uint8 \[5, 2, H, W, 3\]"):
        open_suite("c", SuiteSource(kind="corruption-arrays", path=str(path), corruptions=("contrast",)))


def test_evaluation_mode_gives_every_module_its_flag_back() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[1].eval()
    with pytest.raises(ZeroDivisionError), evaluating(model):  # noqa: PT012
        assert not model[0].training
        raise ZeroDivisionError
    assert [model.training, model[0].training, model[1].training] == [True, True, False]
