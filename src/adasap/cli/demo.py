"""`adasap demo`: the whole method on handwritten digits, in a few minutes on two CPU cores."""

from __future__ import annotations

import copy
import shlex
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from safetensors.torch import save

from adasap.cli.compare import write_comparison
from adasap.cli.runs import FinishedRun, run_recipe
from adasap.config import parse_recipe
from adasap.export import atomic_write
from adasap.report import PAGE, Table
from adasap.robustness import Interval, bootstrap_mean, paired_difference

DENSE_EPOCHS = 12
"""Epochs of the dense model's own training."""

COMPRESSION_EPOCHS = {"warm_up": 2.0, "pruning": 3.0, "fine_tune": 9.0}
"""Epochs of the three steps; the equal-compute baseline gets twice as many of each."""

KEPT_MACS = 0.25
"""Fraction of the multiply-accumulates that may be left."""

TITLES = {"plain-twice-the-epochs": "plain, 2 x"}
"""Folder of a run -> its short name in the table, which has to fit into 80 columns."""

PLAIN = {"sharpness": {"kind": "plain"}}
CORRUPTIONS = ["gaussian_noise", "gaussian_blur", "contrast"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for everything the demo makes.")] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Seed of all four runs.")] = 0,
) -> None:
    """Train a small model on digits, compress it three ways, compare them clean and corrupted."""
    console, started = Console(), time.perf_counter()
    command = shlex.join(["adasap", "demo", "--out", str(out), "--seed", str(seed)])
    runs = {"dense": run_recipe(parse_recipe(dense_recipe(seed)), out / "dense", console, command=command)}
    weights = str(export_dense(runs["dense"], out))
    for name, tree in compression_recipes(weights, seed).items():
        runs[name] = run_recipe(parse_recipe(tree), out / name, console, command=command)
    table = comparison(runs)
    write_comparison([run.folder for name, run in runs.items() if name != "dense"], out / "comparison")
    console.print()
    console.print(table)
    console.print(
        "MACs: fraction kept; plain, 2 x: plain fine-tuning of twice the epochs, as many passes as AdaSAP. One seed; ± "
        "is half a 95 % interval over the test images, and another seed moves these numbers by some points.\n"
        f"{time.perf_counter() - started:.0f} s. The models and records lie in {out}/; for example\n"
        f"  adasap profile {out}/adasap/model.safetensors\n"
        f"  adasap evaluate {out}/adasap/model.safetensors --data digits: --suite clean --suite corrupted",
        highlight=False,
    )
    console.print(f"The page: {out / 'comparison' / PAGE}", highlight=False, soft_wrap=True)


def base_recipe(seed: int) -> dict[str, Any]:
    """Model and data of all four runs; no budget is spent and nothing is perturbed."""
    return {
        "name": "dense",
        "seed": seed,
        "model": {"builder": "adasap:digits_net", "mean": [0.5] * 3, "std": [0.5] * 3},
        "data": {
            "train": {"kind": "digits"},
            "test": {"kind": "digits"},
            "suites": {"corrupted": {"kind": "corrupted", "corruptions": CORRUPTIONS}},
        },
        "training": {
            "batch_size": 64,
            "keep_stages": True,
            "optimizer": {"learning_rate": 0.05},
            "schedule": {"warm_up_epochs": 1},
        },
        "warm_up": {"epochs": 0, **PLAIN},
        "pruning": {"epochs": 0, "budget": {"macs": 1.0}, "schedule": "one_shot", "recalibration_batches": 0},
        "fine_tune": {"epochs": DENSE_EPOCHS, **PLAIN},
    }


def dense_recipe(seed: int) -> dict[str, Any]:
    """Plain training from a random start."""
    return base_recipe(seed)


def compression_recipes(weights: str, seed: int) -> dict[str, dict[str, Any]]:
    """AdaSAP, plain fine-tuning with the same epochs, and plain fine-tuning with the same compute."""
    epochs = COMPRESSION_EPOCHS
    adasap = copy.deepcopy(base_recipe(seed)) | {"name": "adasap"}
    adasap["model"] |= {"weights": weights}
    adasap["warm_up"] = {"epochs": epochs["warm_up"]}
    adasap["pruning"] = {"epochs": epochs["pruning"], "budget": {"macs": KEPT_MACS}, "events": 6, "every": 10}
    adasap["fine_tune"] = {"epochs": epochs["fine_tune"], "sharpness": {"kind": "uniform", "rho": 0.5}}
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
    with atomic_write(path) as file:
        file.write(save({name: tensor.contiguous() for name, tensor in run.result.model.state_dict().items()}))
    return path


def comparison(runs: dict[str, FinishedRun]) -> Table:
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
                str(run.result.counters.passes),
            ]
        )
    header = ["run", "MACs", "params", "clean (%)", "corrupted (%)", "AdaSAP's gain", "passes"]
    return Table(header, rows)


def margin(interval: Interval) -> str:
    """Half the width of an interval, in percentage points."""
    return f"±{50 * (interval.high - interval.low):.1f}"
