"""Measuring a latency table on the terminal."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from adasap.cli.models import OpenedModel
from adasap.errors import BudgetError
from adasap.export import atomic_write
from adasap.groups import trace_groups
from adasap.pruning.latency import LatencyTable, Setting, TimingOptions, layer_calls, measure_layers_
from adasap.pruning.latency.calibration import Accuracy, Bench, calibrate, prediction_accuracy

SAVE_SECONDS = 5.0


def write_latency_table(
    opened: OpenedModel,
    path: Path,
    setting: Setting,
    *,
    batch: int,
    seconds: float,
    num_plans: int,
    console: Console,
) -> None:
    """Measures what the file lacks, fits whole models, prints the error on random plans."""
    model = opened.dense or opened.model
    settings = {**setting.describe(), "batch": batch, "pixels": opened.spec.input_size[-1]}
    table, options = _open_table(path, settings), TimingOptions(seconds=seconds)
    inputs = opened.example_inputs.repeat(batch, 1, 1, 1)
    with console.status("tracing"):
        groups = trace_groups(model, opened.example_inputs)
        calls = layer_calls(model, groups, inputs)
    saved = time.monotonic()
    with Progress(console=console) as progress:
        bar = progress.add_task("layers", total=None)

        def done(measured: int, wanted: int) -> None:
            nonlocal saved
            progress.update(bar, completed=measured, total=wanted)
            if measured == wanted or time.monotonic() - saved > SAVE_SECONDS:
                _save(table, path)
                saved = time.monotonic()

        size = sum(p.numel() for p in model.parameters()) * setting.dtype.itemsize
        measure_layers_(table, calls, setting, options, done, weight_bytes=size)
    with console.status("measuring whole models"):
        bench = Bench(model, groups, inputs, setting, options)
        fitted = calibrate(table, bench)
        _save(fitted, path)
        if num_plans:
            accuracy = prediction_accuracy(fitted, bench, num_plans=num_plans)
            fitted.settings["error"] = {"median": statistics.median(accuracy.errors), "worst": max(accuracy.errors)}
            _save(fitted, path)
            _print(accuracy, console)
    points = sum(map(len, fitted.points.values()))
    console.print(
        f"{path}: {points} points of {len(fitted.points)} layers, batch {batch}, {settings['processor']}, "
        f"{settings['threads']} threads, {settings['precision']}.\n"
        f"Use it with `budget: {{latency: 0.5, latency_table: {path}}}`.",
        highlight=False,
    )


def _open_table(path: Path, settings: dict[str, object]) -> LatencyTable:
    if not path.is_file():
        return LatencyTable(settings)
    table = LatencyTable.from_json(path.read_text())
    found = {name: table.settings.get(name) for name in settings}
    if different := [name for name in settings if found[name] != settings[name]]:
        name = different[0]
        raise BudgetError(
            f"{path} was measured with {name}={found[name]!r}, now it would be {settings[name]!r}; take another file "
            "for another setting"
        )
    return table


def _save(table: LatencyTable, path: Path) -> None:
    with atomic_write(path) as file:
        file.write(table.to_json().encode())


def _print(accuracy: Accuracy, console: Console) -> None:
    table = Table("model", "predicted (ms)", "measured (ms)", "error, in dense times")
    dense = accuracy.dense
    table.add_row("dense", f"{dense.predicted_ms:.2f}", f"{dense.measured_ms:.2f}", "")
    for number, (plan, error) in enumerate(zip(accuracy.plans, accuracy.errors, strict=True), start=1):
        table.add_row(f"random plan {number}", f"{plan.predicted_ms:.2f}", f"{plan.measured_ms:.2f}", f"{error:.1%}")
    console.print(table)
    console.print(
        f"error of a plan's share of the dense time: median {statistics.median(accuracy.errors):.1%}, "
        f"worst {max(accuracy.errors):.1%}",
        highlight=False,
    )
