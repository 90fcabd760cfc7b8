"""A run that is killed goes on to the same weights, whatever it was doing."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import adasap
from adasap.errors import CheckpointError, HalfWrittenError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.models import open_model
from adasap.training import Record, ResumeRecord, StepRecord
from adasap.training.checkpoint import read_checkpoint, write_checkpoint

Tree = dict[str, Any]


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "adasap", "compress", str(recipe), "--out", str(out)]


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def records_of(folder: Path) -> list[Tree]:
    """All but the seconds."""
    lines = (folder / "records.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines]


def losses_of(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "tiny" / "records.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "step"]


@pytest.mark.slow
def test_killed_ten_times_at_seeded_moments() -> None:
    """Among them between the passes, amid a cut and halfway through a write; `--kills 100` is the long form."""
    script = Path(__file__).with_name("kill_runs.py")
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "10", "--seed", "0"], env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "10 kills, seed 0: 0 runs ended otherwise" in done.stdout


KILLED = """
import os, signal
import adasap.sharpness.step
from adasap.cli.main import main
calls, step = 0, adasap.sharpness.step.Step
def killing(*arguments, run=step._pass, **options):
    global calls
    calls += 1
    if calls == 20:  # an even pass: the weights are the moved ones
        os.kill(os.getpid(), signal.SIGKILL)
    return run(*arguments, **options)
step._pass = killing
main()
"""


@pytest.mark.slow
def test_the_command_line_goes_on_after_a_kill_between_the_passes(
    tiny_recipe: Callable[..., Tree], tmp_path: Path
) -> None:
    """Reader processes included, and bf16 where the processor has it; `kill_runs.py` has the other moments."""
    tree = tiny_recipe(
        training={"checkpoint_every": 2, "num_workers": 1, "runtime": {"precision": "auto"}, "batch_size": 32},
        warm_up={"epochs": 1, "sharpness": {"refresh": 2}},
        pruning={"criterion": "taylor_norm", "events": 4},
    )
    whole, recipe = tmp_path / "whole", tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(tree))
    subprocess.run(command(recipe, whole), check=True, env=environment(), capture_output=True)
    (tmp_path / "killed.py").write_text(KILLED)
    arguments = [str(tmp_path / "killed.py"), *command(recipe, tmp_path)[3:]]
    died = subprocess.run([sys.executable, *arguments], env=environment(), capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert 0 < len(losses_of(tmp_path)) < len(losses_of(whole))
    subprocess.run(command(recipe, tmp_path), check=True, env=environment(), capture_output=True)
    expected = load_file(whole / "tiny" / "checkpoint.safetensors")
    actual = load_file(tmp_path / "tiny" / "checkpoint.safetensors")
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []
    assert losses_of(whole) == losses_of(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("criterion", "compensate", "last_step", "resumed_at"),
    [("hutchinson", "none", 11, 10), ("activation_mean", "least_squares", 11, 10), ("fisher", "fold", 11, 10)],
)
def test_a_run_goes_on_to_the_same_bits_whatever_its_criterion_looks_at(
    tiny_recipe: Callable[..., Tree], tmp_path: Path, criterion: str, compensate: str, last_step: int, resumed_at: int
) -> None:
    """What a killed run leaves is its folder as it is at that moment; the events come after steps 8, 10 and 13."""
    recipe = parse_recipe(
        tiny_recipe(pruning={"criterion": criterion, "ranking": "isomorphic", "compensate": compensate})
    )

    def run(folder: Path, observe: Callable[[Record], None]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        model = open_model(recipe.model)
        adasap.compress(model, open_task(recipe), open_data(recipe), recipe, folder=folder, observe=observe)
        return load_file(folder / "checkpoint.safetensors")

    def snapshot(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step == last_step:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    seen: list[Record] = []
    whole = run(tmp_path / "whole", snapshot)
    resumed = run(tmp_path / "killed", seen.append)
    first, *others = seen
    assert first == ResumeRecord(resumed_at, 24, finished=False)
    assert min(record.step for record in others) >= resumed_at
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert records_of(tmp_path / "whole") == records_of(tmp_path / "killed")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"w": torch.ones(3)}, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"No space left on device; the last checkpoint is still there"):
        write_checkpoint(path, {"w": torch.zeros(3)}, {"step": 2})
    tensors, metadata = read_checkpoint(path)
    assert torch.equal(tensors["w"], torch.ones(3))
    assert metadata == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.safetensors"]


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    write_checkpoint(path, {"w": torch.ones(300)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HalfWrittenError, match="empty or cut short; remove it to start anew"):
        read_checkpoint(path)
