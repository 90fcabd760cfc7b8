"""Which widths are worth their cost: a multiple-choice knapsack, one choice of width for each group.

The idea is that of HALP (arXiv:2110.10811) and SMCP (arXiv:2211.02206): keep the most importance that a budget buys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adasap.errors import BudgetError
from adasap.groups.group import ChannelGroup, Scores, fingerprint, prunable, widths
from adasap.pruning.budget import Budget
from adasap.pruning.cost import CostModel, amount
from adasap.pruning.damage import Damage, lost_share
from adasap.pruning.multiple_choice import best_choices
from adasap.pruning.plan import PruningPlan
from adasap.pruning.select import checked_scores, least_widths

MAX_ROUNDS = 24
"""Linearisations before the best plan so far is taken."""

MAX_CHOICES = 96
"""Widths of one group that are weighed against each other; wider steps are taken beyond that."""

MAX_GAP = 1e-5
"""Share of the kept importance by which a solution of the linearised problem may miss the best one."""

APPROACH_ROUNDS = 6
"""Rounds in which the limit falls from the present cost to the budget, so that no linearisation reaches far."""


@dataclass(frozen=True, eq=False)
class KnapsackSolution:
    """A plan and what is known of it.

    Attributes:
        plan: The channels that stay: of each group the most important ones.
        cost: Its true cost, at most the budget's limit.
        kept_importance: Share of the summed scores of all groups that stays.
        rounds: How often the costs were linearised and the knapsack solved.
        stands_still: Whether the last solution was the one it was linearised at.
        gap: By what share of the kept importance (or of the avoided damage) a better plan could at most be better; None
            where no valid bound is known, that is wherever the cost of a layer depends on two groups that can both be
            cut.
    """

    plan: PruningPlan
    cost: float
    kept_importance: float
    rounds: int
    stands_still: bool
    gap: float | None


def solve_knapsack(
    groups: Sequence[ChannelGroup],
    scores: Scores,
    budget: Budget,
    *,
    min_channels: int = 1,
    multiple_of: int = 1,
    floors: Mapping[str, int] | None = None,
    damages: Mapping[str, Damage] | None = None,
) -> KnapsackSolution:
    """The plan that keeps the most importance within the budget, or with `damages` the one that does the least.

    Each group keeps its c best channels, worth the sum of their scores; or, where its damage was measured, worth what
    it would do to the loss if they went, too, by the square of the lost importance. What a width costs depends on the
    widths of the neighbours, so the costs are linearised at the present widths, the knapsack is solved exactly for
    these costs by HiGHS, and both are repeated at its solution until it stands still. The plan is then costed truly; it
    meets the budget, and no group could grow by a step within it.

    Args:
        groups: The model's groups; frozen ones stay whole.
        scores: Group name -> importance, float [C], for at least every prunable group; comparable over groups.
        budget: What the plan may cost.
        min_channels: Every group keeps at least so many (or all, if it has fewer).
        multiple_of: Width step; a group may also stay whole.
        floors: Group name -> channels that this group keeps at least.
        damages: Group name -> damage, from `measured_damage`. A group that it does not name does none; scores need not
            be comparable over groups then.
    Raises:
        BudgetError: If the least widths cost more than the budget.
        ArgumentError: If scores are missing, not finite or of the wrong length.
    Example:
        >>> from torch import nn
        >>> from adasap.groups import trace_groups
        >>> from adasap.pruning.cost import Parameters
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> groups = trace_groups(net, torch.zeros(1, 4))
        >>> best = solve_knapsack(groups, {"0": torch.arange(8.0)}, Budget(Parameters(net, groups), kept=0.5))
        >>> best.plan.kept["0"], best.cost, best.gap
        (tensor([5, 6, 7]), 23.0, 0.0)
    """
    items = [_Item.of(g, scores, min_channels, multiple_of, floors or {}) for g in prunable(groups)]
    if damages is not None:
        items = [item.avoiding(damages.get(item.name)) for item in items]
    problem = _Problem(items, budget.cost, budget.limit, widths(groups))
    problem.require_possible(min_channels)
    chosen, rounds, still = _settle(problem)
    chosen = _grow(problem, chosen)
    plan = PruningPlan(
        kept={item.name: item.order[: item.choices[c]].sort().values for item, c in zip(items, chosen, strict=True)},
        num_channels={item.name: len(item.order) for item in items},
        fingerprint=fingerprint(groups),
    )
    return KnapsackSolution(
        plan, problem.cost_of(chosen), problem.share_of(chosen), rounds, still, problem.gap_of(chosen)
    )


@dataclass(frozen=True, eq=False)
class _Item:
    """One group: its channels by falling score, the widths it may take, and what each of them keeps."""

    name: str
    order: Tensor  # int64 [C]
    choices: list[int]  # rising, the last one is C
    kept: Tensor  # float64 [choices]: summed scores
    values: Tensor  # float64 [choices]: what the knapsack adds up; rising

    @classmethod
    def of(
        cls, group: ChannelGroup, scores: Scores, min_channels: int, multiple_of: int, floors: Mapping[str, int]
    ) -> _Item:
        values = checked_scores(scores, group)
        least = least_widths([group], min_channels, multiple_of, {n: f for n, f in floors.items() if n == group.name})
        count = group.num_channels
        steps = [w for w in range(multiple_of, count, multiple_of) if w >= least[group.name]]
        thinned = steps[:: -(-len(steps) // MAX_CHOICES)] if steps else []
        order = values.argsort(descending=True, stable=True)
        choices = [*thinned, count]
        kept = values[order].cumsum(0)[torch.tensor(choices) - 1]
        return cls(group.name, order, choices, kept, kept)

    def avoiding(self, damage: Damage | None) -> _Item:
        """The same choices, worth the damage that they avoid; nothing, if none was measured."""
        if damage is None:
            return replace(self, values=torch.zeros_like(self.kept))
        whole = self.kept[-1]
        return replace(self, values=damage.at(torch.ones_like(whole)) - damage.at(lost_share(self.kept, whole)))


@dataclass(frozen=True, eq=False)
class _Problem:
    """All groups, what is counted, and how much of it there may be."""

    items: list[_Item]
    cost: CostModel
    limit: float
    present: dict[str, int]

    def widths_of(self, chosen: Sequence[int]) -> dict[str, int]:
        return self.present | {item.name: item.choices[c] for item, c in zip(self.items, chosen, strict=True)}

    def cost_of(self, chosen: Sequence[int]) -> float:
        return float(self.cost.total(self.widths_of(chosen)))

    def value_of(self, chosen: Sequence[int]) -> float:
        return sum(float(item.values[c]) for item, c in zip(self.items, chosen, strict=True))

    def share_of(self, chosen: Sequence[int]) -> float:
        whole = sum(float(item.kept[-1]) for item in self.items)
        kept = sum(float(item.kept[c]) for item, c in zip(self.items, chosen, strict=True))
        return kept / whole if whole else 1.0

    def linear_costs(self, point: Mapping[str, float]) -> list[Tensor]:
        """Per group the change of the cost at each of its widths while the others stay, float64 [choices]."""
        here = self.cost.total(point)
        return [self.cost.along(point, item.name, item.choices) - here for item in self.items]

    def require_possible(self, min_channels: int) -> None:
        smallest = self.cost_of([0] * len(self.items))
        if smallest > self.limit:
            raise BudgetError(
                f"cannot reach {amount(self.limit)} {self.cost.unit}: keeping min_channels={min_channels} and the "
                f"floors in each of {len(self.items)} groups still costs {amount(smallest)} of "
                f"{amount(self.cost.dense)}; raise the budget or lower min_channels, multiple_of or the floors"
            )

    def gap_of(self, chosen: Sequence[int]) -> float | None:
        """How far the best solution can be, where the linearised costs are the true ones; else unknown."""
        point = self.widths_of(chosen)
        costs, here = self.linear_costs(point), self.cost.total(point)
        for corner in ([0] * len(self.items), [len(item.choices) - 1 for item in self.items]):
            linear = here + sum(float(c[place]) for c, place in zip(costs, corner, strict=True))
            if abs(linear - self.cost_of(corner)) > 1e-9 * self.cost.dense:
                return None
        best = self.value_of(_solve(self, point, self.limit, gap=0.0))
        return max(0.0, best / max(self.value_of(chosen), 1e-300) - 1.0)


def _settle(problem: _Problem) -> tuple[list[int], int, bool]:
    """Solve and linearise anew until the solution stands still; the best one that meets the budget.

    Costs are linearised half-way between the last point and the last solution: at the solution itself, neighbours that
    shrink together would swing from one round to the next.
    """
    chosen = [len(item.choices) - 1 for item in problem.items]
    start = problem.cost_of(chosen)
    if start <= problem.limit:
        return chosen, 0, True
    point: dict[str, float] = {**problem.widths_of(chosen)}
    best, slack = [0] * len(problem.items), 1.0
    for number in range(1, MAX_ROUNDS + 1):
        part = min(1.0, number / APPROACH_ROUNDS)
        limit = start * (problem.limit / start) ** part * (slack if part == 1 else 1.0)
        before, chosen = chosen, _solve(problem, point, limit, gap=MAX_GAP if part == 1 else 1e-3)
        cost = problem.cost_of(chosen)
        if cost <= problem.limit and problem.value_of(chosen) > problem.value_of(best):
            best = chosen
        if part == 1 and chosen == before:
            if cost <= problem.limit:
                return best, number, chosen == best
            slack *= problem.limit / cost  # the linearisation promised too much: ask for a little less
        point = {name: (width + point[name]) / 2 for name, width in problem.widths_of(chosen).items()}
    return best, MAX_ROUNDS, False


def _solve(problem: _Problem, point: Mapping[str, float], limit: float, *, gap: float) -> list[int]:
    """The best choices for costs linearised at a point; the cheapest widths if even these cost too much."""
    values, costs = [item.values for item in problem.items], problem.linear_costs(point)
    return best_choices(values, costs, limit - problem.cost.total(point), gap=gap)


def _grow(problem: _Problem, chosen: Sequence[int]) -> list[int]:
    """Spends what the budget leaves: the step of width that keeps the most for its cost, until none fits."""
    chosen = list(chosen)
    while True:
        left = problem.limit - problem.cost_of(chosen)
        best, best_rate = -1, 0.0
        for place, (item, costs) in enumerate(
            zip(problem.items, problem.linear_costs(problem.widths_of(chosen)), strict=True)
        ):
            if chosen[place] + 1 == len(item.choices):
                continue
            price = max(float(costs[chosen[place] + 1]), 1e-12 * problem.cost.dense)
            gain = float(item.values[chosen[place] + 1] - item.values[chosen[place]])
            if price <= left and gain / price > best_rate:
                best, best_rate = place, gain / price
        if best < 0:
            return chosen
        chosen[best] += 1
