"""A growing penalty: which numbers it reaches, how strongly, and what is left of them when the cut comes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import adasap
from adasap.criteria import score
from adasap.errors import RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.extras.growing_penalty import GrowingPenalty
from adasap.groups import ChannelGroup, Scores, Slot
from adasap.models import open_model
from adasap.pruning import PruningOptions, PruningPlan
from adasap.training import CompressionRun, Record, StepRecord, ignore
from adasap.training.checkpoint import read_checkpoint
from criteria_nets import Plain, each, plain_net

Tree = dict[str, Any]
TinyRecipe = Callable[..., Tree]
GOING = {"conv1": [1, 4], "conv2": [0]}


def choose(groups: Sequence[ChannelGroup], scores: Scores) -> PruningPlan:
    """Two channels of the first group go and one of the second, whatever the scores."""
    return PruningPlan.of(groups, {"conv1": [0, 2, 3, 5], "conv2": [1, 2, 3]})


def with_unit_gradients(net: Plain) -> Plain:
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    return net


def penalty(net: Plain) -> Tensor:
    """1/2 * sum of w^2 over what the channels to go produce with, by loops."""
    total = torch.zeros(())
    for channel in GOING["conv1"]:
        for numbers in (net.conv1.weight, net.conv1.bias, net.bn1.weight, net.bn1.bias):
            total = total + 0.5 * numbers[channel].square().sum()  # type: ignore[index]
    for channel in GOING["conv2"]:
        for numbers in (net.conv2.weight, net.bn2.weight, net.bn2.bias):
            total = total + 0.5 * numbers[channel].square().sum()
    return total


def test_it_is_the_gradient_of_the_penalty_and_reaches_nothing_else() -> None:
    net, groups = plain_net()
    preparation = GrowingPenalty(growth=0.25, every=2)
    preparation.begin(net, groups, choose)
    expected = torch.autograd.grad(penalty(net), list(net.parameters()), allow_unused=True)
    for step, factor in ((0, 0.0), (3, 0.25), (8, 1.0), (100, 1.0)):
        preparation.before_step_(step, with_unit_gradients(net), groups)
        for parameter, gradient in zip(net.parameters(), expected, strict=True):
            added = torch.zeros_like(parameter) if gradient is None else factor * gradient
            torch.testing.assert_close(parameter.grad, 1 + added)
            assert (parameter.grad[added == 0] == 1).all()  # type: ignore[index]


def test_parameters_without_a_gradient_get_none() -> None:
    net, groups = plain_net()
    preparation = GrowingPenalty()
    preparation.begin(net, groups, choose)
    preparation.before_step_(50, net, groups)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_channels_are_chosen_anew_every_so_many_steps_and_after_a_cut() -> None:
    net, groups = plain_net()
    chosen: list[Tensor] = []

    def watch(now: Sequence[ChannelGroup], scores: Scores) -> PruningPlan:
        chosen.append(scores["conv1"])
        return choose(now, scores)

    preparation = GrowingPenalty(score="l2", every=3)
    preparation.begin(net, groups, watch)
    for step in range(7):
        preparation.before_step_(step, net, groups)
    assert len(chosen) == 3
    assert torch.equal(chosen[0], score("l2", net, groups)["conv1"])
    preparation.before_step_(7, net, (*groups[:2], groups[2]))
    assert len(chosen) == 4


def test_options_are_checked() -> None:
    assert PruningOptions(prepare={"kind": "growing_l2"}).prepare["ceiling"] == 1.0
    with pytest.raises(RecipeError, match="there is no preparation 'growing'; did you mean 'growing_l2'"):
        PruningOptions(prepare={"kind": "growing"})
    with pytest.raises(RecipeError, match=r"there is no preparation \['none'\]"):
        PruningOptions(prepare={"kind": ["none"]})
    with pytest.raises(RecipeError, match=r"pruning\.prepare is 'none'; give kind"):
        PruningOptions(prepare="none")  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match=r"unknown key 'pruning\.prepare\.grow'; did you mean 'growth'"):
        PruningOptions(prepare={"kind": "growing_l2", "grow": 1})
    with pytest.raises(RecipeError, match="'taylor' needs gradients; use l1"):
        GrowingPenalty(score="taylor")
    with pytest.raises(RecipeError, match="every of at least 1"):
        GrowingPenalty(every=0)


def test_slots_that_share_an_index_are_penalised_once() -> None:
    net = nn.Linear(2, 5, bias=False)
    slots = (Slot("weight", 0, "producer", each(3)), Slot("weight", 0, "producer", each(3, start=2)))
    group = ChannelGroup("g", 3, slots)
    preparation = GrowingPenalty(growth=1.0, every=1)
    preparation.begin(net, (group,), lambda g, s: PruningPlan.of(g, {"g": [1]}))
    net.weight.grad = torch.zeros_like(net.weight)
    preparation.before_step_(1, net, (group,))
    assert torch.equal(net.weight.grad[[0, 2, 4]], net.weight[[0, 2, 4]].detach())
    assert (net.weight.grad[[1, 3]] == 0).all()


# In a run


def compressed(tree: Tree, folder: Path | None = None, observe: Callable[[Record], None] = ignore) -> adasap.Result:
    recipe = parse_recipe(tree)
    torch.manual_seed(0)
    return adasap.compress(
        open_model(recipe.model), open_task(recipe), open_data(recipe), recipe, folder=folder, observe=observe
    )


def prepared(**options: Any) -> Tree:
    return {"pruning": {"criterion": "l1", "prepare": {"kind": "growing_l2", "every": 1, **options}}}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adaptive", "plain"])
def test_channels_have_all_but_vanished_when_they_are_cut(tiny_recipe: TinyRecipe, kind: str) -> None:
    def lowest(sections: Tree) -> float:
        recipe = parse_recipe(tiny_recipe(warm_up={"epochs": 4, "sharpness": {"kind": kind}}, **sections))
        torch.manual_seed(0)
        model = open_model(recipe.model)
        run = CompressionRun(model, open_task(recipe), open_data(recipe), recipe, folder=None, observe=ignore)
        run.train("warm-up", until=run.timetable.warm_up_end)
        scores = score("l1", run.state.model, run.dense_groups)
        plan = run.selection.plan(run.dense_groups, scores, run.timetable.events[-1].limit)
        gone = [scores[name][~torch.isin(torch.arange(len(scores[name])), kept)] for name, kept in plan.kept.items()]
        return float(torch.cat(gone).mean())

    assert lowest(prepared(growth=0.2, ceiling=20.0)) < 0.2 * lowest({"pruning": {"criterion": "l1"}})


@pytest.mark.slow
def test_no_growth_is_no_preparation_bit_for_bit(tiny_recipe: TinyRecipe) -> None:
    plain, zero = (
        compressed(tiny_recipe(**sections)).model.state_dict()
        for sections in ({"pruning": {"criterion": "l1"}}, prepared(growth=0.0))
    )
    assert [name for name in plain if not torch.equal(plain[name], zero[name])] == []


@pytest.mark.slow
def test_a_resumed_run_prepares_the_same_channels(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    tree = tiny_recipe(pruning=prepared(growth=0.1, every=4)["pruning"], training={"checkpoint_every": 1})

    def snapshot(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step in (7, 12):
            shutil.copytree(tmp_path / "whole", tmp_path / f"killed{record.step}")

    compressed(tree, tmp_path / "whole", snapshot)
    whole = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    for step, begun in ((7, 4), (12, 10)):  # a multiple of `every`; a cut
        assert read_checkpoint(tmp_path / f"killed{step}" / "checkpoint.safetensors")[1]["counters"]["step"] == begun
        compressed(tree, tmp_path / f"killed{step}")
        resumed = load_file(tmp_path / f"killed{step}" / "checkpoint.safetensors")
        assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
