"""The CIFAR-10 recipes of networks trained from scratch take real steps, here on digits of the same size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import adasap
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import read_recipe
from adasap.models import open_model

RECIPES = Path(__file__).parents[1] / "recipes" / "cifar10"
SHORT = {
    "data.train": {"kind": "digits"},
    "data.test": {"kind": "digits", "count": 8},
    "data.suites": {},
    "training.batch_size": 24,
    "training.runtime.precision": "float32",
    "warm_up.epochs": 0.04,  # two of 56 steps an epoch
    "pruning.epochs": 0.08,
    "pruning.events": 2,
    "pruning.every": 2,
    "pruning.recalibration_batches": 1,
    "fine_tune.epochs": 0.04,
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kept"), [("mobilenet_v2_adasap", 0.4), ("vit_adasap", 0.5)])
def test_networks_from_scratch_meet_their_budgets(name: str, kept: float) -> None:
    recipe = read_recipe(RECIPES / f"{name}.yaml", [f"{k}={json.dumps(v)}" for k, v in SHORT.items()])
    model = open_model(recipe.model)
    before = sum(p.numel() for p in model.parameters())
    result = adasap.compress(model, open_task(recipe), open_data(recipe), recipe)
    after = sum(p.numel() for p in result.model.parameters())
    assert 0.9 * kept * before < after <= kept * before
    assert result.counters.passes == 2 * result.counters.step > 8
