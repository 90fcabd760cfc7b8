"""A task that the package does not know, counting dots, defined in this file alone, goes wherever its own tasks go."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.errors import AdasapError
from adasap.evaluation import CLEAN
from adasap.experiments.recipe import dump_recipe, parse_options, parse_recipe, recipe_tree
from adasap.io import dump_yaml
from adasap.tasks import BaseTask, Metric
from adasap.training import Record, StepRecord, ignore

RUNNER = CliRunner()
HERE = str(Path(__file__))
Tree = dict[str, Any]


class Dots(Dataset[tuple[Tensor, int]]):
    """Images uint8 [3, 16, 16] with up to five white dots; the target is their number."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        image, wanted = torch.zeros(3, 16, 16, dtype=torch.uint8), index % 6
        places = torch.randperm(64, generator=generator)[:wanted]
        for place in places.tolist():
            image[:, 2 * (place // 8), 2 * (place % 8)] = 255
        return image, wanted


def dots(split: str, count: int = 48) -> Dots:
    """What a recipe's `kind:` calls."""
    return Dots(count, 0 if split == "train" else 1)


class Counter(nn.Module):
    """The number of dots, float [N, 1]."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.head = nn.Linear(2 * width, 1)

    def forward(self, images: Tensor | list[Tensor]) -> Tensor:
        images = torch.stack(images) if isinstance(images, list) else images
        features = self.conv2(self.conv1(images).relu()).relu()
        found: Tensor = self.head(features.mean(dim=(2, 3)))
        return found


class CountingEvaluator:
    """How far the counts are off."""

    def __init__(self) -> None:
        self.errors: list[Tensor] = []

    def update(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        self.errors.append((model(batch[0]).flatten() - batch[1]).abs().float().cpu())

    def compute(self) -> dict[str, float]:
        return {"error": torch.cat(self.errors).mean().item()}

    def per_image(self) -> Tensor:
        return torch.cat(self.errors)


class CountingTask(BaseTask[tuple[Tensor, Tensor]]):
    """Counting, by the squared error."""

    name = "counting"
    primary_metric = Metric("error", "error", "dots", higher_is_better=False)

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]).flatten().float() - batch[1]).square().mean()

    def evaluator(self) -> CountingEvaluator:
        return CountingEvaluator()

    def timed_images(self, data: adasap.Data) -> dict[str, list[Tensor]]:
        return {"images to counts": [torch.zeros(3, 20, 20), torch.zeros(3, 20, 20)]}


def tree(**sections: Any) -> Tree:
    return {
        "name": "counting",
        "task": f"{HERE}:CountingTask",
        "model": {"builder": f"{HERE}:Counter", "mean": [0.0] * 3, "std": [1.0] * 3},
        "data": {
            "train": {"kind": f"{HERE}:dots"},
            "test": {"kind": f"{HERE}:dots", "options": {"count": 12}},
            "suites": {"corrupted": {"kind": "corrupted", "corruptions": ["contrast"], "severities": [3]}},
        },
        "training": {
            "batch_size": 8,
            "checkpoint_every": 2,
            "num_workers": 0,
            "optimizer": {"learning_rate": 0.01},
            "runtime": {"precision": "float32", "device": "cpu"},
        },
        "warm_up": {"epochs": 0.5},
        "pruning": {"epochs": 0.5, "budget": {"macs": 0.6}, "events": 2, "every": 1, "recalibration_batches": 0},
        "fine_tune": {"epochs": 0.5},
        **sections,
    }


def data() -> adasap.Data:
    return adasap.Data(
        Dots(48, 0),
        {"corrupted": adasap.SuiteSource("corrupted", corruptions=("contrast",), severities=(3,))},
        test=Dots(12, 1),
    )


def config() -> adasap.Compression:
    options = {key: value for key, value in tree().items() if key not in ("name", "model", "data", "task")}
    return parse_options(options, adasap.Compression)


def compressed(folder: Path | None = None, observe: Callable[[Record], None] = ignore) -> adasap.Result:
    torch.manual_seed(0)
    return adasap.compress(Counter(), CountingTask(), data(), config(), folder=folder, observe=observe)


class KilledError(Exception):
    pass


def test_it_is_compressed_and_resumed_to_the_same_numbers(tmp_path: Path) -> None:
    records: list[Record] = []
    whole = compressed(observe=records.append)
    assert list(whole.stages["fine-tuned"]) == ["clean", "corrupted"]
    assert "error" in whole.stages["fine-tuned"]["clean"].metrics[CLEAN]
    assert sum(isinstance(record, StepRecord) for record in records) == 9

    def kill(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step == 5:
            raise KilledError

    with pytest.raises(KilledError):
        compressed(tmp_path, kill)
    resumed = compressed(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))
    assert resumed.stages["fine-tuned"]["corrupted"].mean == whole.stages["fine-tuned"]["corrupted"].mean


@pytest.mark.slow
def test_its_recipe_is_read_without_its_code_and_runs_with_the_flag_alone(tmp_path: Path) -> None:
    recipe = parse_recipe(tree())
    assert recipe.own_code == (f"{HERE}:CountingTask", f"{HERE}:dots")
    assert parse_recipe(recipe_tree(recipe)) == recipe
    path = tmp_path / "counting.yaml"
    path.write_text(dump_recipe(recipe))
    refused = RUNNER.invoke(app, ["compress", str(path), "--out", str(tmp_path)])
    assert isinstance(refused.exception, AdasapError)
    assert "--trust-builder" in str(refused.exception)
    done = RUNNER.invoke(
        app, ["compress", str(path), "--out", str(tmp_path), "--trust-builder"], catch_exceptions=False
    )
    assert done.exit_code == 0
    result = json.loads((tmp_path / "counting" / "result.json").read_text())
    assert result["recipe"]["task"] == f"{HERE}:CountingTask"
    out = tmp_path / "evaluation"
    words = ["--data", f"{HERE}:dots", "--task", f"{HERE}:CountingTask", "--out", str(out), "--trust-builder"]
    model = str(tmp_path / "counting" / "model.safetensors")
    told = RUNNER.invoke(app, ["evaluate", model, *words, "--suite", "clean"], catch_exceptions=False)
    assert "dots" in told.output
    assert (out / "evaluation.json").is_file()
    words = ["analyze", str(tmp_path / "counting"), "--images", "16", "--batch", "8", "--only", "loss,trace"]
    RUNNER.invoke(app, [*words, "--device", "cpu", "--trust-builder"], catch_exceptions=False)
    assert (tmp_path / "counting" / "analysis.json").is_file()
    assert "images to counts, batch 16" in (tmp_path / "counting" / "report.html").read_text()
    assert "images to counts p50 / p95 (ms), batch 1 " in (tmp_path / "counting" / "summary.md").read_text()


@pytest.mark.slow
def test_it_is_swept(tmp_path: Path) -> None:
    (tmp_path / "counting.yaml").write_text(dump_yaml(tree()))
    sweep = {
        "name": "s",
        "recipe": "counting.yaml",
        "seeds": 1,
        "runs": {"a": {}, "b": {"set": {"fine_tune.epochs": 1}}},
    }
    (tmp_path / "sweep.yaml").write_text(dump_yaml(sweep))
    words = ["sweep", str(tmp_path / "sweep.yaml"), "--out", str(tmp_path / "runs"), "--trust-builder"]
    done = RUNNER.invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    cells = json.loads((tmp_path / "runs" / "s" / "sweep.json").read_text())["runs"]
    assert all(run["cells"] for run in cells.values())


def test_what_cannot_work_is_said_before_it_starts() -> None:
    class TwoOutputs(Counter):
        def forward(self, images: Tensor | list[Tensor]) -> Tensor:
            return super().forward(images).repeat(1, 2)

    task = CountingTask()
    with pytest.raises(AdasapError, match="fails on the first items"):
        task.check(TwoOutputs(), data().for_task(task))
    with pytest.raises(AdasapError, match="not of adasap"):
        parse_recipe(tree()).task.task_class()
