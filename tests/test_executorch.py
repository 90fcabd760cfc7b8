"""ExecuTorch's files: one batch size, images in the order of NCHW, the numbers of the model or a sentence."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adasap
from adasap.errors import ExportError
from adasap.export import InItsRuntime, export_model, state_bytes
from adasap.export.pte import imported_runtime, opened_program

HALVES: dict[str, Any] = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
SHAPE = (3, 32, 32)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    """A CIFAR ResNet-20 cut to half of its MACs, in the memory format that it is trained in."""
    torch.manual_seed(0)
    pruned = adasap.prune(adasap.open_model("adasap:cifar_resnet20"), torch.zeros(1, *SHAPE), "l2", {"macs": 0.5})
    return pruned.model.eval().to(memory_format=torch.channels_last)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pte(net: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("executorch") / "small.pte"
    file = export_model(net, torch.zeros(1, *SHAPE), path, to="executorch")
    assert (file.fixed_batch, list(file.differences)) == (1, [1])
    return path


@pytest.fixture
def imported_anew() -> Iterator[None]:
    imported_runtime.cache_clear()
    yield
    imported_runtime.cache_clear()


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only glibc's loader tells what it binds to what")
def test_the_runtime_is_bound_to_the_threads_that_it_was_built_with(tmp_path: Path) -> None:
    """Torch brings a library of the same names, built of other sources; whichever is loaded first wins."""
    told = {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": str(tmp_path / "told")}
    code = (
        "import torch; from adasap.export.pte import pte_bytes; from adasap.groups.inputs import as_arguments; "
        "pte_bytes(torch.nn.Conv2d(3, 8, 3).eval(), as_arguments(torch.zeros(1, 3, 8, 8)), {})"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=os.environ | told, check=True, capture_output=True)
    pattern = re.compile(r"binding file (\S*libexecutorch\S*) .* to (\S+) .*symbol `pthreadpool_\w+'")
    bound = {
        (Path(match[1]).name, Path(match[2]).name)
        for file in tmp_path.iterdir()
        for match in pattern.finditer(file.read_text())
    }
    assert {user for user, _ in bound} >= {"libexecutorch_backend_xnnpack.so"}
    assert {library for _, library in bound} == {"libexecutorch_threadpool.so"}


@pytest.mark.slow
def test_a_pruned_network_computes_the_same(net: nn.Module, pte: Path) -> None:
    from executorch.runtime import Runtime

    forward = Runtime.get().load_program(pte).load_method("forward")
    images = torch.randn(5, *SHAPE)
    with torch.no_grad():
        expected = net(images)
    assert relative(torch.cat([forward.execute([image[None]])[0] for image in images]), expected) < 1e-4
    assert 0.9 * state_bytes(net) < pte.stat().st_size < 1.2 * state_bytes(net)
    assert net.conv1.weight.is_contiguous(memory_format=torch.channels_last)  # type: ignore[union-attr, operator]
    module = InItsRuntime(pte)
    assert (module.file.runtime, module.file.input_shape, module.file.numbers) == ("executorch", (1, *SHAPE), "float32")
    _, run = opened_program(pte)
    assert relative(run(images[:1].to(memory_format=torch.channels_last))[0], expected[:1]) < 1e-4
    with pytest.raises(ExportError, match=r"small\.pte takes images of 3 x 32 x 32, not 3 x 16 x 16; bring them"):
        module(torch.zeros(1, 3, 16, 16))


@pytest.mark.slow
def test_a_file_stands_beside_its_model(net: nn.Module, pte: Path, tmp_path: Path) -> None:
    asked: dict[str, Any] = {"corruptions": ["contrast"], "severities": [1], "limit": 20}
    found = adasap.evaluate([net, pte], "digits:", ["clean", "corrupted"], out=tmp_path, size=32, **HALVES, **asked)
    for suite in ("clean", "corrupted"):
        for cell, metrics in found[suite].metrics.items():
            of_file = found.models["small.pte"][suite].metrics[cell]
            assert of_file["accuracy"] == metrics["accuracy"]
            assert of_file["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    assert "| small.pte | executorch |" in (tmp_path / "summary.md").read_text()


@pytest.mark.slow
def test_a_file_of_another_batch_size(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    file = export_model(net, torch.zeros(1, 3, 8, 8), tmp_path / "two.pte", to="executorch", fixed_batch=2)
    assert (file.fixed_batch, list(file.differences)) == (2, [2])
    images = torch.randn(5, 3, 8, 8)
    with torch.no_grad():
        assert relative(InItsRuntime(file.path)(images), net(images)) < 1e-4


# Bad input


class Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.svdvals(x)  # type: ignore[no-any-return]


@pytest.mark.slow
def test_an_operator_that_executorch_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"ExecuTorch cannot follow Odd: .*svd.*; use onnx or torch-export"):
        export_model(Odd(), torch.zeros(1, 4, 4), tmp_path / "odd.pte", to="executorch")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_damaged_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pte").write_bytes(b"ET12")
    with pytest.raises(ExportError, match=r"a\.pte cannot be opened \(.*; export it again"):
        InItsRuntime(tmp_path / "a.pte")


@pytest.mark.usefixtures("imported_anew")
@pytest.mark.parametrize(
    ("absent", "message"),
    [
        ("executorch", r"a\.pte needs executorch: pip install 'adasap\[executorch\]'"),
        pytest.param("executorch.runtime", r"does not load with torch .*; it is built against", marks=pytest.mark.slow),
    ],
)
def test_what_does_not_load_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, message: str) -> None:
    monkeypatch.setitem(sys.modules, absent, None)
    (tmp_path / "a.pte").write_bytes(b"ET12")
    with pytest.raises(ExportError, match=message):
        InItsRuntime(tmp_path / "a.pte")
