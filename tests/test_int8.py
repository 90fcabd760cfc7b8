"""Files of INT8 are scored in their runtime before they are kept, and what they lose is said."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

import adasap
from adasap import processor
from adasap.cli import app
from adasap.data import DataSource, open_dataset
from adasap.errors import AdasapError, ExportError
from adasap.evaluation import SuiteSource, open_suite
from adasap.experiments.export_options import Int8Options
from adasap.experiments.int8 import open_calibration
from adasap.experiments.name_models import open_any
from adasap.export import Calibration, Check, Int8LossError, export_model
from adasap.export.int8_check import score_suite
from adasap.export.int8_suspicions import suspicions
from adasap.export.openvino_core import openvino_core
from adasap.export.runtimes import InItsRuntime, RuntimeFile
from adasap.export.targets import Onnx
from adasap.io import staged_write
from adasap.models import ModelSpec, open_model
from adasap.tasks.classification.task import ClassificationTask

SPEC = ModelSpec("adasap:digits_net")
TASK = ClassificationTask(mean=SPEC.mean, std=SPEC.std)
SOURCE = DataSource("digits")


def prepared(split: str, count: int) -> tuple[Tensor, Tensor]:
    data = open_dataset(SOURCE, split)
    images = torch.stack([data[index][0] for index in range(count)])
    return TASK.prepare((images, data.labels[:count]), torch.device("cpu"))[:2]  # type: ignore[return-value]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """Trained for some steps, so that most digits are recognised."""
    torch.manual_seed(0)
    net, (images, labels) = open_model(SPEC).train(), prepared("train", 768)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(36):
        rows = slice(64 * (step % 12), 64 * (step % 12) + 64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def check() -> Check:
    clean = open_suite("clean", SuiteSource("clean", data=SOURCE))
    corrupted = SuiteSource("corrupted", data=SOURCE, corruptions=("fog", "gaussian_noise"), severities=(3,))
    suites = [clean, open_suite("corrupted", corrupted)]
    return Check(TASK, [suite.sampled(100, seed=0) for suite in suites])


@pytest.fixture(scope="module")
def calibration(check: Check) -> Calibration:
    return Calibration(prepared("train", 64)[0], check, seconds=0.0, tolerance=0.15, about={"seed": 0})


def answers(path: Path, images: Tensor) -> Tensor:
    """Of a file, by its runtime alone."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]).argmax(1)
    if path.suffix == ".pte":
        from executorch.runtime import Runtime

        forward = Runtime.get().load_program(path).load_method("forward")
        return torch.cat([forward.execute([image[None]])[0] for image in images]).argmax(1)
    return torch.from_numpy(openvino_core().compile_model(path, "CPU")([images.numpy()])[0]).argmax(1)


def weights_of(path: Path) -> list[np.ndarray]:
    import onnx

    found = [onnx.numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer]
    return [array for array in found if array.dtype == np.int8 and array.ndim >= 2]


def scales_of(path: Path) -> list[int]:
    """How many scales each tensor has."""
    import onnx

    return [onnx.numpy_helper.to_array(one).size for one in onnx.load(path).graph.initializer if "_scale" in one.name]


@pytest.mark.slow
@pytest.mark.parametrize(("to", "name"), [("onnx", "net.onnx"), ("openvino", "net.xml"), ("executorch", "net.pte")])
def test_an_int8_file_is_scored_in_its_runtime(
    net: nn.Module, calibration: Calibration, tmp_path: Path, to: str, name: str
) -> None:
    file = export_model(net, torch.zeros(1, 3, 32, 32), tmp_path / name, to=to, int8=calibration)
    assert file.int8 is not None
    clean = file.int8.suites["clean"]
    suite = calibration.check.suites[0]
    batch = next(iter(suite.batches(suite.cells[0], torch.device("cpu"), calibration.check.loading, spent())))
    images, labels = TASK.prepare(batch, torch.device("cpu"))[:2]
    found = answers(file.path, images)
    assert clean.int8_score == pytest.approx(float((found == labels).float().mean()))
    with torch.no_grad():
        plain = net(images).argmax(1)
    assert clean.float_score == pytest.approx(float((plain == labels).float().mean()), abs=0.011)
    assert clean.float_score > 0.7
    assert clean.agreement == pytest.approx(float((found == plain).float().mean()), abs=0.011)
    assert clean.change.low <= clean.int8_score - clean.float_score <= clean.change.high
    assert set(file.int8.suites["corrupted"].by_corruption) == {"fog", "gaussian_noise"}
    plain_mb, int8_mb = file.int8.size_mb
    assert int8_mb == file.size_mb == sum(p.stat().st_size for p in tmp_path.iterdir()) / 1e6
    assert 8 * file.int8.settings["calibration_images"] == 512
    assert int8_mb < plain_mb
    assert [one.batch_size for one, _ in file.int8.latency] == ([1] if to == "executorch" else [1, 16])
    assert "| clean |" in str(file.int8)
    recorded = path_settings(file.path)
    assert recorded["seed"] == 0
    assert recorded == dict(file.int8.settings)


def spent() -> Any:
    from adasap.data import PreparationTime

    return PreparationTime()


def path_settings(path: Path) -> dict[str, Any]:
    """What a file says of how it was made."""
    if path.suffix == ".onnx":
        import onnx

        found: dict[str, Any] = json.loads({p.key: p.value for p in onnx.load(path).metadata_props}["adasap.int8"])
        return found
    if path.suffix == ".pte":
        from executorch.runtime import Runtime

        kept: dict[str, Any] = json.loads(Runtime.get().load_program(path).load_method("adasap.int8").execute([])[0])
        return kept
    read: dict[str, Any] = json.loads(openvino_core().read_model(path).get_rt_info(["adasap", "int8"]).value)
    return read


@pytest.mark.slow
def test_a_broken_calibration_keeps_no_file_unless_forced(
    net: nn.Module, calibration: Calibration, tmp_path: Path
) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"older")
    broken = replace(calibration, images=torch.full((16, 3, 32, 32), 0.01))
    with pytest.raises(Int8LossError, match=r"loses .*; next try: more of them.*--force keeps it") as refused:
        export_model(net, torch.zeros(1, 3, 32, 32), path, to="onnx", int8=broken)
    assert refused.value.report.worst[1] > 0.2
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]
    file = export_model(net, torch.zeros(1, 3, 32, 32), path, to="onnx", int8=replace(broken, force=True))
    assert file.int8 is not None
    assert not file.int8.is_tolerable
    assert len(path.read_bytes()) > 1000


@pytest.mark.slow
def test_the_processor_decides_the_range_and_channels_the_scales(
    net: nn.Module, calibration: Calibration, tmp_path: Path
) -> None:
    export_model(net, torch.zeros(1, 3, 32, 32), tmp_path / "net.onnx", to="onnx")
    found = {}
    for name, keys in {"avx2": {}, "vnni": {}, "arm": {"per_channel": False}}.items():
        given: Any = {"processor": name, **keys}
        settings = Onnx().quantise(net, tmp_path / "net.onnx", tmp_path / name, replace(calibration, **given), None)
        found[name] = [int(np.abs(array.astype(int)).max()) for array in weights_of(tmp_path / name)]
        assert settings["reduce_range"] == (name == "avx2")
    assert max(found["avx2"]) <= 64
    assert max(found["vnni"]) > 120
    assert max(found["arm"]) > 120
    scales = {name: scales_of(tmp_path / name) for name in found}
    assert max(scales["vnni"]) == 64
    assert max(scales["arm"]) == 1


def test_an_x86_processor_without_vnni_saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    read = Path.read_text
    flags = {"text": "flags\t: fpu avx2 fma"}

    def fake(path: Path, *args: Any, **keys: Any) -> str:
        return flags["text"] if str(path) == "/proc/cpuinfo" else read(path, *args, **keys)

    monkeypatch.setattr(Path, "read_text", fake)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert processor.saturates_int8()
    for flag in ("avx_vnni", "avx512_vnni"):
        flags["text"] = f"flags\t: fpu avx2 {flag} fma"
        assert not processor.saturates_int8()
    flags["text"] = "flags\t: fpu avx2"
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert not processor.saturates_int8()


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1, groups=3, bias=False)
        self.last = nn.Conv2d(3, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        mean: Tensor = self.last(self.first(images)).mean((2, 3))
        return mean


def test_suspicions_name_the_layer_and_the_next_try(calibration: Calibration) -> None:
    net, images = Depthwise().eval(), torch.rand(8, 3, 32, 32)
    given = replace(calibration, images=images, processor="vnni")
    assert suspicions(net, given, "onnx") == (
        "no usual suspicion; next try: --to openvino, or more calibration images",
    )
    (said,) = suspicions(net, replace(given, processor="avx2", reduce_range=False), "onnx")
    assert "suspicion: saturation" in said
    (said,) = suspicions(net, replace(given, per_channel=False), "openvino")
    assert "1 depthwise convolutions such as first; next try: per channel" in said
    net.first.weight.data[0] *= 0
    net.first.weight.data[0, 0, 0, 0] = 100.0
    spiked = images.clone()
    spiked[:, 0] = 0
    spiked[0, 0, 0, 0] = 1.0
    (said,) = suspicions(net, replace(given, images=spiked), "onnx")
    assert "suspicion: outliers, for last reads values up to 100" in said
    (said,) = suspicions(net, given, "onnx", checked=9 * images)
    assert " reads values up to 11 % of those that it reads of the checked images" in said


def test_a_detector_finds_its_boxes_from_what_the_file_computes() -> None:
    torch.manual_seed(0)
    options = {"num_classes": 4, "image_size": 64, "width": 0.25}
    detector = open_model(ModelSpec("adasap:ssd_mobilenet_v1", options)).eval()
    files = []
    for shift in (0.0, 1.0):

        def run(images: Tensor, shift: float = shift) -> list[Tensor]:
            return [one + shift * torch.arange(one.shape[-1]) for one in detector(images).values()]

        files.append(InItsRuntime(RuntimeFile("torch", run, (None, 3, 64, 64)), detector))
    photos = [torch.randn(3, 80, 50), torch.randn(3, 64, 64)]
    files[0].answers = []
    with torch.no_grad():
        expected, found, shifted = (model(photos) for model in (detector, *files))
    for one, other in zip(expected, found, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
    assert not torch.equal(expected[0]["scores"], shifted[0]["scores"])
    assert files[0].answers[0].shape == (2, len(detector.default_boxes))  # type: ignore[arg-type]


def test_a_file_of_one_batch_size_is_filled_up() -> None:
    net, sizes = nn.Flatten(), []

    def run(images: Tensor) -> list[Tensor]:
        sizes.append(len(images))
        return [net(images)]

    model, images = InItsRuntime(RuntimeFile("torch", run, (4, 1, 2, 2))), torch.randn(6, 1, 2, 2)
    assert torch.equal(model(images), images.flatten(1))
    assert sizes == [4, 4]
    with pytest.raises(ExportError, match="takes images of 1 x 2 x 2, not 1 x 3 x 3"):
        model(torch.zeros(1, 1, 3, 3))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "size"),
    [
        (ModelSpec("adasap:ssd_mobilenet_v1", {"num_classes": 4, "image_size": 64, "width": 0.25}), "shapes:", 64),
        (ModelSpec("adasap:unet", {"num_classes": 4}, (3, 96, 96)), "shape-masks:", 96),
    ],
)
def test_calibration_images_are_what_the_traced_part_reads(model: ModelSpec, data: str, size: int) -> None:
    opened = open_any(model)
    int8, said = open_calibration(opened, Int8Options(calibrate=data, images=5, limit=3))
    assert int8.images.shape == (5, 3, size, size)
    assert {suite.name: len(suite.cells) for suite in int8.check.suites} == {"clean": 1, "corrupted": 15}
    assert "calibrated by 5 training images" in said[-1]
    file = RuntimeFile("torch", lambda images: tree_leaves(opened.model(images)), (None, *int8.images.shape[1:]))
    run = InItsRuntime(file, opened.model)
    loss = score_suite({"float": run, "INT8": run}, int8.check, int8.check.suites[0])
    assert (loss.change.value, loss.agreement, loss.num_images) == (0.0, 1.0, 3)


@pytest.mark.slow
def test_the_command_line_quantises_and_prints_what_is_lost(net: nn.Module, tmp_path: Path) -> None:
    weights, out = tmp_path / "net.safetensors", tmp_path / "net.onnx"
    save_file(net.state_dict(), weights)
    words = ["export", "adasap:digits_net", str(out), "--to", "onnx", "--weights", str(weights), "--int8"]
    words += ["--calibrate", "digits:", "--images", "32", "--limit", "20", "--tolerance", "0.2"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for part in (
        "calibrated by 32 training images",
        "clean",
        "corrupted",
        "largest changes under",
        "batch 16, ms, p95",
    ):
        assert part in result.output
    assert out.is_file()


# Bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--calibrate", "digits:"], "--calibrate digits: is for INT8; add --int8"),
        (["--int8"], "give --calibrate DATA"),
    ],
)
def test_options_of_int8_want_each_other(tmp_path: Path, words: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["export", "adasap:digits_net", str(tmp_path / "net"), "--to", "onnx", *words])
    assert isinstance(result.exception, AdasapError)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8)}, {}, "give prepared training images"),
        ({"images": torch.full((2, 3, 8, 8), torch.nan)}, {}, "hold NaN"),
        ({"images": torch.zeros(2, 3, 8, 8)}, {}, "give images of the size of one input"),
        ({"tolerance": -0.1}, {}, "tolerance"),
        ({}, {"fixed_batch": 65}, "64 calibration images do not fill a batch of 65"),
        ({}, {"to": "torch-export"}, "torch-export has no INT8 here; export to onnx, openvino or executorch"),
    ],
)
def test_bad_calibrations_are_refused_before_any_work(
    calibration: Calibration, tmp_path: Path, keys: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    class Untouched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the model was run")

    def export() -> None:
        given = {"to": "onnx", "int8": replace(calibration, **keys)} | options
        export_model(Untouched(), torch.zeros(1, 3, 32, 32), tmp_path / "net.onnx", **given)

    with pytest.raises(ExportError, match=message):
        export()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_written_leaves_the_older_files(tmp_path: Path) -> None:
    def write(content: bytes, fails: bool) -> None:
        with staged_write(tmp_path / "net.xml") as file:
            file.write_bytes(content)
            file.with_suffix(".bin").write_bytes(content)
            if fails:
                raise OSError("the disk is full")

    write(b"older", fails=False)
    with pytest.raises(OSError, match="disk"):
        write(b"newer", fails=True)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"net.xml": b"older", "net.bin": b"older"}


def test_adasap_has_the_door() -> None:
    assert adasap.export_model is export_model
