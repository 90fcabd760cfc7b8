"""The demos: a small model trained, compressed three ways, and compared clean and corrupted."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from adasap.evaluation.statistics import Interval, bootstrap_mean, paired_difference
from adasap.experiments.compare import Compared, compare
from adasap.experiments.compress import FinishedRun, export_weights, run_recipe
from adasap.experiments.demo_data import DEMOS, PLAIN, Demo
from adasap.experiments.known_names import DemoTask
from adasap.experiments.recipe import parse_recipe
from adasap.experiments.terminal import console_of
from adasap.report import Shown, Table

TITLES = {"plain-twice-the-epochs": "plain, 2 x"}
"""Folder of a run -> its short name in the table, which has to fit into 80 columns."""


@dataclass(frozen=True, repr=False)
class FinishedDemo(Shown):
    """What a demo left behind; it prints as one table, and what it means."""

    runs: Mapping[str, FinishedRun]
    compared: Compared
    table: Table
    out: Path
    data: str
    seconds: float

    def parts(self) -> Iterator[Table | str]:
        """The table, what to make of it, and where to go on."""
        out = self.out
        yield self.table
        yield (
            "MACs: fraction kept; plain, 2 x: plain fine-tuning of twice the epochs, as many passes as AdaSAP. One "
            "seed; ± is half a 95 % interval over the test images, and another seed moves these numbers by some "
            f"points.\n{self.seconds:.0f} s. The models and records lie in {out}/; for example\n"
            f"  adasap profile {out}/adasap/model.safetensors\n"
            f"  adasap evaluate {out}/adasap/model.safetensors --data {self.data} --suite clean --suite corrupted"
        )
        yield f"The page: {self.compared.page}"


def run_demo(
    task: DemoTask = "classification",
    *,
    out: str | Path = "demo-output",
    seed: int = 0,
    console: Console | bool = False,
    command: str = "",
) -> FinishedDemo:
    """Trains a small model, compresses it three ways, compares them clean and corrupted: some minutes on two cores.

    Args:
        task: Handwritten digits, or boxes around drawn shapes, or their masks.
        out: Folder for everything the demo makes.
        seed: Of every random draw.
        console: `True` shows what is being done.
        command: How the user started it, for the pages.
    """
    console, out, started, chosen = console_of(console), Path(out), time.perf_counter(), DEMOS[task]
    runs = {"dense": run_recipe(parse_recipe(chosen.recipe(seed)), out / "dense", console, command=command)}
    weights = out / "dense.safetensors"
    export_weights(runs["dense"], weights)
    for name, tree in compression_recipes(chosen, str(weights), seed).items():
        runs[name] = run_recipe(parse_recipe(tree), out / name, console, command=command)
    compared = compare([run.folder for name, run in runs.items() if name != "dense"], out=out / "comparison")
    return FinishedDemo(runs, compared, comparison(runs, chosen.score), out, chosen.data, time.perf_counter() - started)


def compression_recipes(demo: Demo, weights: str, seed: int) -> dict[str, dict[str, Any]]:
    """AdaSAP, plain fine-tuning with the same epochs, and plain fine-tuning with the same compute."""
    epochs = demo.epochs
    adasap = copy.deepcopy(demo.recipe(seed)) | {"name": "adasap"}
    adasap["model"] |= {"weights": weights}
    strength = {"perturbation": {"loss_budget": demo.loss_budget}}
    adasap["warm_up"] = {"epochs": epochs["warm_up"], "sharpness": {"kind": "adaptive", **strength}}
    adasap["pruning"] = {"epochs": epochs["pruning"], **demo.pruning}
    adasap["fine_tune"] = {"epochs": epochs["fine_tune"], "sharpness": {"kind": "uniform", "rho": demo.rho, **strength}}
    plain = copy.deepcopy(adasap) | {"name": "plain"}
    plain["warm_up"] |= PLAIN
    plain["fine_tune"] |= PLAIN
    double = copy.deepcopy(plain) | {"name": "plain-twice-the-epochs"}
    for step, length in epochs.items():
        double[step]["epochs"] = 2 * length
    return {"adasap": adasap, "plain": plain, "plain-twice-the-epochs": double}


def comparison(runs: Mapping[str, FinishedRun], score: str) -> Table:
    """All runs in one table; differences are paired over images against AdaSAP."""
    reference = runs["adasap"].result.stages["fine-tuned"]["corrupted"].per_image()
    rows = []
    for name, run in runs.items():
        final, profile = run.result.stages["fine-tuned"], run.profiles["compressed"]
        corrupted = bootstrap_mean(final["corrupted"].per_image(), resamples=2000)
        gain = paired_difference(reference, final["corrupted"].per_image())
        rows.append(
            [
                TITLES.get(name, name),
                f"{profile.macs / run.profiles['dense'].macs:.3f}",
                f"{profile.parameters:,}",
                f"{100 * final['clean'].mean:.2f}",
                f"{100 * corrupted.value:.2f} {margin(corrupted)}",
                "" if name == "adasap" else f"{100 * gain.value:+.2f} {margin(gain)}",
                f"{run.result.counters.passes:.0f}",
            ]
        )
    header = ["run", "MACs", "params", score, "corrupted (%)", "AdaSAP's gain", "passes"]
    return Table(header, rows)


def margin(interval: Interval) -> str:
    """Half the width of an interval, in percentage points."""
    return f"±{50 * (interval.high - interval.low):.1f}"
