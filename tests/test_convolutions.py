"""Weight gradients of narrow strided convolutions: right on every processor, in every layout, on every path."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.nn import functional

import adasap
from adasap import convolutions, processor
from adasap.convolutions import fewest_channels, guard_convolutions, guarded
from adasap.report.environment import environment

ROOT = Path(__file__).parents[1]
AFFECTED = pytest.mark.skipif(fewest_channels() == 0, reason="this processor computes all convolutions right")
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
SETTINGS = {"without AVX-512": AVX2} | ({"with AVX-512": {}} if processor.has("avx512") else {})


def scan(setting: str, threads: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The scan of small convolutions in a process of its own."""
    command = [sys.executable, str(ROOT / "tests" / "convolution_scan.py"), *arguments]
    kept = {k: v for k, v in os.environ.items() if k not in AVX2}
    variables = {**kept, **SETTINGS[setting], "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive"}
    return subprocess.run(command, env=variables, capture_output=True, text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("setting", list(SETTINGS))
def test_with_the_guard_every_small_convolution_is_right(setting: str, threads: int) -> None:
    result = scan(setting, threads)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 wrong" in result.stdout


@AFFECTED
@pytest.mark.slow
def test_without_the_guard_the_scan_finds_the_fault() -> None:
    result = scan("without AVX-512", 1, "--unguarded", "--first-wrong")
    assert result.returncode == 1, result.stdout + result.stderr
    assert "1 wrong" in result.stdout


@AFFECTED
@pytest.mark.slow
@pytest.mark.parametrize("path", ["sharpness_aware", "prune"])
def test_whole_paths_leave_the_heap_alone(path: str) -> None:
    command = [sys.executable, "-W", "ignore", str(ROOT / "tests" / "convolution_paths.py"), path]
    variables = {**os.environ, **AVX2, "MALLOC_CHECK_": "3", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, env=variables, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout == "right\n"


def reference(images: Tensor, weight: Tensor, slope: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """Input and weight gradient of a 1x1 convolution by its definition."""
    seen = images[:, :, ::stride, ::stride]
    weight_slope = torch.einsum("nohw,nihw->oi", slope, seen)[:, :, None, None]
    image_slope = torch.zeros_like(images)
    image_slope[:, :, ::stride, ::stride] = torch.einsum("nohw,oi->nihw", slope, weight[:, :, 0, 0])
    return image_slope, weight_slope


@AFFECTED
def test_a_narrow_convolution_is_asked_for_in_two_safe_parts() -> None:
    """Never the weight gradient of a strided one, and all other shapes as they came."""
    original = torch.library.get_kernel("aten::convolution_backward", "CPU").call_boxed
    asked: list[tuple[list[int], list[bool]]] = []

    def watched(*arguments: object) -> object:
        asked.append((list(arguments[5]), list(arguments[11])))
        return original(*arguments)

    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    slope, images, weight = torch.randn(2, 8, 4, 4), torch.randn(2, 5, 8, 8), torch.randn(8, 5, 1, 1)
    rest = ([8], [2, 2], [0, 0], [1, 1], False, [0, 0], 1, [True, True, True])
    found = guarded(watched, 8)(keys, slope, images, weight, *rest)
    assert asked == [([2, 2], [True, False, False]), ([1, 1], [False, True, False])]
    for got, wanted in zip(found, (*reference(images, weight, slope, 2), slope.sum((0, 2, 3))), strict=True):
        torch.testing.assert_close(got, wanted)
    asked.clear()
    guarded(watched, 5)(keys, slope, images, weight, *rest)
    assert asked == [([2, 2], [True, True, True])]


class Path1x1(nn.Module):
    """Narrow strided convolutions as a module and as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1, stride=2)
        self.second = nn.Parameter(torch.randn(6, 4, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return functional.conv2d(torch.tanh(self.first(images)), self.second, stride=2).square().mean((1, 2, 3))


def in_float64(net: nn.Module, images: Tensor) -> list[Tensor]:
    """Gradients where oneDNN takes no part."""
    double = Path1x1().double()
    double.load_state_dict(net.state_dict())
    return [g.float() for g in torch.autograd.grad(double(images.double()).sum(), list(double.parameters()))]


@pytest.mark.parametrize("how", ["eager", "aot", "vmap", "checkpoint", "autocast"])
def test_every_path_of_backward_is_guarded(how: str) -> None:
    guard_convolutions()
    torch.manual_seed(0)
    net, images = Path1x1(), torch.randn(16, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    net = net.to(memory_format=torch.channels_last)
    wanted = in_float64(net, images)
    if how == "vmap":
        parameters = dict(net.named_parameters())

        def loss(values: dict[str, Tensor], image: Tensor) -> Tensor:
            return torch.func.functional_call(net, values, image[None]).sum()

        rows = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, images)
        found = [rows[name].sum(0) for name in parameters]
    else:
        call = torch.compile(net, backend="aot_eager") if how == "aot" else net
        with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
            if how == "checkpoint":
                loss_ = torch.utils.checkpoint.checkpoint(call, images, use_reentrant=False).sum()
            else:
                loss_ = call(images).float().sum()
        found = list(torch.autograd.grad(loss_, list(net.parameters())))
    tolerance = {"rtol": 0.1, "atol": 0.05} if how == "autocast" else {"rtol": 1e-4, "atol": 1e-4}
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, **tolerance)


def test_second_derivatives_go_through_the_guard() -> None:
    guard_convolutions()
    torch.manual_seed(0)
    images, weight = torch.randn(16, 3, 16, 16), torch.randn(8, 3, 1, 1)
    images, weight = (t.contiguous(memory_format=torch.channels_last) for t in (images, weight))

    def product(weight: Tensor, images: Tensor) -> Tensor:
        weight.requires_grad_()
        loss = functional.conv2d(images, weight, stride=2).pow(4).mean()
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)[0]

    right = product(weight.double(), images.double()).float()
    torch.testing.assert_close(product(weight, images), right, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("images_last", [False, True])
@pytest.mark.parametrize("weight_last", [False, True])
def test_gradients_keep_the_layout_that_the_compiler_expects(images_last: bool, weight_last: bool) -> None:
    guard_convolutions()
    formats = {False: torch.contiguous_format, True: torch.channels_last}
    images = torch.randn(16, 3, 16, 16).contiguous(memory_format=formats[images_last]).requires_grad_()
    weight = torch.randn(8, 3, 1, 1).contiguous(memory_format=formats[weight_last]).requires_grad_()
    output = functional.conv2d(images, weight, stride=2)
    (slope, _) = torch.autograd.grad(output, (images, weight), torch.randn_like(output))
    wider = torch.randn(16, 16, 16, 16).contiguous(memory_format=formats[images_last]).requires_grad_()
    more = torch.randn(8, 16, 1, 1).contiguous(memory_format=formats[weight_last]).requires_grad_()
    output = functional.conv2d(wider, more, stride=2)
    (expected, _) = torch.autograd.grad(output, (wider, more), torch.randn_like(output))
    assert slope.is_contiguous(memory_format=torch.channels_last) == expected.is_contiguous(
        memory_format=torch.channels_last
    )


def test_the_number_of_channels_follows_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    for features, wanted in [
        ({"avx2": True, "avx512": False}, 8),
        ({"avx2": True, "avx512": True}, 16),
        ({"avx2": False, "avx512": False}, 0),
        ({"avx2": None, "avx512": None}, 16),
    ]:
        monkeypatch.setattr(processor, "has", features.get)
        assert fewest_channels() == wanted
    monkeypatch.setattr(processor, "has_onednn", lambda: False)
    assert fewest_channels() == 0


@pytest.mark.slow
def test_an_import_changes_nothing_and_a_step_or_a_cut_installs_the_guard() -> None:
    code = (
        "import torch, adasap, adasap.convolutions as c; from torch import nn;"
        "net = nn.Conv2d(3, 8, 1); images = torch.randn(2, 3, 4, 4); groups = adasap.trace_groups(net, images);"
        "assert not c._installed; {}; print(len(c._installed))"
    )
    calls = (
        "adasap.sharpness_aware_gradients(net, None, lambda: (l := net(images).sum(), l.backward())[0])",
        "adasap.apply_plan_(net, groups, adasap.PruningPlan.of(groups))",
        "adasap.guard_convolutions(), adasap.guard_convolutions()",
    )
    for call in calls:
        run = subprocess.run([sys.executable, "-W", "ignore", "-c", code.format(call)], capture_output=True, text=True)
        assert run.stdout.strip() == str(int(fewest_channels() > 0)), run.stderr


GUARDED_BY = {
    "analysis/hessian.py": "Objective",
    "analysis/channels.py": "Objective",
    "analysis/memory.py": "Objective",
    "training/preview.py": "CompressionRun",
    "training/loop.py": "Runtime",
    "integrations/lightning.py": "LoopCompression",
    "tasks/detection/metrics.py": None,  # a sum over boxes: no convolution
    "training/precision.py": None,  # kernel of 3, stride 1
    "testing/perturbation.py": None,  # the same
}
"""Files that run backward passes, and the name in them of what has called the guard before."""


def test_whatever_runs_a_backward_pass_calls_the_guard() -> None:
    package = Path(adasap.__file__).parent
    for path in sorted(package.rglob("*.py")):
        tree, text = ast.parse(path.read_text()), path.read_text()
        calls = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        runs = "backward" in calls or "autograd.grad(" in text or "vjp" in calls
        by = GUARDED_BY.get(str(path.relative_to(package)), "guard_convolutions()")
        assert not runs or by is None or by in text, path
        if str(path.relative_to(package)) in GUARDED_BY:
            assert runs, path


def test_the_environment_says_what_the_processor_is_and_what_is_guarded() -> None:
    found = environment()
    assert found["processor"]["instruction_set"] == torch.backends.cpu.get_cpu_capability()
    fewest = fewest_channels()
    assert found["guarded_convolutions"] == (
        f"1x1, stride 2 or more, fewer than {fewest} input channels" if fewest else None
    )


def test_native_bf16_heeds_the_limit_that_a_user_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(processor, "has", {"avx512_bf16": True}.get)
    for limit, wanted in {"": True, "AVX2": False, "avx512_core": False, "AVX512_CORE_BF16": True}.items():
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        assert processor.native_bf16() is wanted
    monkeypatch.setattr(processor, "has", {"avx512_bf16": False}.get)
    assert processor.native_bf16() is False


def test_a_torch_that_cannot_be_guarded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*arguments: object) -> None:
        raise RuntimeError("a kernel is there already")

    monkeypatch.setattr(convolutions, "_installed", [])
    monkeypatch.setattr(convolutions, "fewest_channels", lambda: 8)
    monkeypatch.setattr(torch.library, "get_kernel", absent)
    with pytest.warns(adasap.errors.AdasapWarning, match="ONEDNN_MAX_CPU_ISA=AVX before"):
        guard_convolutions()
