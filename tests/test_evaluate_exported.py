"""Exported files are scored in their own runtime: to the model's answers, at any batch size, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from onnx import load, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from torch import nn

import adasap
from adasap.errors import DataError, ExportError, ModelError
from adasap.export import RUNTIMES, InItsRuntime, RuntimeFile, export_model
from adasap.models import ModelSpec, open_model

ASKED: dict[str, Any] = {"corruptions": ["contrast"], "severities": [1], "limit": 30}
HALVES: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
SPEC = ModelSpec("adasap:digits_net", {"widths": [4, 8, 16]}, input_size=(3, 32, 32), **HALVES)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return open_model(SPEC).eval()


@pytest.fixture(scope="module")
def onnx(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    export_model(net, torch.zeros(1, 3, 32, 32), path, to="onnx")
    return path


def openvino_of(onnx: Path) -> Path:
    openvino = pytest.importorskip("openvino")
    path = onnx.with_suffix(".xml")
    openvino.save_model(openvino.convert_model(onnx), path, compress_to_fp16=False)
    return path


FILES: dict[str, Callable[[Path], Path]] = {"onnx": lambda onnx: onnx, "openvino": openvino_of}


@pytest.mark.slow
@pytest.mark.parametrize("runtime", FILES)
def test_a_file_has_the_scores_of_its_model_on_every_suite(runtime: str, net: nn.Module, onnx: Path) -> None:
    path = FILES[runtime](onnx)
    found = adasap.evaluate([net, path], "digits:", ["clean", "corrupted"], batch=7, **ASKED)
    of_file = found.models[path.name]
    for suite in ("clean", "corrupted"):
        for cell, metrics in found[suite].metrics.items():
            assert of_file[suite].metrics[cell]["accuracy"] == metrics["accuracy"]
            assert of_file[suite].metrics[cell]["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    how = "it says itself" if runtime == "onnx" else "for DigitsNet"
    assert f"{path.name}: images are prepared as {how}, by mean [0.5, 0.5, 0.5]" in str(found.notes)
    assert InItsRuntime(path).file.numbers == "float32"


def test_a_file_of_one_batch_size_takes_any(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    export_model(net, torch.zeros(1, 3, 8, 8), tmp_path / "two.onnx", to="onnx", fixed_batch=2)
    module, images = InItsRuntime(tmp_path / "two.onnx"), torch.randn(5, 3, 8, 8)
    assert module.file.input_shape == (2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(module(images), net(images), rtol=1e-4, atol=1e-4)


def test_an_evaluation_of_a_file_is_bound_to_what_is_in_it(net: nn.Module, onnx: Path, tmp_path: Path) -> None:
    path, out = tmp_path / "small.onnx", tmp_path / "out"
    path.write_bytes(onnx.read_bytes())
    adasap.evaluate(path, "digits:", out=out, limit=20, **HALVES)
    adasap.evaluate(path, "digits:", out=out, limit=20, **HALVES)
    changed = load(path)
    weights = changed.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + 1, weights.name))
    path.write_bytes(changed.SerializeToString())
    with pytest.raises(DataError, match="holds an evaluation with another model"):
        adasap.evaluate(path, "digits:", out=out, limit=20, **HALVES)


def test_without_a_word_about_preparation_a_file_is_refused(onnx: Path, tmp_path: Path) -> None:
    silent, model = tmp_path / "small.onnx", load(onnx)
    del model.metadata_props[:]
    silent.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"small\.onnx does not say how its images are prepared; give --mean"):
        adasap.evaluate(silent, "digits:", limit=10)
    with pytest.raises(ModelError, match="leave --precision bf16 out"):
        adasap.evaluate(onnx, "digits:", limit=10, precision="bf16", **HALVES)


def test_files_that_nothing_runs_or_that_are_damaged_are_refused(onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "a.tflite").write_bytes(b"TFL3")
    with pytest.raises(ExportError, match=r"nothing here runs \.tflite files; those of \.onnx, \.xml, \.pte are eval"):
        adasap.evaluate(tmp_path / "a.tflite", "digits:", limit=10, **HALVES)
    (tmp_path / "half.onnx").write_bytes(onnx.read_bytes()[:500])
    with pytest.raises(ExportError, match=r"half\.onnx cannot be opened \(.*; export it again"):
        adasap.evaluate(tmp_path / "half.onnx", "digits:", limit=10, **HALVES)
    with pytest.raises(ExportError, match=r"no\.onnx does not exist"):
        adasap.evaluate(tmp_path / "no.onnx", "digits:", limit=10, **HALVES)
    with pytest.raises(ExportError, match="takes images of 3 x 32 x 32, not 3 x 16 x 16"):
        InItsRuntime(onnx)(torch.zeros(1, 3, 16, 16))
    with pytest.raises(ExportError, match="is not known to be a detector's, so nothing finds boxes"):
        InItsRuntime(onnx)([torch.zeros(3, 32, 32)])


def test_a_runtime_that_is_not_installed_names_its_extra(onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"small\.onnx needs onnxruntime: pip install 'adasap\[onnx\]'"):
        InItsRuntime(onnx)


@pytest.mark.usefixtures("registered_for_a_test")
def test_a_runtime_of_your_own(tmp_path: Path) -> None:
    def open_weights(path: Path) -> RuntimeFile:
        weights = torch.tensor([float(word) for word in path.read_text().split()])
        return RuntimeFile(
            "mine", lambda images: [images.mean(dim=(1, 2, 3))[:, None] * weights], (1, None, None, None)
        )

    RUNTIMES.register(".words", open_weights)
    (tmp_path / "a.words").write_text("1 2 3 4 5 6 7 8 9 10")
    found = adasap.evaluate(str(tmp_path / "a.words"), "digits:", limit=20, size=32, mean=(0.0,) * 3, std=(1.0,) * 3)
    assert 0 <= found["clean"].mean < 0.5


def test_the_page_shows_what_files_need_and_what_each_kind_of_corruption_takes(
    net: nn.Module, onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adasap.experiments.evaluate_several.DEPLOYMENT_SECONDS", 0.0)
    quantize_dynamic(onnx, tmp_path / "int8.onnx")
    asked = {**ASKED, "corruptions": ["contrast", "brightness"]}
    adasap.evaluate(
        [net, onnx, tmp_path / "int8.onnx"], "digits:", ["clean", "corrupted"], out=tmp_path / "out", **asked
    )
    data = json.loads((tmp_path / "out" / "report.json").read_text())["models"]
    found = {name: model["deployment"] for name, model in data.items()}
    kinds = [(one["runtime"], one["numbers"]) for one in found.values()]
    assert kinds == [("torch", "float32"), ("onnxruntime", "float32"), ("onnxruntime", "int8")]
    sizes = {name: one["size_mb"] * 1e6 for name, one in found.items()}
    assert sizes["small.onnx"] == pytest.approx(onnx.stat().st_size)
    assert sizes["int8.onnx"] < sizes["small.onnx"]
    assert all(one["latency"]["p50_ms"] > 0 for one in found.values())
    page, summary = ((tmp_path / "out" / name).read_text() for name in ("report.html", "summary.md"))
    assert 'id="part-deployment"' in page
    (header,) = (line for line in summary.splitlines() if line.startswith("| model | weather"))
    assert header == "| model | weather (%) | digital (%) |"
    (same,) = (line for line in summary.splitlines() if line.startswith("| small.onnx") and line.count(", ") == 2)
    assert same.count(", +0.0 (+0.0 to +0.0)") == 2


def test_without_a_file_nothing_is_said_of_deployment(net: nn.Module, tmp_path: Path) -> None:
    found = adasap.evaluate({"a": net, "b": net}, "digits:", limit=10, out=tmp_path, **HALVES)
    assert found.comparison is not None
    assert {model.deployment for model in found.comparison.models} == {None}
    assert "part-deployment" not in (tmp_path / "report.html").read_text()


@pytest.mark.slow
def test_masks_of_a_file_are_those_of_its_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3, padding=1)
    export_model(net, torch.zeros(1, 3, 96, 96), tmp_path / "masks.onnx", to="onnx")
    found = adasap.evaluate([net, tmp_path / "masks.onnx"], "shape-masks:", limit=2, size=96, **HALVES)
    assert found.models["masks.onnx"]["clean"].mean == pytest.approx(found["clean"].mean, abs=1e-4)
