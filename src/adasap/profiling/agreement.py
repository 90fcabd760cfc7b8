"""Whether a latency table predicts the machine it is used on, and how long whole models take under its setting."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from adasap.errors import BudgetError
from adasap.groups.group import ChannelGroup
from adasap.profiling.calibration import Bench, even_widths
from adasap.profiling.table import Latency, LatencyTable
from adasap.profiling.timing import Setting, TimingOptions, time_models_ms

TOLERANCE = 0.1
"""How far a prediction may be from the clock, as a share of the clock's time."""
ATTEMPTS = 4
"""Measurements that must all disagree before a table is refused: another program may have been busy."""


def setting_of(table: LatencyTable) -> Setting | None:
    """The setting a table was measured under, if this is its machine; None on another one."""
    found = table.settings
    device = str(found.get("device", "cpu"))
    if device != "cpu" and not torch.cuda.is_available():
        return None
    setting = Setting(
        device="cpu" if device == "cpu" else "cuda",
        threads=found.get("threads"),
        precision=found.get("precision", "float32"),
        channels_last=bool(found.get("channels_last", True)),
        compiled=bool(found.get("compiled", False)),
        engine=table.engine,
        int8=bool(found.get("int8", False)),
    )
    return setting if found.get("processor") == setting.processor else None


def require_agreement(
    table: LatencyTable, path: Path, model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: Tensor
) -> None:
    """Measures the dense model under the table's setting; on another machine than the table's nothing is measured.

    As when the table was calibrated, the model takes turns with one of half its widths.

    Raises:
        BudgetError: If the table's prediction is off by more than `TOLERANCE`, however often it is measured.
    """
    setting = setting_of(table)
    if setting is None:
        return
    size = int(table.settings.get("batch", 1))
    batch = example_inputs[:1].repeat(size, *[1] * (example_inputs.ndim - 1))
    bench = Bench(model, groups, batch, setting, TimingOptions(rounds=9, seconds=0.5))
    predicted = Latency(table, model, groups, batch).dense
    check_prediction(
        predicted,
        lambda: bench.measure_ms([{}, even_widths(groups, 0.5)])[0],
        where=str(path),
        command=f"adasap profile MODEL --latency-table {path}{_flags(table)}",
    )


def check_prediction(predicted_ms: float, measure: Callable[[], float], *, where: str, command: str) -> None:
    """Refuses a prediction that no measurement comes near.

    Args:
        predicted_ms: Of the dense model.
        measure: Milliseconds of the dense model; called until one agrees, `ATTEMPTS` times at most.
        where: The table's file.
        command: By which it is made anew.
    Raises:
        BudgetError: If all are off by more than `TOLERANCE`.

    Example:
        >>> check_prediction(2.0, lambda: 2.1, where="table.json", command="adasap profile ...")
        >>> check_prediction(2.0, lambda: 4.0, where="table.json", command="adasap profile ...")
        Traceback (most recent call last):
        adasap.errors.BudgetError: table.json predicts 2.00 ms for the dense model, which takes 4.00 ms here (...
    """
    measured: list[float] = []
    while len(measured) < ATTEMPTS:
        measured.append(measure())
        if abs(predicted_ms / measured[-1] - 1) <= TOLERANCE:
            return
    nearest = min(measured, key=lambda ms: abs(predicted_ms / ms - 1))
    raise BudgetError(
        f"{where} predicts {predicted_ms:.2f} ms for the dense model, which takes {nearest:.2f} ms here "
        f"({100 * abs(predicted_ms / nearest - 1):.0f} % off in the best of {ATTEMPTS} measurements, allowed are "
        f"{100 * TOLERANCE:.0f} %): it was made for another model, by another version, or on a busy machine; remove it "
        f"and measure again with `{command}`"
    )


def measure_side_by_side(
    table: LatencyTable, models: Mapping[str, nn.Module], example_inputs: Tensor
) -> dict[str, float] | None:
    """Median milliseconds of whole models that take turns, under the table's setting; None on another machine."""
    setting = setting_of(table)
    if setting is None:
        return None
    batch = setting.batch(example_inputs, int(table.settings.get("batch", 1)))
    with setting.applied():
        placed = {name: setting.ready(model, batch) for name, model in models.items()}
        times = time_models_ms(placed, batch, rounds=15, seconds=2.0)
    return {name: statistics.median(values) for name, values in times.items()}


def _flags(table: LatencyTable) -> str:
    """The options of `adasap profile` that are not its defaults."""
    found = table.settings
    given = {"--device": "cuda" if found.get("device") == "cuda" else None, "--batch": found.get("batch")}
    given |= {"--threads": found.get("threads"), "--precision": found.get("precision")}
    words = [f" {flag} {value}" for flag, value in given.items() if value is not None]
    words += [] if found.get("channels_last", True) else [" --contiguous"]
    words += [f" --engine {table.engine}"] if table.engine != "torch" else []
    words += [f" --{flag}" for flag in ("compiled", "int8") if found.get(flag)]
    return "".join(words)
