"""Tables of the times of a model's layers on this device, for budgets of latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from adasap.errors import BudgetError
from adasap.experiments.name_models import AnyModel, Size, open_any
from adasap.experiments.profile import require_usable
from adasap.experiments.terminal import console_of, lines_on, open_progress
from adasap.groups import trace_groups
from adasap.io import atomic_write
from adasap.profiling import LatencyTable, Setting, TimingOptions, layer_calls, measure_layers_, read_latency_table
from adasap.profiling.calibration import Accuracy, Bench, calibrate, prediction_accuracy
from adasap.report import Shown, Table

SAVE_SECONDS = 5.0


@dataclass(frozen=True, repr=False)
class MeasuredTable(Shown):
    """A latency table in its file; it prints as its error on random plans.

    Attributes:
        table: The times, fitted to whole models.
        path: Its file, for `budget: {latency: 0.5, latency_table: FILE}`.
        accuracy: Predicted and measured times of random plans; None if none was tried.
    """

    table: LatencyTable
    path: Path
    accuracy: Accuracy | None

    def parts(self) -> Iterator[Table | str]:
        """The error on random plans, and what the table holds."""
        if self.accuracy is not None:
            yield _accuracy_table(self.accuracy)
            errors = self.accuracy.errors
            yield (
                f"error of a plan's share of the dense time: median {statistics.median(errors):.1%}, "
                f"worst {max(errors):.1%}"
            )
        points = self.table.points
        yield (
            f"{self.path}: {sum(map(len, points.values()))} points of {len(points)} layers; {self.table.stated}.\n"
            f"Use it with `budget: {{latency: 0.5, latency_table: {self.path}}}`."
        )


def latency_table(
    model: AnyModel,
    path: str | Path,
    *,
    batch: int = 1,
    seconds: float = 4.0,
    repeats: int = 7,
    num_plans: int = 5,
    setting: Setting | None = None,
    size: Size | None = None,
    allow_inexact: bool = False,
    console: Console | bool = False,
    trust_builder: bool = False,
) -> MeasuredTable:
    """Times a model's layers at many widths, fits whole models, and tries the table on random plans.

    What the file holds is not measured again, so that the same call goes on where it was.

    Args:
        model: A module (copied), a `ModelSpec`, a builder's name, a model file (its dense model) or a recipe.
        path: The table's file.
        batch: Images in a batch.
        seconds: Time for each comparison of whole models, up to an hour.
        repeats: How often a layer is timed at least, and whole models twice as often; medians count.
        num_plans: Random plans that the table is tried on.
        setting: Device, threads, number type, engine; by default float32 in PyTorch on the CPU
            (`adasap.profiling.Setting`).
        size: Of the images, where neither the model nor its kind knows: a side, or channels, height and width.
        allow_inexact: Measure widths under norms over the channels, too, for budgets that may cut these.
        console: `True` shows a bar.
        trust_builder: Let a file import the module that it names.
    Raises:
        ArgumentError: If the engine is not installed.
        BudgetError: If the file was measured in another setting.
        ExportError: If the engine cannot run the model.
        ModelError: If the model cannot be opened, or the device cannot be used.

    Example:
        >>> import tempfile, torch
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     found = latency_table(net, f"{folder}/net.json", size=8, seconds=0.01, num_plans=0)
        >>> len(found.table.points), found.table.settings["pixels"]
        (3, 8)
    """
    setting, path = Setting() if setting is None else setting, Path(path)
    require_usable(setting, seconds)
    opened, console = open_any(model, size=size, trust_builder=trust_builder), console_of(console)
    dense = opened.dense or opened.model
    settings = {**setting.describe(), "batch": batch, "pixels": opened.input_size[-1]}
    table = _open_table(path, settings)
    options = TimingOptions(repeats, milliseconds=2.0 * repeats, rounds=2 * repeats + 1, seconds=seconds)
    inputs = opened.example_inputs.repeat(batch, 1, 1, 1)
    with console.status("tracing"):
        groups = trace_groups(dense, opened.example_inputs, allow_inexact=allow_inexact)
        calls = layer_calls(dense, groups, inputs, fused=table.fuses)
    saved, tell = time.monotonic(), lines_on(console, "points of layers")
    with open_progress(console) as progress:
        bar = progress.add_task("layers", total=None)

        def done(measured: int, wanted: int) -> None:
            nonlocal saved
            progress.update(bar, completed=measured, total=wanted)
            tell(measured, wanted)
            if measured == wanted or time.monotonic() - saved > SAVE_SECONDS:
                _save(table, path)
                saved = time.monotonic()

        weight_bytes = sum(p.numel() for p in dense.parameters()) * (1 if setting.int8 else setting.dtype.itemsize)
        measure_layers_(table, calls, setting, options, done, weight_bytes=weight_bytes)
    accuracy = None
    with console.status("measuring whole models"):
        bench = Bench(dense, groups, inputs, setting, options)
        fitted = calibrate(table, bench)
        _save(fitted, path)
        if num_plans:
            accuracy = prediction_accuracy(fitted, bench, num_plans=num_plans)
            fitted.settings["error"] = {"median": statistics.median(accuracy.errors), "worst": max(accuracy.errors)}
            _save(fitted, path)
    return MeasuredTable(fitted, path, accuracy)


def _open_table(path: Path, settings: dict[str, object]) -> LatencyTable:
    if not path.is_file():
        return LatencyTable(settings)
    table = read_latency_table(path)
    found, wanted = ({"engine": "torch", "int8": False, **given} for given in (table.settings, settings))
    if different := [name for name in wanted if found.get(name) != wanted[name]]:
        name = different[0]
        raise BudgetError(
            f"{path} was measured with {name}={found.get(name)!r}, now it would be {wanted[name]!r}; take another file "
            "for another setting"
        )
    return table


def _save(table: LatencyTable, path: Path) -> None:
    with atomic_write(path) as file:
        file.write(table.to_json().encode())


def _accuracy_table(accuracy: Accuracy) -> Table:
    dense, plans = accuracy.dense, zip(accuracy.plans, accuracy.errors, strict=True)
    rows = [["dense", f"{dense.predicted_ms:.2f}", f"{dense.measured_ms:.2f}", ""]]
    for number, (plan, error) in enumerate(plans, start=1):
        times = f"{plan.predicted_ms:.2f}", f"{plan.measured_ms:.2f}"
        rows.append([f"random plan {number}", *times, f"{error:.1%}"])
    return Table(["model", "predicted (ms)", "measured (ms)", "error, in dense times"], rows)
