"""The knapsack keeps the most importance that the budget buys, beside every other plan of a small network."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from adasap.errors import BudgetError
from adasap.groups import ChannelGroup, prunable, trace_groups, widths
from adasap.pruning import Budget, CostModel, MACs, Parameters, select_channels
from adasap.pruning.knapsack import solve_knapsack


class Staircase:
    """A latency: one layer's time jumps at multiples of four, and layers do not depend on each other."""

    unit = "ms"

    def __init__(self, groups: Sequence[ChannelGroup]) -> None:
        self.whole = widths(groups)
        self.dense = self.total({})

    def total(self, widths: Mapping[str, float]) -> float:
        return float(sum(0.5 + -(-widths.get(n, w) // 4) * (1 + k) for k, (n, w) in enumerate(self.whole.items())))

    def along(self, widths: Mapping[str, float], group: str, choices: Sequence[int]) -> Tensor:
        return torch.tensor([self.total({**widths, group: c}) for c in choices], dtype=torch.float64)


def chain() -> tuple[nn.Module, tuple[ChannelGroup, ...], Tensor]:
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.ReLU(),
        nn.Conv2d(12, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 5, 1),
    )
    x = torch.zeros(1, 3, 12, 12)
    return net, trace_groups(net, x), x


def drawn_scores(groups: Sequence[ChannelGroup], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {g.name: torch.rand(g.num_channels, generator=generator) ** 2 for g in groups}


def best_by_trying_all(
    groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor], cost: CostModel, limit: float, least: int = 1
) -> float:
    free = prunable(groups)
    best = 0.0
    for choice in itertools.product(*(range(least, g.num_channels + 1) for g in free)):
        if cost.total({g.name: c for g, c in zip(free, choice, strict=True)}) <= limit:
            best = max(best, sum(top_sum(scores[g.name], c) for g, c in zip(free, choice, strict=True)))
    return best


def top_sum(values: Tensor, count: int) -> float:
    return float(values.double().sort(descending=True).values[:count].sum())


def kept_by(plan_kept: Mapping[str, Tensor], scores: Mapping[str, Tensor]) -> float:
    return sum(float(scores[name].double()[kept].sum()) for name, kept in plan_kept.items())


@pytest.mark.parametrize("kept", [0.6, 0.7, 0.85])
@pytest.mark.parametrize("seed", [0, 1])
def test_separable_costs_are_solved_to_the_proven_optimum(seed: int, kept: float) -> None:
    _, groups, _ = chain()
    scores, cost = drawn_scores(groups, seed), Staircase(groups)
    solution = solve_knapsack(groups, scores, Budget(cost, kept=kept))
    best = best_by_trying_all(groups, scores, cost, kept * cost.dense)
    assert kept_by(solution.plan.kept, scores) == pytest.approx(best, rel=1e-6)
    assert solution.gap == pytest.approx(0.0, abs=1e-9)
    assert solution.cost <= kept * cost.dense


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["parameters", "MACs"])
@pytest.mark.parametrize(("seed", "kept"), [(0, 0.3), (1, 0.5), (2, 0.7)])
def test_products_of_widths_come_close_to_the_best_of_all_plans(seed: int, kept: float, unit: str) -> None:
    net, groups, x = chain()
    cost: CostModel = Parameters(net, groups) if unit == "parameters" else MACs(net, groups, x)
    scores, budget = drawn_scores(groups, seed), Budget(cost, kept=kept)
    solution = solve_knapsack(groups, scores, budget)
    found, best = kept_by(solution.plan.kept, scores), best_by_trying_all(groups, scores, cost, budget.limit)
    ranked = kept_by(select_channels(groups, scores, budget).kept, scores)
    assert cost.total(solution.plan.widths()) == solution.cost <= budget.limit
    assert found >= 0.97 * best
    assert found >= ranked - 1e-9
    assert solution.gap is None
    whole = sum(float(scores[g.name].double().sum()) for g in prunable(groups))
    assert solution.kept_importance == pytest.approx(found / whole)


def test_floors_and_multiples_hold() -> None:
    net, groups, _ = chain()
    budget = Budget(Parameters(net, groups), kept=0.5)
    plan = solve_knapsack(groups, drawn_scores(groups, 0), budget, multiple_of=4, min_channels=4, floors={"4": 8}).plan
    assert all(len(kept) % 4 == 0 and len(kept) >= 4 for kept in plan.kept.values())
    assert len(plan.kept["4"]) >= 8


def test_a_loose_budget_keeps_everything() -> None:
    net, groups, _ = chain()
    assert solve_knapsack(groups, drawn_scores(groups, 0), Budget(Parameters(net, groups), kept=1.0)).plan.keeps_all


def test_each_group_keeps_its_most_important_channels() -> None:
    net, groups, _ = chain()
    scores = drawn_scores(groups, 3)
    for name, kept in solve_knapsack(groups, scores, Budget(Parameters(net, groups), kept=0.4)).plan.kept.items():
        assert set(kept.tolist()) == set(scores[name].argsort(descending=True)[: len(kept)].tolist())


def test_an_impossible_budget_is_refused() -> None:
    net, groups, _ = chain()
    budget = Budget(Parameters(net, groups), kept=0.1)
    with pytest.raises(BudgetError, match=r"cannot reach .* parameters: keeping min_channels=6 .* raise the budget"):
        solve_knapsack(groups, drawn_scores(groups, 0), budget, min_channels=6)


@pytest.mark.parametrize("cost_of", ["parameters", "MACs"])
def test_costs_along_a_group_are_the_totals(cost_of: str) -> None:
    net, groups, x = chain()
    cost = Parameters(net, groups) if cost_of == "parameters" else MACs(net, groups, x)
    at = {"0": 7, "2": 5}
    expected = [cost.total({**at, "2": c}) for c in (1, 4, 8)]
    assert cost.along(at, "2", [1, 4, 8]).tolist() == expected
