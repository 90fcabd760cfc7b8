"""Curves reach the trackers of Accelerate, and a resumed run goes on in the same run there."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adasap.errors import RecipeError, TrainingError
from adasap.report.records import PruneRecord, Record, StageRecord, StepRecord
from adasap.sharpness.perturbation import KINDS
from adasap.training import TrainingOptions, trackers
from adasap.training.trackers import Trackers
from test_readme import ROOT


def step(number: int) -> StepRecord:
    return StepRecord(number, "warm-up", 1.0 / number, 0.125, 0.01, 1.0, True, 2.0, 0.1)


def watched(names: list[str], folder: Path, *records: Record) -> dict[str, str]:
    """One process of a run; gives what the folder then knows of its trackers."""
    observer = Trackers(names, folder, "tiny", {"seed": 3, "training.batch_size": 32}, every=1)
    for record in records:
        observer(record)
    observer.close()
    known: dict[str, str] = json.loads((folder / "trackers.json").read_text())
    return known


def test_a_tracker_that_is_not_there_is_refused_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no tracker 'wandbb'; did you mean 'wandb'"):
        TrainingOptions(trackers=("wandbb",))
    with pytest.raises(RecipeError, match=r"there is no tracker 'x'; there are: .*mlflow.*tensorboard"):
        TrainingOptions(trackers=("x",))
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="trackers names wandb, which is not installed; `pip install wandb`"):
        Trackers(["wandb"], tmp_path, "tiny")


def test_the_page_lists_the_curves() -> None:
    shares = dict.fromkeys(KINDS, 0.25)
    full = replace(step(10), radius_shares=shares, linear_rise=0.1, radius_factor=1.0)
    errors = {"conv": (0.5, 0.1)}
    cuts = [
        PruneRecord(1, 1, 1, 5.0, 6.0, unit, 3, 0.0, 0.1, layer_errors=errors) for unit in ("MACs", "parameters", "ms")
    ]
    records: list[Record] = [full, *cuts, StageRecord(3, "pruned", {"clean": 0.5}, 0.1)]
    written = {name for record in records for name in trackers._curves(record, every=10)}
    page = (ROOT / "docs" / "logs.md").read_text()
    listed = set(re.findall(r"`((?:train|sharpness|pruning|evaluation)/[a-z_]+)`", page))
    assert listed == written


@pytest.mark.filterwarnings("ignore")
def test_mlflow_goes_on_in_its_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    mlflow: Any = pytest.importorskip("mlflow", reason="needs MLflow: pip install mlflow-skinny")
    place = (tmp_path / "store").as_uri()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", place)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")
    with pytest.raises(TrainingError, match=r"the tracker mlflow cannot be opened .*leave mlflow out of training\."):
        watched(["mlflow"], tmp_path, step(1))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    known = watched(["mlflow"], tmp_path, step(1), step(2))
    assert watched(["mlflow"], tmp_path, step(3), StageRecord(3, "pruned", {"a[b]": 0.5}, 0.1)) == known
    client = mlflow.MlflowClient(place)
    found = client.get_run(known["mlflow"])
    assert (found.info.run_name, found.data.params["training.batch_size"]) == ("tiny", "32")
    losses = client.get_metric_history(known["mlflow"], "train/loss")
    assert [(point.step, point.value) for point in losses] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert found.data.metrics["evaluation/a_b_"] == 0.5
    assert len(client.search_runs([found.info.experiment_id])) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_writes_offline_and_goes_on_under_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason="needs Weights & Biases: pip install wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    known = watched(["wandb"], tmp_path, step(1))
    assert watched(["wandb"], tmp_path, step(2)) == known
    files = list(tmp_path.glob(f"wandb/offline-run-*/run-{known['wandb']}.wandb"))
    assert files
    assert all(b"train/loss" in file.read_bytes() for file in files)
    assert any(b"training.batch_size" in file.read_bytes() for file in files)
