"""Sweeps of real runs: a killed one goes on, a failing cell is kept apart, and Ray gives the same numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from adasap.cli import app
from adasap.cli.runs import run_cell
from adasap.errors import ModelError
from adasap.experiments.sweep import Cell, expand, read_sweep, run_cells
from adasap.experiments.sweep.cluster import run_on_cluster
from adasap.experiments.sweep.file import ClusterOptions
from adasap.experiments.sweep.running import FAILURE

Tree = dict[str, Any]
RUNNER = CliRunner()


@pytest.fixture
def sweep_file(tiny_recipe: Callable[..., Tree], tmp_path: Path) -> Path:
    """Two runs of a few steps and one that fails when it begins; two seeds."""
    data = {"train": {"kind": "digits", "count": 64}, "test": {"kind": "digits", "count": 40}}
    tree = tiny_recipe(data=data, training={"batch_size": 16, "checkpoint_every": 2})
    dense = tiny_recipe(
        name="tiny_dense",
        data=data,
        training={"batch_size": 16},
        warm_up={"epochs": 0},
        pruning={"epochs": 0, "budget": {"macs": 1.0}, "schedule": "one_shot", "events": 1},
        fine_tune={"epochs": 2, "sharpness": {"kind": "plain"}},
    )
    for name, content in {"tiny.yaml": tree, "dense.yaml": dense}.items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    sweep = {
        "name": "trial",
        "recipe": "tiny.yaml",
        "dense": "dense.yaml",
        "seeds": 2,
        "runs": {
            "adasap": {},
            "plain": {"set": {"warm_up.sharpness": {"kind": "plain"}, "fine_tune.sharpness": {"kind": "plain"}}},
            "broken": {"set": {"data.test.count": 4000}},
        },
        "baselines": ["plain"],
        "primary": {"run": "adasap", "baseline": "plain", "suite": "corrupted"},
    }
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    return tmp_path / "sweep.yaml"


KILLED = """
import os, signal
import adasap.sharpness.step
from adasap.cli.main import main
step, calls = adasap.sharpness.step.Step, 0
make = step._pass
def killing(self):
    global calls
    calls += 1
    if calls == 14:  # past the eight steps of the dense model, in the pruning steps of the first run
        os.kill(os.getpid(), signal.SIGKILL)
    return make(self)
step._pass = killing
main()
"""


def weights_of(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}/{name}": tensor
        for path in sorted(out.glob("cells/*/model.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_a_failing_cell_is_kept_apart(sweep_file: Path, tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "sweep", str(sweep_file), "--out", str(killed)], env=environment
    )
    assert done.returncode == -9
    finished = list(killed.glob("cells/*/result.json"))
    begun = [
        p.parent for p in killed.glob("cells/*/checkpoint.safetensors") if not (p.parent / "result.json").is_file()
    ]
    assert len(finished) == len(begun) == 1  # the dense model, and the run that was cut off
    before = finished[0].stat().st_mtime_ns

    result = RUNNER.invoke(app, ["sweep", str(sweep_file), "--out", str(killed)], env={"COLUMNS": "200"})
    assert result.exit_code == 1, result.output
    assert "1 of 8: dense, seed 0: found" in result.output
    assert "2 of 8: plain, seed 0: finished" in result.output  # the shortest first
    assert ": plain, seed 0\n" in result.output  # in a log a cell is told as any run is
    assert ": fine-tuned   clean" in result.output
    assert "broken, seed 0: failed" in result.output
    assert "wanted 4000 images" in result.output
    assert finished[0].stat().st_mtime_ns == before
    page = (killed / "trial" / "sweep.md").read_text()
    assert "- broken, seed 1: DataError: digits: wanted 4000 images" in page
    results = json.loads((killed / "trial" / "sweep.json").read_text())
    adasap, plain = (results["runs"][run]["cells"] for run in ("adasap", "plain"))
    assert [cell["passes"] for cell in (adasap["0"], plain["0"])] == [24, 12]
    gaps = [adasap[seed]["scores"]["corrupted"] - plain[seed]["scores"]["corrupted"] for seed in ("0", "1")]
    assert results["comparisons"][0]["value"] == pytest.approx(sum(gaps) / 2, abs=1e-6)
    assert not (killed / "trial" / "report.html").exists()  # no seed is finished in all three runs

    taken = ["sweep", str(sweep_file), "--out", str(tmp_path / "other"), "--results", str(killed / "trial/sweep.json")]
    listed = RUNNER.invoke(app, [*taken, "--dry-run"], env={"COLUMNS": "200"})
    assert "8 cells, 4 to run, in this order: the shortest first" in listed.output  # two broken ones, two dense
    listed = RUNNER.invoke(app, [*taken, "--for", "1s"], env={"COLUMNS": "200"})
    assert listed.exit_code == 0, listed.output
    assert "Time is up: 3 of 8 cells not begun; run it again to go on" in listed.output
    again = json.loads((killed / "trial" / "sweep.json").read_text())
    assert again["comparisons"] == results["comparisons"]

    cells = [cell for cell in expand(read_sweep(sweep_file), tmp_path) if cell.run != "broken" and cell.seed == 0]
    assert {outcome.state for outcome in run_cells(cells, whole, run_cell)} == {"finished"}
    ours, theirs = weights_of(whole), weights_of(killed)
    assert ours
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []

    sweep_file.write_text(sweep_file.read_text().replace("data.test.count: 4000", "fine_tune.epochs: 0.5"))
    result = RUNNER.invoke(app, ["sweep", str(sweep_file), "--out", str(killed)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert (killed / "trial" / "report.html").stat().st_size > 1_000_000


@pytest.mark.slow
def test_on_a_cluster_a_killed_worker_is_replaced_and_the_numbers_are_the_same(
    sweep_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default Ray's workers wait for the tests beside them

    def killed_once(cell: Cell, out: Path) -> None:
        import signal

        from adasap.sharpness import step

        marker, make, calls = out / f"killed-{cell.run}", step.Step._pass, []
        if cell.run == "broken":
            os.kill(os.getpid(), signal.SIGKILL)  # again and again

        def killing(step: Any) -> Any:
            calls.append(step)
            if cell.run == "adasap" and len(calls) == 9 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return make(step)

        step.Step._pass = killing
        try:
            run_cell(cell, out)
        finally:
            step.Step._pass = make

    cells = [cell for cell in expand(read_sweep(sweep_file), tmp_path) if cell.seed == 0]
    out, here = tmp_path / "cluster", tmp_path / "here"
    out.mkdir()
    options = ClusterOptions(retries=1)
    outcomes = list(run_on_cluster(cells, out, killed_once, options, address="local", workers=2))
    assert {o.cell.run: o.state for o in outcomes} == {
        "dense": "finished",
        "adasap": "finished",
        "plain": "finished",
        "broken": "failed",
    }
    assert "WorkerCrashedError" in next(o.error for o in outcomes if o.cell.run == "broken")
    assert len(list(out.rglob(FAILURE))) == 1
    assert (out / "killed-adasap").exists()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray's workers
    try:
        list(run_cells(cells[:3], here, run_cell))
    finally:
        torch.set_num_threads(threads)
    ours, theirs = weights_of(here), weights_of(out)
    assert ours
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_the_error_of_a_cell_is_told_in_the_words_of_the_command_line(
    sweep_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ModelError("code that is not trusted; pass builder=<the function>, or trust_builder=True")

    monkeypatch.setattr("adasap.experiments.sweep.run.run_recipe", refuse)
    out = sweep_file.parent / "out"
    outcome = next(run_cells(expand(read_sweep(sweep_file), sweep_file.parent), out, run_cell))
    assert outcome.error == "ModelError: code that is not trusted; give --trust-builder"
    assert json.loads((outcome.cell.folder(out) / FAILURE).read_text())["error"] == outcome.error
