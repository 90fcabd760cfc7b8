"""An evaluation is kept as it comes, goes on where it was, refuses another's folder; two processes make it alike."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from adasap.cli import app
from adasap.data import DataSource
from adasap.errors import DataError, ModelError
from adasap.evaluation import Cell, EvaluationFolder, ImageSuite, SuiteSource, evaluate_suites, identity_of, open_suite
from adasap.experiments.name_suites import SuiteOptions
from adasap.models import ModelSpec, open_model
from adasap.tasks.classification.task import ClassificationTask
from ranks import run_ranks
from suite_trees import ReadsColour, arrays, corruption_folders, tree_of

CPU = torch.device("cpu")
TASK = ClassificationTask(mean=(0.0,) * 3, std=(1.0,) * 3)
RUNNER = CliRunner()


def call(*arguments: str) -> str:
    result = RUNNER.invoke(app, ["evaluate", *arguments], env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


class Counts(ReadsColour):
    """Knows how many images it has seen."""

    def __init__(self) -> None:
        super().__init__(10)
        self.seen = 0

    def forward(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return super().forward(images)


@pytest.fixture
def suite(tmp_path: Path) -> ImageSuite:
    arrays(tmp_path / "c", 10)
    return open_suite("c", SuiteSource("cifar10-c", path=str(tmp_path / "c"), corruptions=("fog", "snow")))


def run(model: nn.Module, suite: ImageSuite, path: Path) -> dict[str, dict[Cell, Any]]:
    return evaluate_suites(model, TASK, [suite], CPU, folder=EvaluationFolder(path, identity_of(model, TASK, [suite])))


def test_only_cells_that_are_not_there_are_computed(suite: ImageSuite, tmp_path: Path) -> None:
    first = run(Counts(), suite, tmp_path / "out")["c"]
    (tmp_path / "out" / "cells" / "c" / "snow-2.safetensors").unlink()
    model = Counts()
    again = run(model, suite, tmp_path / "out")["c"]
    assert model.seen == 4
    assert list(again) == list(first) == list(suite.cells)
    for cell, result in first.items():
        assert again[cell].metrics == result.metrics
        assert all(torch.equal(again[cell].records[name], kept) for name, kept in result.records.items())
        assert set(result.records) >= {"correct", "confidence", "loss"}


def test_a_folder_belongs_to_one_model_one_suite_and_one_set_of_options(suite: ImageSuite, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    identity = identity_of(model, TASK, [suite], batch=500)
    EvaluationFolder(tmp_path / "out", identity)
    EvaluationFolder(tmp_path / "out", identity_of(model, TASK, [suite], batch=500))
    others = {
        "model": identity_of(nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)), TASK, [suite], batch=500),
        "suite c": identity_of(model, TASK, [suite.sampled(2, seed=0)], batch=500),
        "batch": identity_of(model, TASK, [suite], batch=4),
        "task": identity_of(model, ClassificationTask(mean=(0.1,) * 3, std=(1.0,) * 3), [suite], batch=500),
    }
    for name, other in others.items():
        with pytest.raises(DataError, match=f"holds an evaluation with another {name}; give another --out"):
            EvaluationFolder(tmp_path / "out", other)


def test_other_pixels_at_the_same_place_are_another_suite(suite: ImageSuite, tmp_path: Path) -> None:
    before = identity_of(ReadsColour(10), TASK, [suite])
    assert identity_of(ReadsColour(10), TASK, [suite]) == before
    images = np.load(tmp_path / "c" / "snow.npy")
    images[-1] += 1
    np.save(tmp_path / "c" / "snow.npy", images)
    source = SuiteSource("cifar10-c", path=str(tmp_path / "c"), corruptions=("fog", "snow"))
    assert identity_of(ReadsColour(10), TASK, [open_suite("c", source)]) != before


def test_an_altered_cell_is_refused_and_one_that_is_cut_short_is_computed_again(
    suite: ImageSuite, tmp_path: Path
) -> None:
    first = run(ReadsColour(10), suite, tmp_path / "out")["c"]
    path, other = (tmp_path / "out" / "cells" / "c" / f"fog-{severity}.safetensors" for severity in (1, 2))
    whole = path.read_bytes()
    altered = whole[:-1] + bytes([whole[-1] ^ 1])
    for found, words in (
        (altered, r"fog-1\.safetensors was altered or damaged: .* remove it .*, and it is computed again"),
        (other.read_bytes(), "is not cell 'fog/1' of suite 'c' of this evaluation"),
    ):
        path.write_bytes(found)
        with pytest.raises(DataError, match=words):
            run(ReadsColour(10), suite, tmp_path / "out")
    for end in (0, 5, -5):
        path.write_bytes(whole[:end])
        folder = EvaluationFolder(tmp_path / "out", identity_of(ReadsColour(10), TASK, [suite]))
        again = evaluate_suites(ReadsColour(10), TASK, [suite], CPU, folder=folder)["c"]
        assert folder.notes == [f"{path} was empty or cut short; computed again"]
        assert again[Cell("fog", 1)].metrics == first[Cell("fog", 1)].metrics


def test_cells_of_an_earlier_version_are_refused(suite: ImageSuite, tmp_path: Path) -> None:
    run(ReadsColour(10), suite, tmp_path / "out")
    save_file({"scores": torch.ones(4)}, tmp_path / "out" / "cells" / "c" / "fog-1.safetensors", {"metrics": "{}"})
    with pytest.raises(DataError, match="carries no digest: an earlier version wrote it, or it was altered"):
        run(ReadsColour(10), suite, tmp_path / "out")


def test_settings_that_are_cut_short_do_not_unbind_a_folder(suite: ImageSuite, tmp_path: Path) -> None:
    run(ReadsColour(10), suite, tmp_path / "out")
    path = tmp_path / "out" / "settings.json"
    path.write_text(path.read_text()[:-20])
    with pytest.raises(DataError, match=r"no whole settings\.json|settings\.json is not valid JSON"):
        run(ReadsColour(10), suite, tmp_path / "out")


# The command line


def result_of(folder: Path) -> dict[str, Any]:
    """All but what differs between machines and moments."""
    result = json.loads((folder / "evaluation.json").read_text())
    return {key: value for key, value in result.items() if key not in ("timings", "environment")}


def test_several_suites_are_evaluated_and_what_they_saw_is_recorded(tmp_path: Path) -> None:
    tree_of("cifar10.1", tmp_path / "ten")
    arrays(tmp_path / "c", 10)
    suites = ("--suite", f"cifar10.1={tmp_path / 'ten'}", "--suite", "cifar10-c", "--data", str(tmp_path / "c"))
    means = ("--mean", "0.4", "0.5", "0.6", "--std", "0.2", "0.2", "0.2")
    text = call("adasap:digits_net", *suites, *means, "--corruptions", "fog", "--out", str(tmp_path / "out"))
    assert "cifar10.1: 6 images; the published set has 2,000" in text
    assert "in the model" in text
    result = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert result["preprocessing"]["mean"] == [0.4, 0.5, 0.6]
    assert result["preprocessing"]["input_size"] == [3, 32, 32]
    assert list(result["suites"]) == ["cifar10.1", "cifar10-c"]
    assert result["suites"]["cifar10-c"]["suite"]["corruptions"] == "as they are on disk"
    assert list(result["suites"]["cifar10-c"]["cells"]) == [f"fog/{s}" for s in range(1, 6)]
    assert 0 < result["timings"]["cifar10-c"]["model_share"] <= 1
    page = (tmp_path / "out" / "evaluation.md").read_text()
    assert "| mean of cifar10-c" in page
    assert "## Ratios to clean" in page
    assert "## Calibration and the worst class" in page


@pytest.mark.filterwarnings("ignore:bf16 is emulated")
def test_mixed_precision_is_said_and_has_a_folder_of_its_own(tmp_path: Path) -> None:
    what = ("adasap:digits_net", "--data", "digits:", "--count", "40", "--out", str(tmp_path / "out"))
    assert "bf16; numbers differ a little from those in float32" in call(*what, "--precision", "bf16")
    assert result_of(tmp_path / "out")["preprocessing"]["precision"] == "bf16"
    with pytest.raises(DataError, match="holds an evaluation with another precision; give another --out"):
        call(*what)


@pytest.mark.parametrize(
    ("model", "data", "score"),
    [
        (("adasap:unet", "--model-option", "width=4", "--size", "96"), "shape-masks:", "mIoU"),
        (
            ("adasap:ssd_mobilenet_v1", "--model-option", "image_size=128", "--model-option", "width=0.25"),
            "shapes:",
            "AP50",
        ),
    ],
)
def test_drawn_images_of_other_tasks_go_by_name(model: tuple[str, ...], data: str, score: str) -> None:
    assert score in call(*model, "--model-option", "num_classes=4", "--data", data, "--count", "2")


def test_limit_samples_and_says_so(tmp_path: Path) -> None:
    what = ("adasap:digits_net", "--data", "digits:", "--suite", "clean", "--suite", "corrupted", "--corruptions")
    text = call(*what, "gaussian_noise", "--limit", "40", "--seed", "3", "--out", str(tmp_path / "a"))
    assert "clean: a sample of 40 of 445 images, seed 3" in text
    assert "mean of corrupted (95 %: " in text
    suites = result_of(tmp_path / "a")["suites"]
    assert {len(s) for s in suites["corrupted"]["scores"].values()} == {40}
    assert suites["clean"]["interval"]["low"] <= suites["clean"]["mean"] <= suites["clean"]["interval"]["high"]
    with pytest.raises(DataError, match="with another suite clean, suite corrupted; give"):
        call(*what, "gaussian_noise", "--limit", "40", "--seed", "4", "--out", str(tmp_path / "a"))


def test_suites_of_the_command_line_say_what_they_want(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--suite imagenet-a wants class folders named by wnid; give --data or"):
        call("adasap:digits_net", "--suite", "imagenet-a")
    with pytest.raises(DataError, match=r"is laid out like no data set that is known: .*; wanted train/ and val/"):
        call("adasap:digits_net", "--suite", "corrupted", "--data", str(tmp_path))
    with pytest.raises(DataError, match="--suite clean is given twice"):
        call("adasap:digits_net", "--suite", "clean", "--suite", "clean", "--data", "digits:")
    with pytest.raises(ModelError, match="--model-option 'width' has no value; write it as KEY=VALUE"):
        call("adasap:digits_net", "--data", "digits:", "--model-option", "width")


def test_imagenet_suites_take_named_models_at_224(tmp_path: Path) -> None:
    tree_of("imagenet-val", tmp_path / "val")
    corruption_folders(tmp_path / "c", corruptions=("fog",))
    suites = ("--suite", f"imagenet-val={tmp_path / 'val'}", "--suite", f"imagenet-c={tmp_path / 'c'}")
    call("adasap:mobilenet_v1_tf", *suites, "--corruptions", "fog", "--severities", "2", "--out", str(tmp_path / "out"))
    suites_said = {name: s["suite"] for name, s in result_of(tmp_path / "out")["suites"].items()}
    assert (suites_said["imagenet-val"]["resize"], suites_said["imagenet-val"]["center_crop"]) == (256, 224)
    assert suites_said["imagenet-c"]["resize"] is None


# Killed, and shared out


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """An evaluation of 76 cells with weights from a file."""
    torch.manual_seed(0)
    save_file(open_model(ModelSpec("adasap:digits_net")).state_dict(), tmp_path / "weights.safetensors")
    arrays(tmp_path / "c", 10, count=60)
    images = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "clean.npz", images=images, labels=np.arange(60) % 10)
    suites = ["--suite", "clean", "--data", f"npz:{tmp_path / 'clean.npz'}"]
    weights = ["--weights", str(tmp_path / "weights.safetensors")]
    return [
        "evaluate",
        "adasap:digits_net",
        *weights,
        *suites,
        "--limit",
        "40",
        "--suite",
        f"cifar10-c={tmp_path / 'c'}",
    ]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def alone(arguments: list[str], out: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "adasap", *arguments, "--out", str(out)],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


SLOWLY = """
import time
from adasap.models import digits
forward = digits.DigitsNet.forward
digits.DigitsNet.forward = lambda self, x: (time.sleep(0.2), forward(self, x))[1]
from adasap.cli import main
main()
"""


@pytest.mark.slow
def test_an_evaluation_killed_at_any_moment_goes_on_to_the_same_numbers(arguments: list[str], tmp_path: Path) -> None:
    """Cells take 0.2 s; the process is killed some random time after a random number of further cells, five times."""
    alone(arguments, tmp_path / "whole")
    cells, draws, left = tmp_path / "killed" / "cells", random.Random(0), []
    for _ in range(5):
        enough = len(list(cells.rglob("*.safetensors"))) + draws.randrange(1, 12)
        slowly = [sys.executable, "-c", SLOWLY, *arguments, "--out", str(tmp_path / "killed")]
        process = subprocess.Popen(slowly, env=environment(), stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(cells.rglob("*.safetensors"))) < enough:
            time.sleep(0.01)
        time.sleep(0.3 * draws.random())
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        left.append(len(list(cells.rglob("*.safetensors"))))
    assert 0 < left[0] < left[-1] < 76
    alone(arguments, tmp_path / "killed")
    assert result_of(tmp_path / "killed") == result_of(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_make_the_numbers_of_one(arguments: list[str], tmp_path: Path) -> None:
    arguments += ["--suite", "corrupted", "--corruptions", "gaussian_noise"]
    alone(arguments, tmp_path / "one")
    printed = run_ranks("-m", "adasap", *arguments, "--out", tmp_path / "two", environment={"CUDA_VISIBLE_DEVICES": ""})
    assert printed.count("mean of clean") == 1  # the first process alone prints
    assert result_of(tmp_path / "two") == result_of(tmp_path / "one")


def test_a_folder_is_data_by_its_layout(tmp_path: Path) -> None:
    """As for `init` and `prune`; what is not there is named, with what can be given."""
    (tmp_path / "val" / "cat").mkdir(parents=True)
    assert SuiteOptions(split="val").data_source(str(tmp_path)) == DataSource("folder", str(tmp_path), split="val")
    for part in ("Train", "Test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / "pets" / part / name / "1.png")
    pets = str(tmp_path / "pets")
    assert SuiteOptions().data_source(pets) == DataSource("folder", pets, split="Test")
    assert SuiteOptions(split="Train").data_source(pets).split == "Train"
    (tmp_path / "pets" / "Train").rename(tmp_path / "pets" / "elsewhere")  # nothing to train on is needed
    assert SuiteOptions().data_source(pets).split == "Test"
    for part in ("train", "valid"):
        for kind in ("images", "masks"):
            (tmp_path / "roads" / kind / part).mkdir(parents=True)
    assert SuiteOptions().data_source(str(tmp_path / "roads")).split == "valid"
    for part in ("training", "testing"):
        (tmp_path / "tables" / f"{part}.csv").parent.mkdir(exist_ok=True)
        (tmp_path / "tables" / f"{part}.csv").write_text("path,label\n")
    table = str(tmp_path / "tables" / "testing.csv")
    assert SuiteOptions().data_source(str(tmp_path / "tables")) == DataSource("csv", table)
    (tmp_path / "test.npz").write_bytes(b"")
    assert SuiteOptions().data_source(str(tmp_path / "test.npz")).kind == "npz"
    words = (
        r"'photoz' is no data set: give a folder or file that is there, or write KIND:PATH with one of the kinds npz"
    )
    with pytest.raises(DataError, match=words):
        SuiteOptions().data_source("photoz")


def test_a_data_set_named_by_kind_and_path_serves_a_suite_of_that_kind(tmp_path: Path) -> None:
    options = SuiteOptions(f"cifar10.1:{tmp_path}")
    sources = options.sources(["clean", "cifar10.1"])
    assert sources["clean"].data == DataSource("cifar10.1", str(tmp_path))
    assert sources["cifar10.1"].path == str(tmp_path)
