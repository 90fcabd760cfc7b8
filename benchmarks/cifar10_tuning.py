"""What was tried: one choice changed at a time, on the tuning split only, with a schedule of two epochs.

    python ../shared/data/unpack.py .cache/cifar10
    python benchmarks/cifar10_tuning.py               # about five minutes a run on one core; resumes

Scores are CIFAR-10 test images 0 to 4,999, the four validation corruptions on the 64 reference images, and Gaussian
blur, one of the four, on the first 1,000 images, which is the more precise number. Nothing that is reported elsewhere
is looked at. Writes results/cifar10_tuning.json and docs/results-cifar10-tuning.md.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from cifar10 import RECIPES, ROOT, percent, points
from files import write_json, write_page
from rich.console import Console

from adasap.evaluation import SuiteResult
from adasap.evaluation.statistics import bootstrap_mean, paired_difference
from adasap.experiments.compress import run_recipe
from adasap.experiments.recipe import read_recipe
from adasap.report import Table

RESULTS = ROOT / "results" / "cifar10_tuning.json"
PAGE = ROOT / "docs" / "results-cifar10-tuning.md"

SHORT = ["warm_up.epochs=0.33", "pruning.epochs=0.67", "fine_tune.epochs=1"]
TUNING_SPLIT = [
    "data.test.first=0",
    "data.suites.corrupted.corruptions=validation",
    "data.suites.shifted={kind: corrupted, corruptions: [gaussian_blur], "
    "data: {kind: npz, path: .cache/cifar10/test.npz, count: 1000}}",
]
SUITES = {"clean": "clean", "corrupted": "validation corruptions", "shifted": "Gaussian blur"}
"""Suite of the recipe -> what it holds here."""


def both(option: str) -> list[str]:
    """An option of the perturbation, in all three steps."""
    return [f"{phase}.sharpness.perturbation.{option}" for phase in ("warm_up", "fine_tune")]


RUNS: dict[str, tuple[str, list[str]]] = {
    "plain": ("resnet20_plain_l2", []),
    "plain, twice the epochs": (
        "resnet20_plain_l2",
        ["warm_up.epochs=0.67", "pruning.epochs=1.33", "fine_tune.epochs=2"],
    ),
    "ASAM 0.5": ("resnet20_asam_l2", []),
    "AdaSAP, defaults": ("resnet20_adasap_l2", []),
    "norms: none": ("resnet20_adasap_l2", both("norms=none")),
    "norms: midpoint": ("resnet20_adasap_l2", both("norms=midpoint")),
    "rho_max 1": ("resnet20_adasap_l2", ["warm_up.sharpness.rho_max=1"]),
    "rho_max 0.5": ("resnet20_adasap_l2", ["warm_up.sharpness.rho_max=0.5"]),
    "scope: group": ("resnet20_adasap_l2", both("scope=group")),
    "scope: channel": ("resnet20_adasap_l2", both("scope=channel")),
    "weighting: linear": ("resnet20_adasap_l2", both("weighting=linear")),
    "euclidean, 0.0005 to 0.1, then 0.05": (
        "resnet20_adasap_l2",
        [
            *both("geometry=euclidean"),
            "warm_up.sharpness.rho_min=0.0005",
            "warm_up.sharpness.rho_max=0.1",
            "fine_tune.sharpness.rho=0.05",
        ],
    ),
    "fine-tuning rho 1": ("resnet20_adasap_l2", ["fine_tune.sharpness.rho=1"]),
    "rate 0.02": ("resnet20_adasap_l2", ["training.optimizer.learning_rate=0.02"]),
    "AdaSAP, defaults, seed 1": ("resnet20_adasap_l2", ["seed=1"]),
    "norms: midpoint, seed 1": ("resnet20_adasap_l2", ["seed=1", *both("norms=midpoint")]),
}
"""Title -> recipe, and what is changed in it beside the schedule and the split."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10-tuning"))
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), help="these runs only")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for title in arguments.only:
        if title not in results:
            results[title] = run(title, arguments.runs)
            write_report(results)
    write_report(results)


def run(title: str, runs: Path) -> dict[str, Any]:
    """One run; what is kept of it."""
    recipe, changes = RUNS[title]
    settings = [*SHORT, *TUNING_SPLIT, *changes]
    folder = runs / "".join(letter if letter.isalnum() else "-" for letter in title)
    run_recipe(read_recipe(RECIPES / f"{recipe}.yaml", settings), folder, Console())
    result = json.loads((folder / "result.json").read_text())
    stages = {stage: result["stages"][stage] for stage in ("pruned", "fine-tuned")}
    return {"recipe": recipe, "settings": settings, "stages": stages, "counters": result["counters"]}


def write_report(results: dict[str, Any]) -> None:
    """All runs so far, as JSON and as a table with differences on the same images."""
    results = {title: results[title] for title in RUNS if title in results}
    write_json(RESULTS, results, indent=None)
    lines = (__doc__ or "").split("\n\n")
    write_page(PAGE, ["# CIFAR-10, what was tried", lines[0], lines[2], str(table(results))])


def table(results: dict[str, Any]) -> Table:
    """Scores after the last cut and at the end; the last columns are paired with AdaSAP's defaults."""
    rows = []
    for title, result in results.items():
        row = [title, str(result["counters"]["passes"])]
        row.append(f"{100 * suite(result, 'clean', 'pruned').mean:.2f}")
        row += [percent(bootstrap_mean(suite(result, s).per_image(), resamples=2000)) for s in SUITES]
        if "AdaSAP, defaults" in results and title != "AdaSAP, defaults":
            base = results["AdaSAP, defaults"]
            row += [
                points(paired_difference(suite(result, s).per_image(), suite(base, s).per_image()))
                for s in ("clean", "shifted")
            ]
        rows.append([*row, *[""] * (8 - len(row))])
    names = [f"{name} (%)" for name in SUITES.values()]
    against = ["clean, minus defaults", "Gaussian blur, minus defaults"]
    return Table(["run", "passes", "clean right after pruning (%)", *names, *against], rows)


def suite(result: dict[str, Any], name: str, stage: str = "fine-tuned") -> SuiteResult:
    return SuiteResult.from_json(name, result["stages"][stage][name])


if __name__ == "__main__":
    main()
