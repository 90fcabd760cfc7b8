"""An exported file says what its model is: it is scored without another word, and boxes are found behind it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adasap
from adasap.data import DataSource, open_dataset
from adasap.errors import AdasapError, ExportError, ModelError
from adasap.evaluation import SuiteSource, open_suite
from adasap.experiments.exported_models import open_exported
from adasap.export import About, Calibration, Check, InItsRuntime, export_model
from adasap.export.about import ABOUT
from adasap.models import ModelSpec, open_model
from adasap.tasks.classification.task import ClassificationTask
from adasap.tasks.detection.models.detector import Detector
from detector_nets import SMALL, scenes, small_detector

SPEC = ModelSpec("adasap:digits_net", {"widths": [4, 8, 16]}, (3, 32, 32), (0.4, 0.5, 0.6), (0.5, 0.5, 0.5))
ABOUT_NET = About.of(SPEC, classes=tuple("abcdefghij"))
ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "executorch": ".pte"}
TARGETS = ["onnx", *(pytest.param(name, marks=pytest.mark.slow) for name in ("openvino", "executorch"))]
HALVES: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return open_model(SPEC).eval()


@pytest.fixture(scope="module")
def file(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(net, tmp_path_factory.mktemp("digits"), "onnx", (3, 32, 32), about=ABOUT_NET)


@pytest.fixture(scope="module")
def ssd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(small_detector("ssd_mobilenet_v1"), tmp_path_factory.mktemp("ssd"), "onnx", (3, 64, 64))


def exported(model: nn.Module, folder: Path, to: str, size: tuple[int, ...], **more: Any) -> Path:
    return export_model(model, torch.zeros(1, *size), folder / f"net{ENDINGS[to]}", to=to, **more).path


def retold(path: Path, folder: Path, **keys: Any) -> Path:
    """An ONNX file that says something else of its model."""
    import onnx

    model = onnx.load(path)
    (entry,) = (one for one in model.metadata_props if one.key == ABOUT)
    entry.value = json.dumps(json.loads(entry.value) | keys)
    onnx.save(model, folder / "retold.onnx")
    return folder / "retold.onnx"


@pytest.mark.parametrize("to", TARGETS)
def test_a_file_is_scored_without_another_word(net: nn.Module, file: Path, tmp_path: Path, to: str) -> None:
    path = file if to == "onnx" else exported(net, tmp_path, to, (3, 32, 32), about=ABOUT_NET)
    about = InItsRuntime(path).file.about
    assert about is not None
    assert (about.task, about.input_size, about.mean, about.std) == ("classification", (3, 32, 32), SPEC.mean, SPEC.std)
    assert (about.builder, about.options, about.classes[:2]) == (SPEC.builder, SPEC.options, ("a", "b"))
    alone = adasap.evaluate(path, "digits:", limit=20, classes=[str(n) for n in range(10)])
    assert alone["clean"].mean == adasap.evaluate(net, "digits:", limit=20)["clean"].mean
    assert "images are prepared as it says itself, by mean [0.4, 0.5, 0.6]" in str(alone.notes)
    assert "its outputs are taken for 0, 1, 2, 3, 4, 5, ..., though it says a, b, c" in str(alone.notes)


def test_what_is_given_counts_and_contradictions_are_said(net: nn.Module, file: Path, tmp_path: Path) -> None:
    names = [str(number) for number in range(10)]
    found = adasap.evaluate(file, "digits:", limit=20, classes=names, **HALVES)
    assert found.notes[0] == (
        "images are prepared by mean [0.5, 0.5, 0.5] and std [0.5, 0.5, 0.5], though it says [0.4, 0.5, 0.6] and "
        "[0.5, 0.5, 0.5]"
    )
    prepared = open_model(replace(SPEC, **HALVES)).eval()
    prepared.load_state_dict(net.state_dict())
    expected = adasap.evaluate(prepared, "digits:", limit=20)["clean"].metrics.values()
    for one, other in zip(found["clean"].metrics.values(), expected, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    beside = adasap.evaluate({"a": prepared, "b": file}, "digits:", limit=20, classes=names)
    said = "b: images are prepared as it says itself, by mean [0.4, 0.5, 0.6] and std [0.5, 0.5, 0.5], though a has"
    assert said in str(beside.notes)
    photos = [(torch.zeros(3, 32, 32, dtype=torch.uint8), 1)] * 4
    told = adasap.evaluate(retold(file, tmp_path, task="segmentation"), photos, task="classification")
    assert "it is scored by classification, though it says that it is for segmentation" in str(told.notes)


@pytest.mark.slow
def test_the_task_of_a_data_set_of_your_own_is_what_the_file_says(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = exported(nn.Conv2d(3, 4, 3, padding=1), tmp_path, "onnx", (3, 16, 16))
    photos = [(torch.zeros(3, 16, 16, dtype=torch.uint8), torch.zeros(16, 16, dtype=torch.uint8))] * 3
    assert "miou" in next(iter(adasap.evaluate(path, photos, **HALVES)["clean"].metrics.values()))


@pytest.mark.slow
@pytest.mark.parametrize("to", ENDINGS)
def test_int8_keeps_what_the_file_says(net: nn.Module, tmp_path: Path, to: str) -> None:
    task, digits = ClassificationTask(mean=SPEC.mean, std=SPEC.std), DataSource("digits")
    raw = torch.stack([open_dataset(digits, "train")[index][0] for index in range(16)])
    images = task.prepare((raw, torch.zeros(16, dtype=torch.long)), torch.device("cpu"))[0]
    suite = open_suite("clean", SuiteSource("clean", data=digits)).sampled(10, seed=0)
    int8 = Calibration(images, Check(task, [suite]), tolerance=1.0, seconds=0.0)
    written = InItsRuntime(exported(net, tmp_path, to, (3, 32, 32), int8=int8)).file
    assert written.numbers == "int8"
    assert written.about is not None
    assert (written.about.mean, written.about.builder) == (SPEC.mean, SPEC.builder)


# Detectors


def boxes_of(model: nn.Module, pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    with torch.no_grad():
        found: list[dict[str, Tensor]] = model(pictures)
    return found


def require_the_same(expected: list[dict[str, Tensor]], found: list[dict[str, Tensor]]) -> None:
    """Every box has its like, in any order: scores that are level to the last digits may swap places."""
    for one, other in zip(expected, found, strict=True):
        assert len(one["boxes"]) == len(other["boxes"]) > 0
        near = torch.cdist(one["boxes"], other["boxes"], p=torch.inf) < 1e-2
        near &= (one["scores"][:, None] - other["scores"]).abs() < 1e-3
        near &= one["labels"][:, None] == other["labels"]
        assert near.any(1).float().mean() > 0.98 < near.any(0).float().mean()


@pytest.mark.slow
@pytest.mark.parametrize("to", ENDINGS)
def test_boxes_of_a_file_are_those_of_its_detector(ssd: Path, tmp_path: Path, to: str) -> None:
    detector, pictures = small_detector("ssd_mobilenet_v1"), scenes()[0]
    path = ssd if to == "onnx" else exported(detector, tmp_path, to, (3, 64, 64))
    opened = open_exported(path, None)
    require_the_same(boxes_of(detector, pictures), boxes_of(opened.model, pictures))
    found = adasap.evaluate([detector, path], "shapes:", limit=6)
    assert found.models[path.name]["clean"].mean == pytest.approx(found["clean"].mean, abs=1e-3)
    alone = adasap.evaluate(path, "shapes:", limit=6)
    assert torch.equal(alone["clean"].per_image(), found.models[path.name]["clean"].per_image())


def with_its_first_weights(spec: ModelSpec) -> Detector:
    """As its builder draws it; norms have the statistics of noise."""
    torch.manual_seed(0)
    detector = open_model(spec).train()
    for module in detector.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        detector.get_submodule("backbone")(torch.randn(4, *spec.input_size or ()))
    return detector.eval()  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssd_resnet50", "ssdlite320", "retinanet", "fcos"])
def test_boxes_of_other_detectors(tmp_path: Path, name: str) -> None:
    spec, pictures = SMALL[name], scenes(1)[0]
    if name in ("retinanet", "fcos"):
        spec = replace(spec, options={"num_classes": 4, "fixed_size": [64, 64]})
    # drawn anew, SSDLite's hard swishes make differences of the last digit a thousand times as large
    detector = with_its_first_weights(spec) if name == "ssdlite320" else small_detector(name)
    if spec is not SMALL[name]:
        square = open_model(spec).eval()
        square.load_state_dict(detector.state_dict())
        detector = square  # type: ignore[assignment]
    assert spec.input_size is not None
    path = exported(detector, tmp_path, "onnx", spec.input_size)
    opened = open_exported(path, None)
    expected, found = boxes_of(detector, pictures), boxes_of(opened.model, pictures)
    require_the_same(expected, found)


@pytest.mark.slow
def test_where_a_files_boxes_cannot_be_found_a_sentence_says_so(tmp_path: Path) -> None:
    path = exported(small_detector("retinanet"), tmp_path, "onnx", (3, 64, 64))
    assert len(boxes_of(open_exported(path, None).model, [torch.randn(3, 64, 64)])) == 1
    wide = [torch.randn(3, 60, 90)]
    with pytest.raises(ExportError, match=r"takes images of 3 x 64 x 64, not .*fixed_size=\[64,64\]"):
        boxes_of(open_exported(path, None).model, wide)
    path = exported(small_detector("fasterrcnn"), tmp_path, "onnx", (3, 64, 64), fixed_batch=1)
    with pytest.raises(ModelError, match="reads the regions that its proposals choose"):
        open_exported(path, None)


@pytest.mark.slow
def test_a_file_of_a_strangers_builder_is_not_built_unless_trusted(ssd: Path, tmp_path: Path) -> None:
    strange = retold(ssd, tmp_path, builder="strange.module:detector")
    with pytest.raises(ModelError, match=r"asks to run 'strange\.module:detector'"):
        open_exported(strange, None)
    found = adasap.evaluate({"a": small_detector("ssd_mobilenet_v1"), "b": strange}, "shapes:", limit=2)
    assert found.comparison is not None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mean": "half"}, "adasap.model: mean"),
        ({"mean": [0.5, 0.5]}, "mean is"),
        ({"options": {"num_classes": 4, "image_size": "big"}}, "could not build"),
    ],
)
def test_what_a_damaged_file_says_is_a_sentence(ssd: Path, tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(AdasapError, match=message):
        open_exported(retold(ssd, tmp_path, **keys), None)
