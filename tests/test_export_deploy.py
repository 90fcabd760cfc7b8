"""Files for other runtimes: they compute what the model computes, for every batch size, or there is no file."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.errors import AdasapError, ExportError, TraceError
from adasap.export import Safetensors, export_model, read_header, state_bytes
from adasap.export.openvino_core import openvino_core
from adasap.export.targets import TorchExport
from adasap.groups.inputs import Arguments
from adasap.groups.serialization import groups_from_json

SPEC = adasap.ModelSpec("torchvision:mobilenet_v2", {"num_classes": 10}, input_size=(3, 64, 64))


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module, nn.Module]:
    """The file of a MobileNetV2 cut to half of its MACs, the cut model and the dense one."""
    torch.manual_seed(0)
    model, inputs = adasap.open_model(SPEC), torch.zeros(1, 3, 64, 64)
    dense = copy.deepcopy(model)
    groups = adasap.trace_groups(model, inputs)
    budget = adasap.Budget(adasap.MACs(model, groups, inputs), kept=0.5)
    plan = adasap.select_channels(groups, adasap.score("l2", model, groups), budget)
    adasap.apply_plan_(model, groups, plan)
    path = tmp_path_factory.mktemp("pruned") / "mobilenet.safetensors"
    adasap.save(path, model, spec=SPEC, plan=plan, groups=groups, metadata={"accuracy": 0.5})
    return path, model.eval(), dense


def run_onnx(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (entry,) = session.get_inputs()
    return torch.from_numpy(session.run(["output"], {entry.name: images.numpy()})[0])


def run_torch_export(path: Path, images: Tensor) -> Tensor:
    output: Tensor = torch.export.load(path).module()(images)
    return output


def run_openvino(path: Path, images: Tensor) -> Tensor:
    compiled = openvino_core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return torch.from_numpy(compiled({compiled.inputs[0]: images.numpy()})["output"])


@pytest.mark.parametrize(
    ("to", "suffix", "run"),
    [
        pytest.param("openvino", "xml", run_openvino, marks=pytest.mark.slow),
        pytest.param("onnx", "onnx", run_onnx, marks=pytest.mark.slow),
        pytest.param("torch-export", "pt2", run_torch_export, marks=pytest.mark.slow),
    ],
)
def test_a_pruned_model_computes_the_same_in_its_runtime(
    pruned: tuple[Path, nn.Module, nn.Module], tmp_path: Path, to: str, suffix: str, run: Any
) -> None:
    _, model, dense = pruned
    path = tmp_path / f"small.{suffix}"
    file = export_model(model, torch.zeros(1, 3, 64, 64), path, to=to)
    images = torch.randn(5, 3, 64, 64)
    with torch.no_grad():
        expected, found = model(images), run(path, images)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-4
    assert sorted(file.differences) == [1, 3]
    assert 0 <= max(file.differences.values()) < 1e-4
    written = {p.name: p.stat().st_size for p in tmp_path.iterdir()}
    assert file.size_mb == sum(written.values()) / 1e6
    folded = 0.9 if to == "openvino" else 1.0  # OpenVINO folds norms
    assert folded * state_bytes(model) < sum(written.values()) < folded * state_bytes(dense)
    assert set(written) == ({path.name, "small.bin"} if to == "openvino" else {path.name})


@pytest.mark.slow
def test_a_model_file_is_the_one_that_save_writes(pruned: tuple[Path, nn.Module, nn.Module], tmp_path: Path) -> None:
    saved, model, dense = pruned
    header = read_header(saved)
    assert header.groups is not None
    target = Safetensors(SPEC, header.plan, groups_from_json(header.groups, dense), header.metadata)
    file = export_model(model, torch.zeros(1, 3, 64, 64), tmp_path / "again.safetensors", to=target)
    assert file.differences == {1: 0.0, 3: 0.0}
    assert read_header(file.path).sha256 == header.sha256


@pytest.mark.parametrize(
    "to",
    [
        pytest.param("onnx", marks=pytest.mark.slow),
        pytest.param("torch-export", marks=pytest.mark.slow),
        "safetensors",
    ],
)
def test_the_command_line_exports_a_pruned_model(
    pruned: tuple[Path, nn.Module, nn.Module], tmp_path: Path, to: str
) -> None:
    out = tmp_path / "small"
    result = CliRunner().invoke(app, ["export", str(pruned[0]), str(out), "--to", to, "--fixed-batch", "2"])
    if to == "safetensors":
        assert "weights have no batch size" in str(result.exception)
        result = CliRunner().invoke(app, ["export", str(pruned[0]), str(out), "--to", to])
        assert read_header(out).sha256 == read_header(pruned[0]).sha256
    assert result.exit_code == 0, result.output
    size = f"{out.stat().st_size / 1e6:.2f} MB"
    mine, whole = (f"{state_bytes(model) / 1e6:.2f} MB" for model in pruned[1:])
    assert f"small: {size}; weights {mine}, those of the dense model {whole}" in result.output
    assert "largest difference from the model at batch size" in result.output


class WithBatch(nn.Module):
    """A net whose forward is right for two images only."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x.reshape(2, -1))
        return output


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch-export"])
def test_a_batch_that_cannot_be_left_open_is_refused_and_can_be_fixed(tmp_path: Path, to: str) -> None:
    path, inputs = tmp_path / "net", torch.zeros(1, 4)
    with pytest.raises(ExportError, match=r"WithBatch cannot be exported for every batch size: .*\(2\).*--fixed-batch"):
        export_model(WithBatch(), inputs, path, to=to)
    assert not list(tmp_path.iterdir())
    file = export_model(WithBatch(), inputs, path, to=to, fixed_batch=2)
    assert list(file.differences) == [2]
    assert file.fixed_batch == 2


def test_a_model_that_cannot_be_exported_at_all_says_so(tmp_path: Path) -> None:
    class WithNumpy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.from_numpy(np.asarray(x.detach().numpy()))

    with pytest.raises(TraceError, match="WithNumpy"):
        export_model(WithNumpy(), torch.zeros(1, 4), tmp_path / "net", to="torch-export")
    assert not list(tmp_path.iterdir())


class Careless(TorchExport):
    """Loses a bias on the way."""

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        assert isinstance(model, nn.Linear)
        changed = copy.deepcopy(model)
        changed.bias.data[0] += 1e-3
        super().write(file, changed, arguments, fixed=fixed)


def test_a_file_that_computes_other_numbers_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"older")
    net = nn.Linear(4, 3)
    with pytest.raises(ExportError, match=r"torch-export, batch size 1: .*\(allowed 0\.0001\); no file was kept"):
        export_model(net, torch.zeros(1, 4), path, to=Careless())
    assert path.read_bytes() == b"older"
    assert [p.name for p in tmp_path.iterdir()] == ["net.pt2"]


class Cutting(TorchExport):
    """Writes half of the file."""

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        file.write(b"no archive")


def test_a_file_that_cannot_be_read_back_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read back"):
        export_model(nn.Linear(4, 3), torch.zeros(1, 4), tmp_path / "net.pt2", to=Cutting())
    assert not list(tmp_path.iterdir())


class Static(TorchExport):
    """Silently writes a graph for the traced batch size alone."""

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        super().write(file, model, arguments, fixed=True)


def test_a_silently_static_file_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"batch size 1: the file does not run .*--fixed-batch N"):
        export_model(nn.Linear(4, 3), torch.zeros(1, 4), tmp_path / "net.pt2", to=Static())
    assert not list(tmp_path.iterdir())


class TwoInTwoOut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(7, 4), nn.Linear(4, 2)

    def forward(self, image: Tensor, words: Tensor) -> dict[str, Tensor]:
        return {"sum": self.layer(image + self.words(words)), "image": self.layer(image) * 1e-3}


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino", "executorch", "torch-export"])
def test_several_inputs_and_outputs(tmp_path: Path, to: str) -> None:
    inputs = torch.zeros(2, 4), torch.tensor([1, 6])
    file = export_model(TwoInTwoOut(), inputs, tmp_path / "net.xml", to=to)
    assert max(file.differences.values()) < 1e-5
    if to == "onnx":
        session = onnxruntime.InferenceSession(file.path, providers=["CPUExecutionProvider"])
        assert [(i.name, i.shape[0]) for i in session.get_inputs()] == [("image", "batch"), ("words", "batch")]
        assert [o.name for o in session.get_outputs()] == ["output_0", "output_1"]


def test_the_model_is_left_as_it_is_and_exported_in_evaluation_mode(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 2)).double()
    before = copy.deepcopy(net.state_dict())
    file = export_model(net, torch.zeros(1, 4, dtype=torch.float64), tmp_path / "net.pt2", to="torch-export")
    assert all(module.training for module in net.modules())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert max(file.differences.values()) < 1e-12


SIGNALLED = """
import gc, os, signal, sys
from pathlib import Path
import torch
from adasap.export import InItsRuntime
from adasap.export.int8 import Scaling, quantise_openvino
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
path, images = Path(sys.argv[1]), torch.rand(8, 3, 8, 8)
if sys.argv[2] == "opened":
    models = [InItsRuntime(path), InItsRuntime(path)]
    for model in models:
        model(images[:1])
    while models:
        del models[0], model
        gc.collect()
        model = None
else:
    quantise_openvino(path, path.with_name("int8.xml"), Scaling(images), None, {})
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO gives threads another stack for signals on Linux alone")
@pytest.mark.parametrize("how", ["opened", "quantised"])
def test_signals_are_handled_after_openvino_was_used(tmp_path: Path, how: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    file = export_model(net, torch.zeros(1, 3, 8, 8), tmp_path / "net.xml", to="openvino")
    command = [sys.executable, "-W", "ignore", "-c", SIGNALLED, file.path, how]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["handled"]), done.stderr


# Bad input


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("net", {"to": "onxx"}, "did you mean 'onnx'"),
        ("net", {"to": "safetensors"}, r"pass to=Safetensors\(spec, plan, groups\)"),
        ("net", {"to": Safetensors(SPEC), "fixed_batch": 2}, "leave it out for safetensors"),
        ("net", {"to": "onnx", "fixed_batch": 0}, "give a whole number of at least 1"),
        ("nowhere/net", {"to": "onnx"}, "its folder does not exist"),
        (".", {"to": "onnx"}, "is a folder"),
        ("net.onnx", {"to": "openvino"}, r"does not end in \.xml.* call it net\.xml"),
        ("net", {"to": 7}, "cannot export to 7; give 'onnx'"),
        ("net", {"to": "onnx", "example_inputs": torch.tensor(1.0)}, r"shapes \[\(\)\]; give each a batch"),
        ("net", {"to": "onnx", "example_inputs": torch.zeros(0, 4)}, r"shape \(0, 4\), which holds no example"),
    ],
)
def test_bad_input_is_refused_before_any_work(tmp_path: Path, name: str, options: dict[str, Any], message: str) -> None:
    class Untouched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("the model was run")

    with pytest.raises(AdasapError, match=message):
        export_model(Untouched(), path=tmp_path / name, **{"example_inputs": torch.zeros(1, 4)} | options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_goes_to_torch_export_alone(tmp_path: Path, dtype: torch.dtype) -> None:
    net, inputs = nn.Linear(4, 3).to(dtype), torch.zeros(1, 4, dtype=dtype)
    with pytest.raises(ExportError, match=rf"weight is {dtype}.* export model\.float\(\)"):
        export_model(net, inputs, tmp_path / "net", to="onnx")
    assert export_model(net, inputs, tmp_path / "net", to="torch-export").differences == {1: 0.0, 3: 0.0}


@pytest.mark.parametrize(("package", "to"), [("onnxruntime", "onnx"), ("executorch", "executorch")])
def test_a_missing_package_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, to: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ExportError, match=rf"export to {to} needs {package}: pip install 'adasap\[{to}\]'"):
        export_model(nn.Linear(4, 3), torch.zeros(1, 4), tmp_path / "net", to=to)


@pytest.mark.slow
def test_a_refused_export_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    net = adasap.open_model(adasap.ModelSpec("adasap:digits_net"))
    weights, out = tmp_path / "zeros.safetensors", tmp_path / "net.pt2"
    save_file({name: torch.zeros_like(value) for name, value in net.state_dict().items()}, weights)
    script = Path(sys.executable).with_name("adasap")
    command = [script, "export", "adasap:digits_net", out, "--to", "torch-export", "--weights", weights]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "all outputs of the model are zero" in " ".join(done.stderr.split())
    assert [path.name for path in tmp_path.iterdir()] == [weights.name]
