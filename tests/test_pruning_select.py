"""The ranking: lowest scores go, no more of them than needed, and floors hold."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from adasap.errors import BudgetError
from adasap.groups import trace_groups
from adasap.groups.group import ChannelGroup, Slot, fingerprint
from adasap.models.digits import digits_net
from adasap.pruning import Budget, Parameters, PruningPlan, ranking_classes, select_channels
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


# Rankings


def draws(groups: tuple[ChannelGroup, ...], seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.rand(g.num_channels, generator=generator) * 10**i for i, g in enumerate(groups)}


def each_alone(groups: tuple[ChannelGroup, ...]) -> dict[str, str]:
    return {group.name: group.name for group in groups}


@pytest.mark.parametrize("limit", range(4, 41, 3))
def test_uniform_takes_the_same_fraction_of_every_group_lowest_first(limit: int) -> None:
    _, groups, cost = rows(20, 15, 5, 1)
    scores = draws(groups)
    plan = select_channels(groups, scores, Budget(cost, limit=limit), classes=each_alone(groups))
    assert cost.total(plan.widths()) == limit
    gone = {g.name: (g.num_channels - plan.widths()[g.name]) / g.num_channels for g in groups if g.num_channels > 1}
    for one in gone:
        for other in gone:
            assert abs(gone[one] - gone[other]) <= 1 / 5 + 1e-9
    for group in groups:
        count = len(plan.kept[group.name])
        assert set(plan.kept[group.name].tolist()) == set(scores[group.name].topk(count).indices.tolist())


def test_many_small_uniform_cuts_end_where_one_does() -> None:
    _, groups, cost = rows(20, 15, 5, 4)
    dense = {group.name: group.num_channels for group in groups}
    scores = draws(groups)
    once = select_channels(groups, scores, Budget(cost, limit=20), classes=each_alone(groups))
    done, present = PruningPlan.of(groups), groups
    for limit in range(43, 19, -1):
        left = {g.name: scores[g.name][done.kept[g.name]] for g in groups}
        plan = select_channels(present, left, Budget(cost, limit=limit), classes=each_alone(groups), dense=dense)
        done = done.then(plan)
        present = tuple(
            ChannelGroup(g.name, n, (Slot(f"{g.name}.weight", 0, "producer", each(n)),))
            for g, n in zip(groups, plan.widths().values(), strict=True)
        )
    assert kept(done) == kept(once)


def test_a_class_ranks_its_groups_together_and_loses_the_common_fraction() -> None:
    _, groups, cost = rows(4, 4, 8)
    scores = {"0": torch.arange(4.0), "1": torch.arange(4.0) + 10, "2": torch.arange(8.0) + 100}
    classes = {"0": "a", "1": "a", "2": "b"}
    mixed = scores | {"0": torch.tensor([0.0, 2.0, 50.0, 3.0]), "1": torch.tensor([60.0, 1.0, 80.0, 70.0])}
    plan = select_channels(groups, mixed, Budget(cost, limit=10), classes=classes)
    assert kept(plan) == {"0": [2, 3], "1": [0, 2, 3], "2": [3, 4, 5, 6, 7]}
    plan = select_channels(groups, scores, Budget(cost, limit=8), classes=classes)
    assert kept(plan) == {"0": [3], "1": [1, 2, 3], "2": [4, 5, 6, 7]}
    assert kept(select_channels(groups, scores, Budget(cost, limit=8)))["2"] == list(range(2, 8))


def test_floors_and_multiples_hold_in_every_ranking() -> None:
    _, groups, cost = rows(24, 16, 8)
    classes = {"0": "a", "1": "a", "2": "b"}
    for chosen in (None, each_alone(groups), classes):
        for limit in range(20, 49, 4):
            plan = select_channels(
                groups, draws(groups), Budget(cost, limit=limit), multiple_of=4, floors={"1": 12}, classes=chosen
            )
            assert limit - 4 < cost.total(plan.widths()) <= limit
            assert plan.widths()["1"] >= 12
            assert all(width % 4 == 0 for width in plan.widths().values())


def test_a_group_without_a_class_is_named() -> None:
    _, groups, cost = rows(3, 3)
    with pytest.raises(ValueError, match="no class for group '1'"):
        select_channels(groups, draws(groups), Budget(cost, kept=0.5), classes={"0": "a"})


@pytest.mark.slow
def test_isomorphic_classes_are_the_groups_built_alike_whatever_their_width() -> None:
    def classes(*widths: int) -> dict[str, str] | None:
        model = digits_net(num_classes=10, widths=widths)
        return ranking_classes("isomorphic", model, trace_groups(model, torch.zeros(1, 3, 32, 32)))

    found = classes(4, 8, 16)
    assert found is not None
    inner = {name: found[name] for name in found if name.startswith("blocks") and name.endswith("conv1")}
    assert inner == dict.fromkeys(("blocks.0.conv1", "blocks.1.conv1", "blocks.2.conv1"), "blocks.0.conv1")
    # a last block's stream is read by the head and the others' by two convolutions
    assert found["blocks.0.conv2"] == found["blocks.1.conv2"] != found["blocks.2.conv2"]
    assert classes(5, 7, 11) == found


def test_depthwise_and_full_convolutions_are_not_alike() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(1, 4, 3))
    groups = tuple(ChannelGroup(str(i), 4, (Slot(f"{i}.weight", 0, "producer", each(4)),)) for i in range(2))
    assert ranking_classes("isomorphic", net, groups) == {"0": "0", "1": "1"}
    norm = nn.BatchNorm1d(4)
    halves = tuple(
        ChannelGroup(role, 4, (Slot(name, 0, role, each(4)),))  # type: ignore[arg-type]
        for name, role in (("weight", "scale"), ("bias", "shift"))
    )
    assert ranking_classes("isomorphic", norm, halves) == {"scale": "scale", "shift": "shift"}
    assert ranking_classes("uniform", net, groups) == {"0": "0", "1": "1"}
    assert ranking_classes("global", net, groups) is None
