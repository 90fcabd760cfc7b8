"""Any criterion with any way of preparing and selecting, under plain and sharpness-aware steps, on a tiny network."""

from __future__ import annotations

import pytest
import torch

import adasap
from adasap.criteria import CRITERIA
from adasap.data import InMemoryImages
from adasap.pruning import BudgetOptions, MACs, PruningOptions
from adasap.training import (
    Compression,
    Data,
    FineTuneOptions,
    PhaseOptions,
    PruneRecord,
    Record,
    RuntimeOptions,
    SharpnessOptions,
    TrainingOptions,
)
from adasap.training.options import FinalSharpnessOptions
from criteria_nets import plain_net

SEARCH = {"selection": "candidates", "selection_options": {"count": 3, "calibration_batches": 1, "scoring_batches": 1}}
WAYS = {
    "growing_l2": {"prepare": {"kind": "growing_l2", "growth": 0.1, "every": 2}},
    "soft_masks": {"prepare": {"kind": "soft_masks"}},
    "candidates": SEARCH,
    "soft_masks, candidates": {"prepare": {"kind": "soft_masks"}, **SEARCH},
    "soft_masks, knapsack": {"prepare": {"kind": "soft_masks"}, "selection": "knapsack"},
    "soft_masks, isomorphic": {"prepare": {"kind": "soft_masks"}, "ranking": "isomorphic"},
}
STEPS = ("plain", "adaptive")
FAST = {
    ("soft_masks", "taylor", "adaptive"),
    ("soft_masks, knapsack", "l2", "plain"),
    ("soft_masks, candidates", "apoz", "adaptive"),
    ("growing_l2", "fpgm", "plain"),
}


def combinations() -> list[object]:
    """Every criterion in one way and every way with one criterion of each kind of evidence; ways and steps take turns.

    A way sees scores, never the criterion that they are of.
    """
    every = [(way, name, i + j) for i, way in enumerate(WAYS) for j, name in enumerate(sorted(CRITERIA))]
    some = ("l2", "taylor", "apoz")
    turns = [(way, name, STEPS[n % 2]) for way, name, n in every if n % len(WAYS) == 0 or name in some]
    wanted = sorted({*turns, *FAST})
    return [pytest.param(*case, id="-".join(case), marks=() if case in FAST else pytest.mark.slow) for case in wanted]


def data() -> Data:
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (48, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return Data(InMemoryImages(images, torch.arange(48) % 3), suites=(), example_inputs=torch.zeros(1, 3, 6, 6))


@pytest.mark.slow
@pytest.mark.parametrize(("way", "criterion", "steps"), combinations())
def test_it_compresses_to_the_budget_and_every_cut_is_the_masked_model(way: str, criterion: str, steps: str) -> None:
    net, groups = plain_net(first=8, second=8)
    inputs = torch.zeros(1, 3, 6, 6)
    dense = MACs(net, groups, inputs).dense
    sharpness = SharpnessOptions(kind=steps)  # type: ignore[arg-type]
    config = Compression(
        training=TrainingOptions(batch_size=8, runtime=RuntimeOptions(device="cpu", precision="float32")),
        warm_up=PhaseOptions(epochs=0.5, sharpness=sharpness),
        pruning=PruningOptions(
            epochs=1.0,
            criterion=criterion,
            budget=BudgetOptions(macs=0.5),
            events=3,
            every=2,
            recalibration_batches=1,
            **WAYS[way],  # type: ignore[arg-type]
        ),
        fine_tune=FineTuneOptions(epochs=0.25, sharpness=FinalSharpnessOptions(rho=0.1)),
    )
    records: list[Record] = []
    task = adasap.ClassificationTask(mean=(0.5,) * 3, std=(0.5,) * 3)
    result = adasap.compress(net, task, data(), config, observe=records.append)
    events = [record for record in records if isinstance(record, PruneRecord)]
    masks = way.startswith("soft_masks")
    assert [event.removed > 0 for event in events] == ([False, False, True] if masks else [True] * 3)
    assert [event.masked > 0 for event in events] == ([True, True, False] if masks else [False] * 3)
    assert all(event.mask_error < 1e-5 and event.cost <= event.cost_limit for event in events)
    assert MACs(net, (), inputs).dense == events[-1].cost <= 0.5 * dense
    assert all(bool(p.isfinite().all()) for p in result.model.parameters())
