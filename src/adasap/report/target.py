"""What the budget asked for beside what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from adasap.groups import ChannelGroup
from adasap.profiling import read_latency_table
from adasap.profiling.agreement import measure_side_by_side
from adasap.profiling.profile import Profile
from adasap.pruning import BudgetOptions, PruningPlan, build_cost

NOISE = 0.03
"""A time up to this share above its target counts as met: so far apart are two measurements of one model."""


@dataclass(frozen=True)
class Target:
    """A budget and its measurement.

    Attributes:
        quantity: `parameters`, `MACs` or `latency`.
        limit: What was allowed; of a latency given as a fraction, that fraction of the dense model's measured time.
        measured: What the compressed model has; None where it cannot be measured here.
        unit: `ms` or empty.
        remark: How, or why not.

    Example:
        >>> print(Target("latency", 2.0, 2.5, "ms", "batch 1"))
        latency: at most 2.00 ms allowed, 2.50 ms measured (batch 1): MISSED by 25.0 %
    """

    quantity: str
    limit: float
    measured: float | None
    unit: str = ""
    remark: str = ""

    @property
    def missed(self) -> bool:
        """Whether the measurement is above the limit, by more than noise for a time."""
        return self.measured is not None and self.measured > self.limit * (1 + (NOISE if self.unit else 1e-9))

    def __str__(self) -> str:
        limit = self._text(self.limit)
        remark = f" ({self.remark})" if self.remark else ""
        if self.measured is None:
            return f"{self.quantity}: at most {limit} allowed, not measured{remark}"
        over = 100 * (self.measured / self.limit - 1)
        verdict = f"MISSED by {over:.1f} %" if self.missed else "met"
        return f"{self.quantity}: at most {limit} allowed, {self._text(self.measured)} measured{remark}: {verdict}"

    def _text(self, value: float) -> str:
        return f"{value:.2f} ms" if self.unit == "ms" else f"{value:,.0f}"


def measure_target(
    budget: BudgetOptions,
    models: Mapping[str, nn.Module],
    groups: Sequence[ChannelGroup],
    example_inputs: Tensor,
    profiles: Mapping[str, Profile],
    plan: PruningPlan | None = None,
) -> Target:
    """The budget beside the compressed model's measured cost; a time is measured in what runs the table's models.

    Args:
        budget: Of the recipe.
        models: `dense` and `compressed`.
        groups: Of the dense model.
        example_inputs: One image.
        profiles: Of both models; a budget of time needs none.
        plan: Of the compressed model, whose predicted time is told then.
    """
    cost = build_cost(budget, models["dense"], groups, example_inputs)
    limit = budget.of(cost).limit
    if budget.cost is not None:
        return Target(cost.unit, limit, build_cost(budget, models["compressed"], (), example_inputs).dense)
    if budget.latency_table is None:
        small = profiles["compressed"]
        return (
            Target("MACs", limit, small.macs)
            if budget.unit == "macs"
            else Target("parameters", limit, small.parameters)
        )
    table = read_latency_table(Path(budget.latency_table))
    times = measure_side_by_side(table, models, example_inputs)
    if times is None:
        return Target(
            "latency", limit, None, "ms", f"the table is of {table.settings.get('processor', 'another machine')}"
        )
    how = table.stated
    if budget.latency is not None:
        limit = budget.latency * times["dense"]
        how = f"{budget.latency:g} of the dense model's {times['dense']:.2f} ms; {how}"
    if plan is not None:
        how = f"{cost.total(plan.widths()):.2f} ms of {cost.dense:.2f} ms predicted; {how}"
    return Target("latency", limit, times["compressed"], "ms", how)
