"""Latency tables of runtimes: layers as a runtime computes them, files of them at any widths, and what a table says."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import adasap
from adasap.errors import AdasapError, ArgumentError, BudgetError, ExportError
from adasap.experiments.latency import latency_table
from adasap.experiments.prune import prune_model
from adasap.export.onnx_layers import OnnxLayers
from adasap.groups import trace_groups
from adasap.models.cifar_resnet import CifarResNet
from adasap.profiling import Latency, LatencyTable, Setting, read_latency_table
from adasap.profiling.agreement import _flags, setting_of
from adasap.profiling.calibration import Bench, random_widths
from adasap.profiling.reading import layer_calls
from adasap.profiling.table import alike, grid_widths
from adasap.profiling.timing import TimingOptions

QUICK = TimingOptions(repeats=1, milliseconds=0.0, rounds=2, seconds=0.0)
RUNTIMES = pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])


class Block(nn.Module):
    """A depthwise layer, a sum, norms of two kinds, and a layer whose result is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)
        self.each, self.last = nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.BatchNorm2d(32)
        self.wide, self.back = nn.Conv2d(32, 48, 1), nn.Conv2d(48, 48, 1)
        self.rows, self.head = nn.LayerNorm(48), nn.Linear(48, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x)).relu()
        x = nn.functional.relu6(self.last(self.each(x)))
        x = self.wide(x)
        x = (x + self.back(x)).relu()
        return self.head(self.rows(x.mean((2, 3))))


def block() -> tuple[nn.Module, tuple, torch.Tensor]:
    torch.manual_seed(0)
    net, x = Block().eval(), torch.zeros(1, 3, 8, 8)
    return net, trace_groups(net, x, allow_inexact=True), x


def steps(call) -> list[str]:
    return [target._schema.name.removeprefix("aten::") for target, _, _ in call._arguments[0]]


def test_layers_are_read_as_runtimes_compute_them() -> None:
    net, groups, x = block()
    calls = layer_calls(net, groups, x, fused=True)
    assert [(call.where, steps(call)) for call in calls] == [
        ("stem", ["conv2d", "relu"]),
        ("each", ["conv2d", "relu6"]),
        ("wide", ["conv2d"]),  # what it computes is read twice
        ("back", ["conv2d", "add", "relu"]),
        ("model", ["mean"]),
        ("rows", ["layer_norm"]),
        ("head", ["linear"]),
    ]
    assert [len(call.operands) for call in calls[:2]] == [3, 3]  # a norm has become a bias
    assert max(len(call.widths) for call in calls) == 2
    single = layer_calls(net, groups, x)
    assert sum(len(steps(call)) for call in calls) == len(single) - 2


def test_a_chain_computes_what_its_operators_do_at_any_widths() -> None:
    net, groups, x = block()
    call = next(call for call in layer_calls(net, groups, x, fused=True) if call.where == "back")
    at = [30.0 for _ in call.widths]
    made = [o.drawn(call.ratios(at), torch.device("cpu"), torch.float32, channels_last=False) for o in call.operands]
    image, weight, bias, other = made
    assert weight.shape == (30, 30, 1, 1)
    expected = (other + nn.functional.conv2d(image, weight, bias)).relu()
    torch.testing.assert_close(call.on(made, at), expected)


class Concatenated(nn.Module):
    """A norm over two parts, which are rounded each by itself where both are narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.norm = nn.Conv2d(3, 32, 1), nn.Conv2d(3, 32, 1), nn.BatchNorm2d(64)
        self.head = nn.Conv2d(64, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(torch.cat([self.one(x), self.two(x)], 1)).relu())


NETS = {
    "a shortcut that is padded": lambda: CifarResNet(1),
    "groups that go whole": lambda: nn.Sequential(
        nn.Conv2d(3, 64, 1), nn.Conv2d(64, 64, 3, groups=8), nn.Conv2d(64, 3, 1)
    ),
    "groups that lose some of each": lambda: adasap.open_model(adasap.ModelSpec("timm:resnest14d")),
    "parts side by side": Concatenated,
}


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if "lose" in name else name for name in NETS]
)
def test_every_point_of_a_table_can_be_run(name: str, fused: bool) -> None:
    net = NETS[name]().eval()
    x = torch.zeros(1, 3, 32, 32)
    calls = layer_calls(net, trace_groups(net, x), x, fused=fused)
    for call in {call.key: call for call in calls}.values():
        for at in grid_widths(call, 4 if fused else 1):
            shapes = [(one.sizes(call.ratios(at)), one.dtype) for one in call.operands]
            call.on([torch.empty(shape, dtype=dtype, device="meta") for shape, dtype in shapes], at)


@pytest.mark.slow
@pytest.mark.parametrize("int8", [False, True])
def test_the_file_of_a_layer_runs_at_widths_it_was_not_converted_at(int8: bool) -> None:
    net, groups, x = block()
    calls = layer_calls(net, groups, x, fused=True)
    layers = OnnxLayers(calls, int8=int8)
    for call in calls:
        for at in (call.dense, tuple(max(1, width // 2 - 1) for width in call.dense)):
            file = layers.file(call, at, weight_bytes=1000)
            found = onnxruntime.InferenceSession(file.content).run(None, file.inputs)
            assert [one.shape for one in found] == [file.shape] * file.copies
            assert call.where not in ("each", "head") or not np.array_equal(found[0], found[1])  # weights of their own


@pytest.mark.slow
def test_a_converted_layer_computes_what_torch_does() -> None:
    net, groups, x = block()
    call = next(call for call in layer_calls(net, groups, x, fused=True) if call.where == "each")
    file = OnnxLayers([call], int8=False).file(call, (20.0,), weight_bytes=0)
    import onnx

    stored = {
        one.name: onnx.numpy_helper.to_array(one) for one in onnx.load_from_string(file.content).graph.initializer
    }
    weight, bias = (
        torch.from_numpy(stored[name].copy()) for name in sorted(stored) if name.startswith("k1_") and stored[name].ndim
    )
    (image,) = (torch.from_numpy(array) for array in file.inputs.values())
    found = onnxruntime.InferenceSession(file.content).run(None, file.inputs)
    torch.testing.assert_close(torch.from_numpy(found[1]), call.on([image, weight, bias], (20.0,)))


@pytest.mark.slow
@RUNTIMES
@pytest.mark.parametrize("int8", [False, True])
def test_layers_and_models_are_timed_in_a_runtime(engine: str, int8: bool) -> None:
    net, groups, x = block()
    setting = Setting(threads=1, engine=engine, int8=int8)
    calls = [call for call in layer_calls(net, groups, x, fused=True) if call.where in ("each", "back")]
    with setting.applied():
        time_ms = setting.opened_engine().layer_timer(calls, QUICK, weight_bytes=0)
        assert all(0 < time_ms(call, call.dense) < 1000 for call in calls)
    dense_ms, half_ms = Bench(net, groups, x, setting, QUICK).measure_ms([{}, {"stem": 16}])
    assert dense_ms > 0 < half_ms
    batch = setting.batch(x + 1, 1)
    found = batch.call(setting.ready(net, batch))[0]
    torch.testing.assert_close(torch.from_numpy(found), net(batch.tensors[0]), atol=0.5 if int8 else 1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_table_of_a_runtime_is_made_kept_used_and_measured_there(tmp_path: Path) -> None:
    setting, path = Setting(threads=1, engine="onnxruntime"), tmp_path / "net.json"
    net, _, _ = block()
    made = latency_table(net, path, size=8, seconds=0.01, repeats=1, num_plans=1, setting=setting)
    version = made.table.settings["engine_version"]
    assert made.table.stated.startswith(f"onnxruntime {version}, float32, batch 1, 1 threads")
    with pytest.raises(BudgetError, match="was measured with engine='onnxruntime', now it would be 'torch'"):
        latency_table(net, path, size=8, setting=Setting(threads=1))
    assert setting_of(read_latency_table(path)) == setting
    assert _flags(made.table).endswith(" --engine onnxruntime")
    points = {key: {at: float(np.prod(at)) for at in found} for key, found in made.table.points.items()}
    path.write_text(dataclasses.replace(made.table, points=points, scale=1.0, call_ms=0.0, alignment=1).to_json())
    found = prune_model(net, budget=f"latency=0.8,latency_table={path}", size=8)
    (line,) = [line for line in found.remarks if "latency: at most" in line]
    assert "predicted; 0.8 of the dense model's" in line
    assert made.table.stated in line


@RUNTIMES
def test_what_a_runtime_cannot_do_is_refused_before_work(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ({"device": "cuda"}, {"precision": "bf16"}, {"compiled": True}):
        with pytest.raises(ArgumentError, match=f"engine {engine} runs float32 or INT8 files on the CPU"):
            Setting(engine=engine, **asked)
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == engine else find_spec(name))
    extra = {"onnxruntime": "onnx", "openvino": "openvino,onnx"}[engine]
    with pytest.raises(ArgumentError, match=rf"needs {engine}: pip install 'adasap\[{extra}\]'"):
        adasap.latency_table("nowhere.safetensors", "t.json", setting=Setting(engine=engine))
    with pytest.raises(ArgumentError, match=rf"needs {engine}: pip install 'adasap\[{extra}\]'"):
        adasap.profile("nowhere.safetensors", setting=Setting(engine=engine))


def test_int8_wants_a_runtime_and_engines_have_names() -> None:
    with pytest.raises(ArgumentError, match="INT8 is timed in a runtime"):
        adasap.latency_table("nowhere.safetensors", "t.json", setting=Setting(int8=True))
    with pytest.raises(ArgumentError, match="there is no engine 'onnx'; there are: onnxruntime, openvino, torch"):
        adasap.profile("nowhere.safetensors", setting=Setting(engine="onnx"))


class Sorted(nn.Module):
    """An operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(self.layer(x)).sum(-1, keepdim=True)


@pytest.mark.slow
def test_an_operator_that_no_file_can_hold_is_named() -> None:
    net, x = Sorted().eval(), torch.zeros(1, 4)
    calls = layer_calls(net, trace_groups(net, x), x, fused=True)
    with pytest.raises(ExportError, match=r"cannot follow .* in (layer|model): .*; time PyTorch in place of a runtime"):
        OnnxLayers(calls, int8=False)


def test_widths_that_take_another_kernel_have_points_of_their_own() -> None:
    net, groups, x = block()
    calls = {call.where: call for call in layer_calls(net, groups, x, fused=True)}
    points = grid_widths(calls["wide"], 4)
    assert {width % 4 == 0 for width, _ in points} == {True, False}
    assert {width % 4 for _, width in points} == {0}
    assert set(grid_widths(calls["wide"])) < set(points)
    assert alike((15, 16, 31, 32), 20, 4) == (16, 32)
    assert alike((15, 16, 31, 32), 21, 4) == (15, 31)
    table = LatencyTable({"engine": "onnxruntime"})
    for call, point in table.missing(list(calls.values())):
        table.points.setdefault(call.key, {})[point] = 1.0 if not point or point[0] % 4 == 0 else 3.0
    cost = Latency(table, net, groups, x)
    assert cost.total({"stem": 16}) < cost.total({"stem": 15})  # fewer channels, and slower


def test_random_widths_can_be_multiples() -> None:
    _, groups, _ = block()
    drawn = random_widths(groups, seed=0, multiple_of=8)
    whole = {group.name: group.num_channels for group in groups}
    assert all(width % 8 == 0 or width == whole[name] for name, width in drawn.items())
    assert drawn != random_widths(groups, seed=1, multiple_of=8)


def test_a_table_says_what_it_was_measured_in() -> None:
    table = LatencyTable({"engine": "openvino", "engine_version": "2026.4", "int8": False, "threads": 2, "batch": 16})
    assert table.stated == "openvino 2026.4, float32, batch 16, 2 threads"
    assert LatencyTable.from_json(table.to_json()).stated == table.stated
    assert LatencyTable({"torch": "2.9"}).stated == "torch 2.9, eager, float32, batch 1, all threads"
    settings = json.loads(table.to_json())["settings"]
    assert settings["engine"] == "openvino"


@pytest.mark.slow
def test_the_first_recipe_takes_a_runtime(tmp_path: Path) -> None:
    from adasap.experiments.first_recipe import init_recipe

    out = tmp_path / "digits.yaml"
    with pytest.raises(AdasapError, match="there is no engine 'onnx'"):
        init_recipe("adasap:digits_net", "digits:", budget="latency=0.5,engine=onnx", out=out)
    init_recipe("adasap:digits_net", "digits:", budget="latency=0.5,engine=onnxruntime", out=out)
    assert read_latency_table(tmp_path / "digits_latency.json").engine == "onnxruntime"
