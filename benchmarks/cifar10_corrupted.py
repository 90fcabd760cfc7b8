"""The CIFAR-10 runs under the 15 corruptions of the whole test set: 75 cells of 10,000 images for each model.

    python ../shared/data/unpack.py .cache/cifar10
    python benchmarks/cifar10.py                      # makes the models
    python benchmarks/cifar10_corrupted.py            # some minutes a model on two cores; resumes cell by cell

Each model is evaluated by the command `adasap evaluate`. Choices were made on test images 0 to 4,999
(with the four other corruptions), so the mean over images 5,000 to 9,999 stands beside that over all.

Writes results/cifar10_corrupted.json and docs/results-cifar10-corrupted.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from cifar10 import RUNS
from files import write_json, write_page

from adasap.evaluation import CLEAN, Cell, SuiteResult, group_accuracies
from adasap.evaluation.metrics import cell_accuracies
from adasap.evaluation.statistics import bootstrap_mean, paired_difference
from adasap.report import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "cifar10_corrupted.json", ROOT / "docs" / "results-cifar10-corrupted.md"
DENSE = {"resnet20_dense": "resnet20", "resnet56_dense": "resnet56"}
REPORTED = slice(5000, None)
PAIRS = [(run, other) for run, other in RUNS.items() if other is not None]
PAIRS += [("resnet20_adasap_l2", "resnet20_plain_l2_double"), ("resnet20_adasap_l2", "resnet20_asam_l2")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, default=Path(".cache/cifar10"))
    parser.add_argument("--weights", type=Path, default=Path("../shared/data/weights"))
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--out", type=Path, default=Path("runs/cifar10_corrupted"))
    parser.add_argument("--only", nargs="+", choices=[*DENSE, *RUNS], default=[*DENSE, *RUNS])
    arguments = parser.parse_args()
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in arguments.only:
        evaluate(name, arguments)
        kept[name] = summary(json.loads((arguments.out / name / "evaluation.json").read_text()))
        write_json(RESULTS, {run: kept[run] for run in (*DENSE, *RUNS) if run in kept}, indent=None)
        write_page(PAGE, page(json.loads(RESULTS.read_text())))


def evaluate(name: str, arguments: argparse.Namespace) -> None:
    """The command that a user would give; what it has computed already it reads."""
    if name in DENSE:
        file = arguments.weights / f"{DENSE[name]}_cifar10.safetensors"
        model = [f"adasap:cifar_{DENSE[name]}", "--weights", str(file)]
    else:
        model = [str(arguments.runs / name / "model.safetensors")]
    data = f"npz:{arguments.cifar10 / 'test.npz'}"
    suites = ["--suite", "clean", "--suite", "corrupted", "--data", data, "--out", str(arguments.out / name)]
    subprocess.run([sys.executable, "-m", "adasap", "evaluate", *model, *suites], check=True)


def summary(evaluation: dict[str, Any]) -> dict[str, Any]:
    """What the page needs of an evaluation: metrics of each cell, and in how many of its cells each image was right."""
    clean, corrupted = (SuiteResult.from_json(name, evaluation["suites"][name]) for name in ("clean", "corrupted"))
    right = torch.stack(list(corrupted.cells.values())).sum(dim=0)
    return {
        "environment": evaluation["environment"],
        "timings": evaluation["timings"],
        "clean": {"metrics": clean.metrics[CLEAN], "right": "".join(str(int(score)) for score in clean.per_image())},
        "corrupted": {"metrics": corrupted.to_json()["cells"], "right_of_75": [int(cells) for cells in right]},
    }


def page(results: dict[str, Any]) -> list[str]:
    """Tables of what is there."""
    corrupted = {name: torch.tensor(r["corrupted"]["right_of_75"]) / 75 for name, r in results.items()}
    pairs = [(run, other) for run, other in PAIRS if run in results and other in results]
    return [
        "# CIFAR-10 under the 15 corruptions, whole test set",
        "`python benchmarks/cifar10_corrupted.py` made this page. Corruptions are computed on the fly (constants\n"
        "of 32 pixels, image i drawn with seed i), five severities each; in brackets 95 % bootstrap intervals.",
        str(_means(results, corrupted)),
        "## Kind by kind (%)",
        str(_groups(results)),
        "## Paired differences (points)",
        str(_differences(results, corrupted, pairs)),
        "## What an evaluation takes",
        "Of the 750,000 corrupted images, by the clock, on two cores; other work ran beside most of them, so only the\n"
        "first row, on a machine that did nothing else, says how fast it goes.",
        str(_timings(results)),
    ]


def _means(results: dict[str, Any], corrupted: dict[str, torch.Tensor]) -> Table:
    rows = []
    for name, result in results.items():
        metrics = result["corrupted"]["metrics"].values()
        clean = result["clean"]["metrics"]
        mean = bootstrap_mean(100 * corrupted[name], resamples=2000)
        reported = bootstrap_mean(100 * corrupted[name][REPORTED], resamples=2000)
        ece = sum(cell["ece"] for cell in metrics) / len(metrics)
        row = [f"{100 * clean['accuracy']:.2f}", f"{mean:.2f}", f"{reported:.2f}"]
        rows.append(
            [name, *row, f"{mean.value / clean['accuracy'] / 100:.3f}", f"{100 * clean['ece']:.1f} / {100 * ece:.1f}"]
        )
    header = [
        "model",
        "clean (%)",
        "corrupted (%)",
        "images 5,000 to 9,999",
        "corrupted / clean",
        "ECE, clean / corrupted",
    ]
    return Table(header, rows)


def _groups(results: dict[str, Any]) -> Table:
    rows = []
    for name, result in results.items():
        cells = {Cell.parse(cell): found for cell, found in result["corrupted"]["metrics"].items()}
        groups = group_accuracies(cell_accuracies(cells))
        rows.append([name, *(f"{100 * accuracy:.2f}" for accuracy in groups.values())])
    return Table(["model", *groups], rows)


def _differences(results: dict[str, Any], corrupted: dict[str, torch.Tensor], pairs: list[tuple[str, str]]) -> Table:
    rows = []
    for run, other in pairs:
        clean = [
            100 * torch.tensor([float(digit) for digit in results[name]["clean"]["right"]]) for name in (run, other)
        ]
        differences = [paired_difference(*clean), paired_difference(100 * corrupted[run], 100 * corrupted[other])]
        differences.append(paired_difference(100 * corrupted[run][REPORTED], 100 * corrupted[other][REPORTED]))
        rows.append([run, other, *(f"{difference:+.2f}" for difference in differences)])
    return Table(["run", "minus", "clean", "corrupted", "corrupted, images 5,000 to 9,999"], rows)


def _timings(results: dict[str, Any]) -> Table:
    rows = []
    for name, result in results.items():
        took = result["timings"]["corrupted"]
        shares = [f"{took[key]:.2f}" for key in ("model_share", "corruptions_share")]
        rows.append([name, f"{took['wall']:.0f}", f"{took['images_per_second']:,.0f}", *shares])
    return Table(["model", "seconds", "images a second", "share of the model", "share of the corruptions"], rows)


if __name__ == "__main__":
    main()
