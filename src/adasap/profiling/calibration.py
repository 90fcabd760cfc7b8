"""From single layers to the whole model: what a sum of layers does not show, and how well it then predicts."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from adasap.groups.bare import unwrap
from adasap.groups.fake_model import copied
from adasap.groups.group import ChannelGroup, prunable, widths
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.profiling.table import Latency, LatencyTable
from adasap.profiling.timing import Setting, TimingOptions, time_models_ms
from adasap.pruning.plan import PruningPlan
from adasap.pruning.surgery import apply_plan_

ALIGNMENTS = (1, 8, 16, 32)
"""Widths that kernels may work in."""


@dataclass(frozen=True)
class PlanTime:
    """One model: its widths, and its milliseconds by the table and by the clock."""

    widths: dict[str, int]
    predicted_ms: float
    measured_ms: float


@dataclass(frozen=True)
class Accuracy:
    """How well a table predicts plans that it was not calibrated on.

    Attributes:
        dense: The dense model.
        plans: The others, measured in the same interleaved run.
    """

    dense: PlanTime
    plans: tuple[PlanTime, ...]

    @property
    def errors(self) -> list[float]:
        """|predicted - measured| of each plan, each in units of its own dense time."""
        return [
            abs(p.predicted_ms / self.dense.predicted_ms - p.measured_ms / self.dense.measured_ms) for p in self.plans
        ]


def random_widths(
    groups: Sequence[ChannelGroup], *, seed: int, least: float = 0.25, multiple_of: int = 1
) -> dict[str, int]:
    """A width for every prunable group, evenly drawn between a share of its channels and all of them, then rounded."""
    draw = torch.Generator().manual_seed(seed)
    found = {}
    for group in prunable(groups):
        width = group.num_channels * (least + (1 - least) * float(torch.rand((), generator=draw)))
        rounded = max(1, round(width / multiple_of)) * multiple_of
        found[group.name] = min(group.num_channels, rounded)
    return found


def even_widths(groups: Sequence[ChannelGroup], share: float) -> dict[str, int]:
    """The same share of every prunable group."""
    return {g.name: max(1, round(share * g.num_channels)) for g in prunable(groups)}


@dataclass(frozen=True, eq=False)
class Bench:
    """A model whose cut copies are timed.

    Attributes:
        model: Left as it is.
        groups: Its channel groups.
        example_inputs: A batch as the table was made for.
        setting: Under which the table was made.
        options: How long to measure.
    """

    model: nn.Module
    groups: Sequence[ChannelGroup]
    example_inputs: ExampleInputs
    setting: Setting
    options: TimingOptions

    def measure_ms(self, chosen: Sequence[Mapping[str, int]]) -> list[float]:
        """Median milliseconds of the model at each of these widths, all in one interleaved run."""
        batch = self.setting.batch(self.example_inputs, as_arguments(self.example_inputs).batch_size)
        with self.setting.applied():
            placed = {
                str(n): self.setting.ready(cut_copy(self.model, self.groups, at), batch) for n, at in enumerate(chosen)
            }
            times = time_models_ms(placed, batch, rounds=self.options.rounds, seconds=self.options.seconds)
        return [statistics.median(times[name]) for name in placed]

    def random_plan(self, table: LatencyTable, number: int, *, first_seed: int = 0) -> dict[str, int]:
        """Random widths; every other plan has multiples of 8 if these have times of their own in the table."""
        even = table.step > 1 and number % 2 == 1
        return random_widths(self.groups, seed=first_seed + number, multiple_of=8 if even else 1)

    def cost(self, table: LatencyTable) -> Latency:
        """What the table says of the model."""
        return Latency(table, self.model, self.groups, self.example_inputs)


def calibrate(table: LatencyTable, bench: Bench) -> LatencyTable:
    """The table with `alignment`, `scale` and `call_ms` that fit whole models best.

    Models are the dense one, one with half of every group, and six at random widths. The time of a model is
    scale x (sum of its layers) + call_ms x (number of calls); the last is what a module costs besides its operator.

    Args:
        table: Complete for the model.
        bench: The model, under the table's setting.
    """
    chosen = [{}, even_widths(bench.groups, 0.5)]
    chosen += [bench.random_plan(table, number, first_seed=10_000) for number in range(6)]
    measured = bench.measure_ms(chosen)
    candidates = []
    for alignment in ALIGNMENTS:
        raw = bench.cost(replace(table, alignment=alignment, scale=1.0, call_ms=0.0))
        sums = [raw.total(at) for at in chosen]
        scale, call_ms = _fit(sums, measured, raw.num_calls)
        errors = [scale * s + call_ms * raw.num_calls - m for s, m in zip(sums, measured, strict=True)]
        misfit = sum((error / m) ** 2 for error, m in zip(errors, measured, strict=True))
        candidates.append((misfit, replace(table, alignment=alignment, scale=scale, call_ms=call_ms)))
    return min(candidates, key=lambda pair: pair[0])[1]


def prediction_accuracy(table: LatencyTable, bench: Bench, *, num_plans: int) -> Accuracy:
    """Measures random plans beside the dense model; `calibrate` has not seen them."""
    cost = bench.cost(table)
    chosen: list[dict[str, int]] = [{}, *(bench.random_plan(table, number) for number in range(num_plans))]
    times = [PlanTime(at, cost.total(at), ms) for at, ms in zip(chosen, bench.measure_ms(chosen), strict=True)]
    return Accuracy(times[0], tuple(times[1:]))


def cut_copy(model: nn.Module, groups: Sequence[ChannelGroup], at: Mapping[str, int]) -> nn.Module:
    """A copy at these widths; of each group the first channels stay."""
    cut, whole = copied(unwrap(model)), widths(groups)
    kept = {name: torch.arange(width) for name, width in at.items() if width < whole[name]}
    if kept:
        apply_plan_(cut, groups, PruningPlan.of(groups, kept))
    return cut


def _fit(sums: Sequence[float], measured: Sequence[float], num_calls: int) -> tuple[float, float]:
    """Scale and milliseconds per call, both >= 0, with the least squared relative error."""
    rows = torch.tensor([[s / m, num_calls / m] for s, m in zip(sums, measured, strict=True)], dtype=torch.float64)
    ones = torch.ones(len(rows), 1, dtype=torch.float64)
    scale, call_ms = torch.linalg.lstsq(rows, ones).solution.flatten().tolist()
    if call_ms < 0 or scale < 0:
        only = rows[:, :1]
        return float((only * ones).sum() / only.square().sum()), 0.0
    return scale, call_ms
