"""`precision: auto`, and what is said about bf16 where it is emulated."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from adasap import processor
from adasap.errors import AdasapWarning, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.models import open_model
from adasap.training import CompressionRun, Runtime, RuntimeOptions, ignore
from adasap.training.precision import settled

Tree = dict[str, Any]
CPU = torch.device("cpu")


@pytest.fixture(params=[True, False])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A processor that computes bf16 itself, or one that emulates it."""
    monkeypatch.setattr(processor, "native_bf16", lambda: request.param)
    return bool(request.param)


def test_auto_is_what_the_processor_computes_natively(native: bool) -> None:
    assert settled("auto", CPU) == ("bf16" if native else "float32")
    assert Runtime(RuntimeOptions(device="cpu")).precision == ("bf16" if native else "float32")
    assert settled("float32", CPU) == "float32"
    with pytest.raises(RecipeError, match="fp16 needs a GPU"):
        settled("fp16", CPU)
    with pytest.raises(RecipeError, match="precision is 'int8'; give one of auto, float32, bf16, fp16"):
        settled("int8", CPU)  # type: ignore[arg-type]


def test_bf16_that_is_emulated_is_obeyed_with_a_factor(native: bool, recwarn: pytest.WarningsRecorder) -> None:
    if native:
        assert settled("bf16", CPU) == "bf16"
        assert not recwarn.list
    else:
        with pytest.warns(AdasapWarning, match=r"bf16 is emulated .* took [\d.]+ times as long"):
            assert settled("bf16", CPU) == "bf16"


def test_auto_stays_with_the_precision_of_the_run_that_goes_on(native: bool) -> None:
    here, other = ("bf16", "float32") if native else ("float32", "bf16")
    assert settled("auto", CPU, begun=here) == here
    with pytest.warns(AdasapWarning) as said:
        assert settled("auto", CPU, begun=other) == other
    assert f"begun in {other} and goes on in it" in str(said[0].message)
    assert len(said) == (1 if native else 2)  # and that bf16 is emulated
    assert settled("auto", CPU, begun="int3") == here


def opened(tree: Tree, folder: Path) -> CompressionRun:
    recipe = parse_recipe(copy.deepcopy(tree))
    data, model = open_data(recipe), open_model(recipe.model, trust_builder=True)
    task = open_task(recipe, classes=data.train.classes)
    return CompressionRun(model, task, data, recipe, folder=folder, observe=ignore)


@pytest.mark.slow
def test_a_run_goes_on_in_its_precision_on_another_machine(
    tiny_recipe: Callable[..., Tree], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "native_bf16", lambda: False)
    torch.manual_seed(0)
    tree = tiny_recipe(training={"runtime": {"precision": "auto"}})
    first = opened(tree, tmp_path)
    assert first.runtime.precision == "float32"
    first.checkpoint()
    first.close()
    monkeypatch.setattr(processor, "native_bf16", lambda: True)
    torch.manual_seed(0)
    with pytest.warns(AdasapWarning, match="begun in float32 and goes on in it, though `precision: auto` means bf16"):
        again = opened(tree, tmp_path)
    assert again.runtime.precision == "float32"
    again.close()


@pytest.mark.slow
def test_a_dry_run_warns_in_a_sentence(tiny_recipe: Callable[..., Tree], tmp_path: Path) -> None:
    tree = tiny_recipe(training={"runtime": {"precision": "bf16"}})
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree))
    command = [sys.executable, "-m", "adasap", "compress", "tiny.yaml", "--dry-run"]
    variables = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    result = subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "Warning: bf16 is emulated on this device: a small convolution step took" in result.stderr
    assert "AdasapWarning" not in result.stderr
