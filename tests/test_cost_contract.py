"""What every cost model must do: the built-in ones and one of a user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

import adasap
from adasap.errors import ArgumentError, BudgetError, RecipeError
from adasap.groups import ChannelGroup, prunable
from adasap.profiling import LatencyTable, layer_calls
from adasap.profiling.table import grid_widths
from adasap.pruning import COST_MODELS, Budget, BudgetOptions, CostModel, build_cost, select_channels, solve_knapsack
from criteria_nets import plain_net

IMAGE = torch.zeros(1, 3, 8, 8)


class Wires(CostModel):
    """A user's own: weighs every channel alike, and says no more than `unit` and `total`."""

    unit = "wires"

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        example_inputs: torch.Tensor,
        *,
        per_channel: float = 2.0,
    ) -> None:
        self.whole, self.per_channel = adasap.widths(groups), per_channel

    def total(self, widths: Mapping[str, float]) -> float:
        if unknown := widths.keys() - self.whole.keys():
            raise ArgumentError(f"no channel group is called {min(unknown)!r}")
        return 10 + self.per_channel * sum({**self.whole, **widths}.values())


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A latency table of `plain_net` in which a layer takes as long as its widths' product."""
    net, groups = plain_net()
    measured = LatencyTable({"device": "cpu", "batch": 1, "precision": "float32"})
    for call in layer_calls(net, groups, IMAGE):
        points = {at: 0.01 + float(torch.tensor(at, dtype=torch.float64).prod()) for at in grid_widths(call)}
        measured.points.setdefault(call.key, {}).update(points)
    path = tmp_path / "table.json"
    path.write_text(measured.to_json())
    return str(path)


@pytest.fixture(params=["parameters", "macs", "latency", "wires", "by path"])
def options(request: pytest.FixtureRequest, table: str, registered_for_a_test: None) -> BudgetOptions:
    """A budget of every registered cost model, and of one named by its place."""
    COST_MODELS.register("wires", Wires)
    return {
        "parameters": BudgetOptions(parameters=0.5),
        "macs": BudgetOptions(macs=0.5),
        "latency": BudgetOptions(latency=0.5, latency_table=table),
        "wires": BudgetOptions(cost="wires", kept=0.5, cost_options={"per_channel": 3.0}),
        "by path": BudgetOptions(cost="test_cost_contract:Wires", kept=0.5),
    }[request.param]


def built(options: BudgetOptions) -> tuple[CostModel, Sequence[ChannelGroup]]:
    net, groups = plain_net()
    return build_cost(options, net, groups, IMAGE), groups


def test_dense_is_the_total_of_the_whole_model_in_a_unit(options: BudgetOptions) -> None:
    cost, groups = built(options)
    assert cost.unit
    assert cost.dense == cost.total({}) == cost.total(adasap.widths(groups)) > 0


def test_fewer_channels_never_cost_more(options: BudgetOptions) -> None:
    cost, groups = built(options)
    for group in prunable(groups):
        totals = [cost.total({group.name: width}) for width in range(1, group.num_channels + 1)]
        assert totals == sorted(totals)
        assert totals[0] < totals[-1] == cost.dense


def test_along_is_the_total_at_each_choice(options: BudgetOptions) -> None:
    cost, groups = built(options)
    here = {group.name: max(1, group.num_channels // 2) for group in prunable(groups)}
    for group in prunable(groups):
        choices = list(range(1, group.num_channels + 1))
        found = cost.along(here, group.name, choices)
        wanted = torch.tensor([cost.total({**here, group.name: choice}) for choice in choices], dtype=torch.float64)
        assert found.dtype == torch.float64
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=0)


def test_widths_between_whole_numbers_cost_what_lies_between(options: BudgetOptions) -> None:
    cost, groups = built(options)
    name = prunable(groups)[0].name
    assert cost.total({name: 2}) <= cost.total({name: 2.5}) <= cost.total({name: 3})


def test_an_unknown_group_is_an_error(options: BudgetOptions) -> None:
    cost, _ = built(options)
    with pytest.raises(ArgumentError, match="'conv9'"):
        cost.total({"conv9": 2})


def test_selections_keep_within_a_budget_of_it(options: BudgetOptions) -> None:
    cost, groups = built(options)
    scores = {group.name: torch.arange(1.0, group.num_channels + 1) for group in groups}
    budget = Budget(cost, kept=0.8)
    for plan in (select_channels(groups, scores, budget), solve_knapsack(groups, scores, budget).plan):
        assert cost.total(plan.widths()) <= budget.limit < cost.dense


def test_every_registered_cost_model_is_under_contract() -> None:
    assert set(COST_MODELS) - {"test_cost_contract:Wires"} == {"parameters", "macs", "latency"}


def test_prune_takes_a_users_own_cost() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    pruned = adasap.prune(net, IMAGE, "l2", {"cost": "test_cost_contract:Wires", "limit": 28.0})
    assert (pruned.cost.unit, pruned.cost_before, pruned.cost_after) == ("wires", 34.0, 28.0)
    assert pruned.model[0].out_channels == 5


def test_a_users_own_cost_is_looked_for_when_it_is_built() -> None:
    budget = BudgetOptions(cost="nowhere.at_all:Wires", kept=0.5)
    assert budget.own_code == ("nowhere.at_all:Wires",)
    with pytest.raises(RecipeError, match="nowhere"):
        adasap.prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)), IMAGE, "l2", budget)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cost": "mac", "kept": 0.5}, "there is no cost model 'mac'; did you mean 'macs'"),
        ({"cost": "macs"}, "exactly one of kept and limit"),
        ({"cost": "macs", "kept": 0.5, "limit": 9.0}, "exactly one of kept and limit"),
        ({"cost": "macs", "kept": 1.5}, "kept is 1.5"),
        ({"cost": "macs", "limit": -1.0}, "limit"),
        ({"cost": "macs", "kept": 0.5, "parameters": 0.5}, "give one of them"),
        ({"kept": 0.5}, "without cost"),
    ],
)
def test_a_budget_that_names_no_cost_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        BudgetOptions(**given)  # type: ignore[arg-type]


def test_options_that_a_cost_model_does_not_take_are_named() -> None:
    net, groups = plain_net()
    options = BudgetOptions(cost="test_cost_contract:Wires", kept=0.5, cost_options={"per_chanel": 1})
    with pytest.raises(RecipeError, match=r"cannot be built with cost_options.*per_chanel"):
        build_cost(options, net, groups, IMAGE)
    with pytest.raises(BudgetError, match="no latency table"):
        build_cost(BudgetOptions(latency=0.5, latency_table="none.json"), net, groups, IMAGE)
