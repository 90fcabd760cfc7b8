"""Profiles and tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from adasap.evaluation import CLEAN, Cell, SuiteResult
from adasap.metric import Metric
from adasap.profiling.profile import measure_latency, peak_memory_bytes, profile_models
from adasap.report import Table, corruption_table, gap_table, profile_table, stage_table
from adasap.training import PruneRecord, StageRecord, StepRecord
from adasap.training.trackers import Trackers


class Chain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 1, bias=False)
        self.narrow = nn.Conv2d(8, 1, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.narrow(self.wide(x)).flatten(1)


ACCURACY = Metric("accuracy", "accuracy")


def test_profile_counts_what_can_be_counted_by_hand() -> None:
    profile = profile_models({"chain": Chain()}, torch.zeros(1, 3, 4, 4), batch_sizes=(1, 2), seconds=0.01)["chain"]
    assert profile.parameters == 3 * 8 + 8
    assert profile.macs == 16 * (3 * 8 + 8)
    assert [latency.batch_size for latency in profile.latency] == [1, 2]
    assert all(0 < latency.p50_ms <= latency.p95_ms for latency in profile.latency)


def test_peak_memory_is_weights_and_the_largest_live_activations() -> None:
    # One image of 4 x 4: 8 channels wide, then 1 beside it; the input is the caller's.
    assert peak_memory_bytes(Chain(), torch.zeros(1, 3, 4, 4)) == 4 * (32 + 16 * 8 + 16)


def test_models_are_measured_in_turns() -> None:
    order: list[str] = []

    class Named(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            order.append(self.name)
            return x

    measure_latency({"a": Named("a"), "b": Named("b")}, torch.zeros(1, 1), seconds=0.0, at_least=4)
    assert order[:4] == ["a", "b", "a", "b"]


WEAK, STRONG = Cell("fog", 1), Cell("fog", 3)


def test_stages_show_ratios_with_both_terms() -> None:
    clean = SuiteResult("clean", {CLEAN: torch.tensor([1.0, 1.0, 1.0, 0.0])})
    corrupted = SuiteResult("corrupted", {WEAK: torch.tensor([1.0, 0.0, 0.0, 0.0]), STRONG: torch.ones(4)})
    stages = {"dense": {"clean": clean, "corrupted": corrupted}}
    stages["fine-tuned"] = {
        "clean": clean,
        "corrupted": SuiteResult("corrupted", {WEAK: torch.ones(4), STRONG: torch.zeros(4)}),
    }
    lines = str(stage_table(stages, ACCURACY)).splitlines()
    assert lines[0] == "| stage | clean | corrupted | corrupted / clean |"
    assert lines[2] == "| dense | 75.00 | 62.50 | 0.833 |"
    assert "| fog | 62.50 | 50.00 | 1: 100.0, 3: 0.0 |" in str(corruption_table(stages, ACCURACY))
    assert corruption_table({"dense": {"clean": clean}, "fine-tuned": {"clean": clean}}, ACCURACY) is None


def test_gaps_are_means_over_a_tenth_of_a_phase() -> None:
    steps = [{"phase": "warm-up", "gap": float(i)} for i in range(20)] + [{"phase": "fine-tuning", "gap": None}] * 5
    assert str(gap_table(steps)).splitlines()[2:] == ["| warm-up | 0.5000 | 18.5000 |"]
    assert gap_table([{"phase": "warm-up", "gap": None}]) is None


def test_tables_show_fractions_of_the_first_model() -> None:
    models = {"dense": nn.Conv2d(4, 4, 1, bias=False), "pruned": nn.Conv2d(4, 2, 1, bias=False)}
    text = str(profile_table(profile_models(models, torch.zeros(1, 4, 2, 2), batch_sizes=(1,), seconds=0.01)))
    assert "| parameters | 16 | 8 (0.50x) |" in text
    assert "| MACs | 64 | 32 (0.50x) |" in text


def test_the_last_stage_has_its_interval() -> None:
    result = SuiteResult("clean", {CLEAN: torch.tensor([1.0, 0.0, 1.0, 1.0])})
    text = str(stage_table({"dense": {"clean": result}, "fine-tuned": {"clean": result}}, ACCURACY))
    lines = text.splitlines()
    assert lines[2] == "| dense | 75.00 |"
    assert lines[3].startswith("| fine-tuned | 75.00 (25.0 to 100.0")
    assert str(Table(["a"], [])) == "| a |\n|---|"


def test_curves_are_written_for_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    observer = Trackers(["tensorboard"], tmp_path, "run", every=1)
    shares = {"filters": 1.0}
    observer(StepRecord(1, "warm-up", 2.0, 0.5, 0.1, 1.0, True, 2, 0.1, shares, linear_rise=0.25, radius_factor=0.75))
    observer(PruneRecord(2, 1, 1, 50.0, 60.0, "MACs", 3, 1e-7, 0.1))
    observer(StageRecord(2, "pruned", {"clean": 0.5}, 0.1))
    observer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert events.Scalars("sharpness/gap")[0].value == pytest.approx(0.5)
    assert events.Scalars("sharpness/linear_rise")[0].value == pytest.approx(0.25)
    assert events.Scalars("sharpness/radius_factor")[0].value == pytest.approx(0.75)
    assert events.Scalars("pruning/macs")[0].value == pytest.approx(50.0)
    assert events.Scalars("evaluation/clean")[0].step == 2
