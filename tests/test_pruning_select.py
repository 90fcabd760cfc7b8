"""The ranking: lowest scores go, no more of them than needed, and floors hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from adasap.errors import BudgetError
from adasap.groups.group import ChannelGroup, Slot, fingerprint
from adasap.pruning import Budget, Parameters, PruningPlan, select_channels
from criteria_nets import each, plain_net


def rows(*counts: int) -> tuple[nn.Module, tuple[ChannelGroup, ...], Parameters]:
    """Groups of bias-free linear rows of one entry each, so that a channel costs exactly one parameter."""
    net = nn.ModuleList([nn.Linear(1, count, bias=False) for count in counts])
    groups = tuple(
        ChannelGroup(str(i), count, (Slot(f"{i}.weight", 0, "producer", each(count)),))
        for i, count in enumerate(counts)
    )
    return net, groups, Parameters(net, groups)


def kept(plan: PruningPlan) -> dict[str, list[int]]:
    return {name: indices.tolist() for name, indices in plan.kept.items()}


def test_the_lowest_of_the_whole_model_go_and_no_more() -> None:
    _, groups, cost = rows(3, 3)
    scores = {"0": torch.tensor([0.5, 0.1, 0.9]), "1": torch.tensor([0.2, 0.8, 0.3])}
    plan = select_channels(groups, scores, Budget(cost, limit=3))
    assert kept(plan) == {"0": [0, 2], "1": [1]}
    assert plan.fingerprint == fingerprint(groups)
    assert cost.total(plan.widths()) == 3


@pytest.mark.parametrize("limit", range(4, 41))
def test_one_removal_fewer_would_not_be_enough(limit: int) -> None:
    _, groups, cost = rows(20, 15, 5, 1)
    scores = {g.name: torch.rand(g.num_channels, generator=torch.Generator().manual_seed(limit)) for g in groups}
    plan = select_channels(groups, scores, Budget(cost, limit=limit))
    assert cost.total(plan.widths()) == limit


def test_a_budget_that_is_met_keeps_all() -> None:
    net, groups = plain_net()
    scores = {group.name: torch.zeros(group.num_channels) for group in groups}
    for budget in (Budget(Parameters(net, groups), kept=1.0), Budget(Parameters(net, groups), limit=1e9)):
        plan = select_channels(groups, scores, budget)
        assert plan.keeps_all
        assert "fc" not in plan.kept


def test_equal_scores_go_in_order() -> None:
    _, groups, cost = rows(3, 3)
    scores = {"0": torch.ones(3), "1": torch.ones(3)}
    plans = [select_channels(groups, scores, Budget(cost, limit=3)) for _ in range(2)]
    assert kept(plans[0]) == kept(plans[1]) == {"0": [2], "1": [1, 2]}


def test_floors_hold() -> None:
    _, groups, cost = rows(6, 6)
    scores = {"0": torch.zeros(6), "1": torch.ones(6)}
    plan = select_channels(groups, scores, Budget(cost, limit=8), min_channels=2, floors={"0": 4, "1": 1})
    assert plan.widths() == {"0": 4, "1": 4}
    assert select_channels(groups, scores, Budget(cost, limit=8), floors={"1": 99}).widths() == {
        "0": 2,
        "1": 6,
    }


@pytest.mark.parametrize("step", [2, 3, 4, 8])
def test_widths_are_multiples_or_whole(step: int) -> None:
    counts = (20, 16, 5, 2)
    _, groups, cost = rows(*counts)
    draw = torch.Generator().manual_seed(step)
    scores = {g.name: torch.rand(g.num_channels, generator=draw) for g in groups}
    smallest = sum(min(count, step) for count in counts)
    for limit in range(smallest, sum(counts) + 1):
        plan = select_channels(groups, scores, Budget(cost, limit=limit), multiple_of=step)
        assert limit - step < cost.total(plan.widths()) <= limit
        for count, width in zip(counts, plan.widths().values(), strict=True):
            assert width == count or width % step == 0


def test_in_a_bundle_the_lowest_channels_go_together() -> None:
    _, groups, cost = rows(6)
    scores = {"0": torch.tensor([5.0, 0.0, 4.0, 1.0, 3.0, 2.0])}
    assert kept(select_channels(groups, scores, Budget(cost, limit=5), multiple_of=4)) == {"0": [0, 2, 4, 5]}


def test_an_impossible_budget_says_what_to_do() -> None:
    _, groups, cost = rows(6, 6)
    scores = {"0": torch.zeros(6), "1": torch.ones(6)}
    wanted = (
        r"cannot reach 3 parameters: keeping min_channels=2 in each of 2 groups still costs 4 of 12; "
        r"raise the budget or lower min_channels"
    )
    with pytest.raises(BudgetError, match=wanted):
        select_channels(groups, scores, Budget(cost, limit=3), min_channels=2)
    with pytest.raises(BudgetError, match=r"multiples of 4 .*floors in 1 of them.*multiple_of or the floors"):
        select_channels(groups, scores, Budget(cost, limit=3), multiple_of=4, floors={"0": 2})
    frozen = tuple(ChannelGroup(g.name, 6, g.slots, frozen=("kept",)) for g in groups)
    with pytest.raises(BudgetError, match=r"no group of the model can lose channels .2 frozen: kept"):
        select_channels(frozen, scores, Budget(Parameters(*rows(6, 6)[:2]), kept=0.5))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_scores_that_are_not_finite_name_the_group(bad: float) -> None:
    _, groups, cost = rows(3, 3)
    scores = {"0": torch.ones(3), "1": torch.tensor([1.0, bad, 1.0])}
    with pytest.raises(ValueError, match="group '1' are not finite for 1 of 3"):
        select_channels(groups, scores, Budget(cost, kept=0.5))


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        ({"0": torch.ones(3)}, {}, "no scores for group '1'"),
        ({"0": torch.ones(3), "1": torch.ones(2)}, {}, r"shape \(2,\), wanted \(3,\)"),
        ({"0": torch.ones(3), "1": torch.ones(3)}, {"min_channels": 0}, "at least 1"),
        ({"0": torch.ones(3), "1": torch.ones(3)}, {"floors": {"conv": 1}}, "'conv'"),
    ],
)
def test_arguments_are_checked(scores: dict[str, Tensor], options: dict[str, int], message: str) -> None:
    _, groups, cost = rows(3, 3)
    with pytest.raises(ValueError, match=message):
        select_channels(groups, scores, Budget(cost, kept=0.5), **options)  # type: ignore[arg-type]
