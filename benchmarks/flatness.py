"""Flatness before and after each step of sixteen runs on digits: do its measures agree, and do they go with accuracy?

    adasap sweep recipes/sweeps/digits_flatness.yaml     # ten minutes on two CPU cores
    python benchmarks/flatness.py                        # ten more; goes on where it was

Each run is measured by `adasap analyze` on 256 training images in batches of 32, norms frozen.

Writes results/flatness.json and docs/results-flatness.md.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

from files import write_json, write_page

from adasap.analysis import rank_correlation, read_analysis
from adasap.experiments.sweep.schema import load_results
from adasap.report import Table

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "flatness.json", ROOT / "docs" / "results-flatness.md"
INSTRUMENTS = ("loss", "worst_case", "average_case", "eigenvalues", "trace")
SETTINGS = (
    *("worst_case.l2=[0.05]", "worst_case.adaptive_l2=[0.5]", "worst_case.linf=[]", "worst_case.adaptive_linf=[0.002]"),
    *("average_case.deviations=[]", "average_case.adaptive_deviations=[0.1]", "hessian.eigenvalues=1"),
)
STAGES = ("before warm-up", "after warm-up", "after pruning", "fine-tuned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/sweeps"), help="what was given to `adasap sweep --out`")
    parser.add_argument("--out", type=Path, default=Path("runs/flatness"))
    arguments = parser.parse_args()
    sweep = load_results(arguments.runs / "digits_flatness" / "sweep.json")
    found = []
    for run, cells in sweep["runs"].items():
        for seed, cell in cells["cells"].items():
            out = arguments.out / cell["cell"]
            analyze(arguments.runs / "cells" / cell["cell"], out)
            models = read_analysis(out / "analysis.json")["models"]
            stages = {stage: measures(models[stage]) for stage in STAGES}
            found.append({"run": run, "seed": int(seed), "scores": cell["scores"], "stages": stages})
            write_json(RESULTS, found)
    write_page(PAGE, page(found))


def analyze(run: Path, out: Path) -> None:
    chosen = [word for name in INSTRUMENTS for word in ("--only", name)]
    options = [word for setting in SETTINGS for word in ("--set", setting)]
    command = [sys.executable, "-m", "adasap", "analyze", str(run), *chosen, *options, "--out", str(out)]
    subprocess.run(command, check=True)


def measures(model: dict[str, Any]) -> dict[str, float]:
    """One number for each measure; rises are those of the best of five steps."""
    found = {"loss": model["loss"]["loss"]["mean"]}
    for kind, part in model["worst_case"].items():
        (ball,) = part["radii"]
        found[f"{kind} {ball['radius']}"] = ball["n_step"]["mean"]
    for kind, part in model["average_case"].items():
        (noise,) = part["deviations"]
        found[f"{kind} {noise['deviation']}"] = noise["mean"]
    found["largest eigenvalue"] = model["eigenvalues"]["whole model"]["largest"][0]
    found["trace"] = model["trace"]["trace"]["value"]
    return found


def page(found: list[dict[str, Any]]) -> list[str]:
    runs, seeds = list(dict.fromkeys(row["run"] for row in found)), len({row["seed"] for row in found})
    finals = [row["stages"]["fine-tuned"] for row in found]
    names = list(finals[0])
    parts = [
        "# Flatness of the runs, step by step",
        "`adasap sweep recipes/sweeps/digits_flatness.yaml`, then `python benchmarks/flatness.py` made this page: the\n"
        f"digits network, a quarter of the MACs, {', '.join(runs)}, {seeds} seeds each. Medians over seeds of what\n"
        "[`adasap analyze`](analysis.md) measures on 256 training images, m = 32, five ascent steps, norms frozen.\n"
        "Worst and average cases are rises of the loss; the small model has fewer weights, so an l2 ball pushes each\n"
        "of them further.",
    ]
    for name in names:
        rows = [
            [
                run,
                *(
                    f"{median(row['stages'][stage][name] for row in found if row['run'] == run):.3g}"
                    for stage in STAGES
                ),
            ]
            for run in runs
        ]
        parts += [f"## {name}", str(Table(["run", *STAGES], rows))]
    parts += ["## Do the measures agree?", AGREE.format(len(found)), str(_agreement(finals, names))]
    parts += ["## Does flatness go with accuracy?", ACCURACY.format(len(found)), str(_accuracy(found, names))]
    return parts


AGREE = "Spearman's rank correlation between measures over the {} fine-tuned models (its diagonal is 1):"
ACCURACY = (
    "Spearman's rank correlation of each measure with accuracy on test images, over the {} fine-tuned models, and\n"
    "the mean over seeds of the correlation among the runs of one seed, which share a dense model. Negative: the\n"
    "flatter model is the more accurate one. Over 16 models chance gives 0.5 in one case of twenty:"
)


def _agreement(models: list[dict[str, float]], names: list[str]) -> Table:
    pairs = {
        (a, b): rank_correlation(*([model[n] for model in models] for n in (a, b))) for a, b in combinations(names, 2)
    }
    rows = []
    for name in names:
        cells = [pairs.get((name, other), pairs.get((other, name), 1.0)) for other in names]
        rows.append([name, *("" if cell is None else f"{cell:+.2f}" for cell in cells)])
    return Table(["", *names], rows)


def _accuracy(found: list[dict[str, Any]], names: list[str]) -> Table:
    suites = list(found[0]["scores"])
    rows = []
    for name in names:
        cells = []
        for suite in suites:
            cells += [_correlation(found, name, suite), _within_seeds(found, name, suite)]
        rows.append([name, *cells])
    return Table(["measure", *(f"{suite}{of}" for suite in suites for of in (", all", ", within seeds"))], rows)


def _correlation(found: list[dict[str, Any]], name: str, suite: str) -> str:
    value = rank_correlation(
        [row["stages"]["fine-tuned"][name] for row in found], [row["scores"][suite] for row in found]
    )
    return "" if value is None else f"{value:+.2f}"


def _within_seeds(found: list[dict[str, Any]], name: str, suite: str) -> str:
    values = []
    for seed in dict.fromkeys(row["seed"] for row in found):
        mine = [row for row in found if row["seed"] == seed]
        of_seed = [row["stages"]["fine-tuned"][name] for row in mine], [row["scores"][suite] for row in mine]
        value = rank_correlation(*of_seed)
        values += [] if value is None else [value]
    return f"{fmean(values):+.2f}" if values else ""


if __name__ == "__main__":
    main()
