"""Optimizers by name and the learning rate as a function of the step."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adasap.errors import RecipeError
from adasap.training import OptimizerOptions, ScheduleOptions, build_optimizer, learning_rate_factor


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "NAdam", "Adagrad"])
def test_any_torch_optimizer_is_built_by_name(name: str) -> None:
    optimizer = build_optimizer(net(), OptimizerOptions(name=name, learning_rate=0.1))
    assert isinstance(optimizer, getattr(torch.optim, name))


def test_norms_and_biases_do_not_decay_by_default() -> None:
    decays = {
        p.ndim: group["weight_decay"]
        for group in build_optimizer(net(), OptimizerOptions(weight_decay=0.1)).param_groups
        for p in group["params"]
    }
    assert decays == {4: 0.1, 2: 0.1, 1: 0.0}
    whole = build_optimizer(net(), OptimizerOptions(weight_decay=0.1, decay_norms=True))
    assert [len(group["params"]) for group in whole.param_groups] == [6]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (OptimizerOptions(name="Adamw"), "did you mean .AdamW."),
        (OptimizerOptions(options={"speed": 1}), "refuses"),
        (OptimizerOptions(options={"momentum": -1.0}), "refuses"),
    ],
)
def test_impossible_optimizers_are_refused(options: OptimizerOptions, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build_optimizer(net(), options)


def test_a_frozen_model_cannot_be_trained() -> None:
    with pytest.raises(RecipeError, match="no trainable parameter"):
        build_optimizer(net().requires_grad_(False), OptimizerOptions())


def test_cosine_equals_torch_with_linear_warm_up() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    for step in range(40):
        ours = learning_rate_factor(step + 10, 50, ScheduleOptions(), warm_up_steps=10)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-9)
        optimizer.step()
        cosine.step()
    rising = [learning_rate_factor(s, 50, ScheduleOptions(), warm_up_steps=10) for s in range(11)]
    assert rising == pytest.approx([(s + 1) / 11 for s in range(11)])


def test_step_and_constant() -> None:
    options = ScheduleOptions(name="step", milestones=(0.5, 0.75), gamma=0.1)
    factors = [learning_rate_factor(s, 8, options) for s in range(8)]
    assert factors == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    assert learning_rate_factor(7, 8, ScheduleOptions(name="constant")) == 1.0
