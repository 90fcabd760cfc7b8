"""Detectors under corruption: what the cells hold, mPC and both rPC by hand, intervals, an evaluation that goes on."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner, Result

import adasap
from adasap.cli import app
from adasap.corruptions import corrupt
from adasap.data import DataSource, PreparationTime
from adasap.errors import DataError
from adasap.evaluation import (
    CLEAN,
    Cell,
    EvaluationFolder,
    Loading,
    SuiteResult,
    SuiteSource,
    evaluate_suites,
    identity_of,
)
from adasap.evaluation.statistics import bootstrap_mean
from adasap.export import kept_classes
from adasap.tasks.detection.corruption_metrics import bootstrap_map, class_performance, performance, ratio_interval
from adasap.tasks.detection.data.boxes import Target
from adasap.tasks.detection.data.sources import open_detection_dataset
from adasap.tasks.detection.matching import Detection, detection_records
from adasap.tasks.detection.metrics import detection_metrics, image_influences
from adasap.tasks.detection.report.detection_table import cell_table, detection_tables
from adasap.tasks.detection.suites import DetectionSuite, open_detection_suite
from adasap.tasks.detection.task import DetectionTask
from detection_trees import write_voc
from fake_detections import imperfect, random_targets
from suite_trees import by_cell

CPU = torch.device("cpu")
SCALE = {"mean": (0.0,) * 3, "std": (1.0,) * 3}


class ColourDetector(nn.Module):
    """Finds what it was told of each image by its size, the less surely the less colour is left."""

    def __init__(self, truth: dict[tuple[int, int], Target]) -> None:
        super().__init__()
        self.truth, self.calls = truth, 0
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images: list[Tensor]) -> list[Detection]:
        self.calls += 1
        return [self._detect(image) for image in images]

    def _detect(self, image: Tensor) -> Detection:
        target, spread = self.truth[tuple(image.shape[1:])], image.std()
        keep = int(len(target["labels"]) * min(1.0, 4 * float(spread)) + 0.5)
        scores = spread * torch.linspace(1, 0.9, keep)
        return {"boxes": target["boxes"][:keep], "labels": target["labels"][:keep], "scores": scores}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five images, the third without objects; their sizes differ."""
    from PIL import Image

    objects = {
        f"{number}": [("dog", (1, 1, 20, 20), False), ("cat", (5, 5, 30, 30), number == 1)] for number in range(5)
    }
    objects["2"] = []
    write_voc(tmp_path / "voc", objects)
    for number in range(5):
        path = tmp_path / "voc" / "JPEGImages" / f"{number}.jpg"
        Image.open(path).resize((48 + 2 * number, 40 + number)).save(path)
    return tmp_path / "voc"


def _suites(tree: Path) -> list[DetectionSuite]:
    data = DataSource("voc", str(tree))
    sources = [
        SuiteSource("clean", data),
        SuiteSource("corrupted", data, corruptions=("contrast", "gaussian_noise"), severities=(2, 5)),
    ]
    return [open_detection_suite(source.kind, source) for source in sources]


def _detector(suite: DetectionSuite) -> ColourDetector:
    pairs = [suite.images[index] for index in range(len(suite.images))]
    return ColourDetector({tuple(image.shape[1:]): target for image, target in pairs})


def test_each_image_is_corrupted_at_its_own_size_with_its_own_index_as_seed(tree: Path) -> None:
    clean, corrupted = _suites(tree)
    assert list(map(str, corrupted.cells)) == ["contrast/2", "contrast/5", "gaussian_noise/2", "gaussian_noise/5"]
    assert clean.record["findings"] == "1 images without objects, kept (2)"
    spent = PreparationTime()
    for loading in (Loading(batch_size=2), Loading(batch_size=3, num_workers=1)):
        batches = list(corrupted.batches(Cell("gaussian_noise", 5), CPU, loading, spent))
        images = [image for batch in batches for image in batch.images]
        targets = [target for batch in batches for target in batch.targets]
        for index in range(5):
            image, target = clean.images[index]
            wanted = corrupt(image[None], "gaussian_noise", 5, seeds=torch.tensor([index]))[0]
            assert torch.equal(images[index], wanted)
            assert torch.equal(targets[index]["boxes"], target["boxes"])
    assert spent.transform > 0
    some = corrupted.sampled(2, seed=1)
    (batch,) = some.batches(Cell("gaussian_noise", 5), CPU, Loading(), PreparationTime())
    for image, target in zip(batch.images, batch.targets, strict=True):
        assert torch.equal(image, images[target["image_id"]])  # the draws that it has among all


def test_an_evaluation_goes_on_cell_by_cell_and_knows_what_it_belongs_to(tree: Path, tmp_path: Path) -> None:
    suites = _suites(tree)
    model, task = _detector(suites[0]), DetectionTask(**SCALE, classes=suites[0].images.classes)
    folder = EvaluationFolder(tmp_path / "out", identity_of(model, task, suites))
    whole = evaluate_suites(model, task, suites, CPU, folder=folder)
    assert whole["clean"][CLEAN].metrics["map50"] > whole["corrupted"][Cell("contrast", 5)].metrics["map50"]
    calls = model.calls
    (tmp_path / "out" / "cells" / "corrupted" / "contrast-5.safetensors").unlink()
    folder = EvaluationFolder(tmp_path / "out", identity_of(model, task, suites))
    again = evaluate_suites(model, task, suites, CPU, folder=folder)
    assert model.calls == calls + 1  # five images are one batch
    for suite, cells in whole.items():
        for cell, result in cells.items():
            assert again[suite][cell].metrics == result.metrics
            assert torch.equal(again[suite][cell].scores, result.scores)
            assert again[suite][cell].records.keys() == result.records.keys()
    fewer = [suite.sampled(2, seed=0) for suite in suites]
    with pytest.raises(DataError, match="another suite clean"):
        EvaluationFolder(tmp_path / "out", identity_of(model, task, fewer))


def _result(name: str, cells: dict[str, tuple[float, float]]) -> SuiteResult:
    metrics = {cell: {"map50": (a + b) / 2, "ap50:a": a, "ap50:b": b} for cell, (a, b) in cells.items()}
    return SuiteResult(name, {cell: torch.zeros(1) for cell in by_cell(cells)}, by_cell(metrics))


def test_both_definitions_of_relative_performance_by_hand() -> None:
    clean = _result("clean", {"clean": (0.8, 0.2)})
    cells = {"fog/1": (0.8, 0.2), "fog/2": (0.4, 0.0), "snow/1": (0.4, 0.2), "snow/2": (0.0, 0.0)}
    corrupted = _result("corrupted", cells)
    found = performance(clean, corrupted, ["fog", "snow"])
    assert found.clean == 0.5
    assert found.corrupted == pytest.approx((0.5 + 0.2 + 0.3 + 0) / 4)
    assert found.ratio_of_means == pytest.approx(0.25 / 0.5)
    # a: mean 0.4 of 0.8; b: mean 0.1 of 0.2
    assert found.mean_of_class_ratios == pytest.approx((0.5 + 0.5) / 2)
    by_class = class_performance(clean, corrupted, ["fog"])
    assert by_class["a"] == pytest.approx((0.8, 0.6))
    assert by_class["b"] == pytest.approx((0.2, 0.1))
    only_fog = performance(clean, corrupted, ["fog"])
    assert only_fog.ratio_of_means == pytest.approx(0.35 / 0.5)
    assert only_fog.mean_of_class_ratios == pytest.approx((0.6 / 0.8 + 0.1 / 0.2) / 2)  # 0.625, not 0.7
    without = performance(_result("clean", {"clean": (0.8, 0.0)}), corrupted, ["fog"])
    assert without.mean_of_class_ratios == pytest.approx(0.6 / 0.8)
    nothing = performance(_result("clean", {"clean": (0.0, 0.0)}), corrupted, ["fog"])
    assert math.isnan(nothing.ratio_of_means)
    assert nothing.mean_of_class_ratios is None
    with pytest.raises(ValueError, match="severities differ"):
        performance(clean, _result("corrupted", {"fog/1": (1, 1), "snow/2": (1, 1)}), ["fog", "snow"])


def _cells() -> list[dict[str, Tensor]]:
    targets = random_targets(120, 3, seed=0)
    shifts = (6.0, 14.0, 20.0)
    made = [[imperfect(t, 3, seed=row, shift=shift) for row, t in enumerate(targets)] for shift in shifts]
    return [detection_records(detections, targets, 3) for detections in made]


def test_the_linear_interval_is_that_of_whole_resamples() -> None:
    cells = _cells()
    whole = bootstrap_map(cells, resamples=400)
    linear = bootstrap_mean(torch.stack([image_influences(records) for records in cells]).mean(dim=0))
    values = [detection_metrics(records, ["a", "b", "c"])["map50"] for records in cells]
    assert whole.value == pytest.approx(sum(values) / 3)
    assert linear.value == pytest.approx(whole.value)
    width = whole.high - whole.low
    assert 0.02 < width < 0.3
    assert linear.high - linear.low == pytest.approx(width, rel=0.15)
    assert linear.low == pytest.approx(whole.low, abs=0.3 * width)
    assert linear.high == pytest.approx(whole.high, abs=0.3 * width)
    with pytest.raises(ValueError, match="same images"):
        bootstrap_map([cells[0], detection_records([], [], 3)])


def test_the_ratio_has_the_interval_of_its_resampled_terms() -> None:
    clean, *corrupted = (image_influences(records) for records in _cells())
    after = torch.stack(corrupted).mean(dim=0)
    found = ratio_interval(clean, after)
    assert found.value == pytest.approx((after.mean() / clean.mean()).item())
    drawn = torch.randint(len(clean), (4000, len(clean)), generator=torch.Generator().manual_seed(1))
    ratios = after[drawn].mean(1) / clean[drawn].mean(1)
    low, high = ratios.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert found.low == pytest.approx(low, abs=0.1 * (high - low))
    assert found.high == pytest.approx(high, abs=0.1 * (high - low))


def test_suites_of_labelled_images_are_refused(tree: Path) -> None:
    with pytest.raises(DataError, match="holds images with labels"):
        open_detection_suite("x", SuiteSource("cifar10-c", path="somewhere"))
    with pytest.raises(DataError, match="names no data"):
        open_detection_suite("x", SuiteSource("clean"))
    with pytest.raises(DataError, match="no boxes"):
        open_detection_suite("x", SuiteSource("clean", DataSource("digits")))
    with pytest.raises(DataError, match="there is no corruption 'foggy'"):
        open_detection_suite("x", SuiteSource("corrupted", DataSource("voc", str(tree)), corruptions=("foggy",)))
    own = open_detection_dataset(DataSource("voc", str(tree)), "test")
    assert open_detection_suite("x", SuiteSource("clean"), own).images is own


SMALL = ["adasap:ssd_mobilenet_v1", "--model-option", "image_size=64", "--model-option", "width=0.25", "--size", "64"]


def _evaluate(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["evaluate", *SMALL, *arguments], env={"COLUMNS": "200"})


@pytest.mark.slow
def test_the_command_line_evaluates_a_detector_and_goes_on(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["--data", f"voc:{tree}", "--suite", "clean", "--suite", "corrupted", "--corruptions", "fog"]
    command += ["--severities", "1", "--limit", "4", "--out", str(out), "--model-option", "num_classes=21"]
    first = _evaluate(*command)
    assert first.exit_code == 0, first.output
    assert "20 classes; 1 images without objects, kept (2)" in first.output
    assert "a sample of 4 of 5 images" in first.output
    written = json.loads((out / "evaluation.json").read_text())
    cells = written["suites"]["corrupted"]["cells"]
    assert {"map50", "map50_11point", "ap50:dog", "ap50:cat"} < cells["fog/1"].keys()
    assert "rPC, mean of the classes' ratios" in (out / "evaluation.md").read_text()
    times = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/*")}
    assert len(times) == 2
    assert _evaluate(*command).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    few = _evaluate("--data", f"voc:{tree}", "--model-option", "num_classes=3")
    assert isinstance(few.exception, DataError)
    assert "20 classes" in str(few.exception)
    assert "answers with 2" in str(few.exception)


@pytest.mark.slow
def test_labels_are_numbered_as_the_model_file_says(tree: Path, tmp_path: Path) -> None:
    options = {"num_classes": 3, "image_size": 64, "width": 0.25}
    spec = adasap.ModelSpec("adasap:ssd_mobilenet_v1", options, (3, 64, 64))

    def labels(*classes: str) -> list[int]:
        adasap.save(tmp_path / "model", adasap.open_model(spec), spec=spec, metadata={"classes": classes})
        source = SuiteSource("clean", DataSource("voc", str(tree)))
        names = kept_classes(tmp_path / "model")
        assert names == classes
        return open_detection_suite("clean", source, classes=names).images.annotations.labels.tolist()

    command = ["evaluate", str(tmp_path / "model"), "--data", f"voc:{tree}"]
    assert labels("dog", "cat") == [1, 2] * 4
    assert labels("cat", "dog") == [2, 1] * 4
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    assert "2 classes" in run.output
    with pytest.raises(DataError, match=r"does not know: cat, dog \(2\); the model has: zebra, gnu"):
        labels("zebra", "gnu")
    assert "does not know: cat, dog" in str(CliRunner().invoke(app, command).exception)
    with pytest.raises(DataError, match=r"does not know: dog"):
        labels("cat", "gnu")
    only = CliRunner().invoke(app, [*command, "--classes", "cat"])
    assert only.exit_code == 0, only.output
    assert "objects of classes that were not asked for, left out" in only.output
    assert "no image of 1 of the 2 classes of the model: gnu" in " ".join(only.output.split())


def test_tables_say_what_the_functions_say() -> None:
    clean, cells = _result("clean", {"clean": (0.8, 0.2)}), {"fog/1": (0.8, 0.2), "fog/2": (0.4, 0.0)}
    results = {"clean": clean, "corrupted": _result("corrupted", cells)}
    for result in results.values():
        for cell, metrics in result.metrics.items():
            result.cells[cell] = torch.full((2,), metrics["map50"])
            metrics["map50_11point"] = metrics["map50"]
    assert str(cell_table(results)).splitlines()[4:] == [
        "| fog | 35.00 | 35.00 | 1: 50.0, 2: 20.0 |",
        "| mean of corrupted (95 %: 35.00 to 35.00) | 35.00 |  |  |",
    ]
    performances, by_class = detection_tables({"a": results}).values()
    ends = ("50.00 (50.0 to 50.0)", "35.00 (35.0 to 35.0)", "70.00 (70.0 to 70.0)", "62.50")
    assert performances.rows[0] == ["AP50", *ends]
    assert by_class.rows == [["a", "80.0", "60.0", "75.0"], ["b", "20.0", "10.0", "50.0"]]
