"""`adasap demo`: the whole method on handwritten digits or drawn shapes, in a few minutes on two CPU cores."""

from __future__ import annotations

import copy
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from adasap.cli.compare import write_comparison
from adasap.cli.demo_data import DEMOS, PLAIN, Demo, DemoTask
from adasap.cli.runs import FinishedRun, export_weights, run_recipe
from adasap.config import parse_recipe
from adasap.report import PAGE, Table
from adasap.robustness import Interval, bootstrap_mean, paired_difference

TITLES = {"plain-twice-the-epochs": "plain, 2 x"}
"""Folder of a run -> its short name in the table, which has to fit into 80 columns."""


def demo(
    task: Annotated[
        DemoTask, typer.Option(help="Handwritten digits, or boxes around drawn shapes.")
    ] = "classification",
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Seed of all four runs.")] = 0,
) -> None:
    """Train a small model, compress it three ways, compare them clean and corrupted."""
    console, started, chosen = Console(), time.perf_counter(), DEMOS[task]
    words = ["adasap", "demo", *(["--task", task] if task != "classification" else []), "--out", str(out)]
    command = shlex.join([*words, "--seed", str(seed)])
    runs = {"dense": run_recipe(parse_recipe(chosen.recipe(seed)), out / "dense", console, command=command)}
    weights = str(export_dense(runs["dense"], out))
    for name, tree in compression_recipes(chosen, weights, seed).items():
        runs[name] = run_recipe(parse_recipe(tree), out / name, console, command=command)
    table = comparison(runs, chosen.score)
    write_comparison([run.folder for name, run in runs.items() if name != "dense"], out / "comparison")
    console.print()
    console.print(table)
    console.print(
        "MACs: fraction kept; plain, 2 x: plain fine-tuning of twice the epochs, as many passes as AdaSAP. One seed; ± "
        "is half a 95 % interval over the test images, and another seed moves these numbers by some points.\n"
        f"{time.perf_counter() - started:.0f} s. The models and records lie in {out}/; for example\n"
        f"  adasap profile {out}/adasap/model.safetensors\n"
        f"  adasap evaluate {out}/adasap/model.safetensors --data {chosen.data} --suite clean --suite corrupted",
        highlight=False,
    )
    console.print(f"The page: {out / 'comparison' / PAGE}", highlight=False, soft_wrap=True)


def compression_recipes(demo: Demo, weights: str, seed: int) -> dict[str, dict[str, Any]]:
    """AdaSAP, plain fine-tuning with the same epochs, and plain fine-tuning with the same compute."""
    epochs = demo.epochs
    adasap = copy.deepcopy(demo.recipe(seed)) | {"name": "adasap"}
    adasap["model"] |= {"weights": weights}
    adasap["warm_up"] = {"epochs": epochs["warm_up"]}
    adasap["pruning"] = {"epochs": epochs["pruning"], **demo.pruning}
    adasap["fine_tune"] = {"epochs": epochs["fine_tune"], "sharpness": {"kind": "uniform", "rho": demo.rho}}
    plain = copy.deepcopy(adasap) | {"name": "plain"}
    plain["warm_up"] |= PLAIN
    plain["fine_tune"] |= PLAIN
    double = copy.deepcopy(plain) | {"name": "plain-twice-the-epochs"}
    for step, length in epochs.items():
        double[step]["epochs"] = 2 * length
    return {"adasap": adasap, "plain": plain, "plain-twice-the-epochs": double}


def export_dense(run: FinishedRun, out: Path) -> Path:
    """The dense weights as a plain safetensors file, as a pretrained model would come."""
    path = out / "dense.safetensors"
    export_weights(run.result.model, path)
    return path


def comparison(runs: dict[str, FinishedRun], score: str) -> Table:
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
