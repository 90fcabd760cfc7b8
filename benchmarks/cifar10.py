"""The CIFAR-10 comparison: every recipe of `recipes/cifar10`, then one JSON file and one table.

    python ../shared/data/unpack.py .cache/cifar10
    python benchmarks/cifar10.py                      # some hours on two cores; resumes; --report only rewrites tables

Writes results/cifar10.json (all scores image by image, small) and docs/results-cifar10.md. Each model is compared with
the plain one of its own architecture and criterion, and with plain training of twice the epochs, on the same images.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from adasap.evaluation import SuiteResult
from adasap.evaluation.statistics import Interval, bootstrap_mean, paired_difference
from adasap.experiments.compress import run_recipe
from adasap.experiments.recipe import read_recipe
from adasap.io import atomic_write
from adasap.report import Table

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes" / "cifar10"
RESULTS = ROOT / "results" / "cifar10.json"
RUNS = {
    "resnet20_plain_l2": None,
    "resnet20_adasap_l2": "resnet20_plain_l2",
    "resnet20_plain_l2_double": "resnet20_plain_l2",
    "resnet20_asam_l2": "resnet20_plain_l2",
    "resnet20_plain_taylor": "resnet20_plain_l2",
    "resnet20_adasap_taylor": "resnet20_plain_taylor",
    "resnet56_plain_l2": None,
    "resnet56_adasap_l2": "resnet56_plain_l2",
}
"""Run -> the run it is compared with."""

SUITES = ("clean", "corrupted", "shifted")
STAGES = ("dense", "warmed up", "pruned", "recalibrated", "fine-tuned")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS), help="these runs only")
    parser.add_argument("--report", action="store_true", help="only rewrite results and tables from finished runs")
    arguments = parser.parse_args()
    console = Console()
    for name in arguments.only:
        if not arguments.report and not (arguments.runs / name / "result.json").is_file():
            run_recipe(read_recipe(RECIPES / f"{name}.yaml"), arguments.runs / name, console)
            write_report(arguments.runs)
    write_report(arguments.runs)


def write_report(runs: Path) -> None:
    """Results of the runs that are finished here, beside the committed results of runs that were made elsewhere."""
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in RUNS:
        if (runs / name / "result.json").is_file():
            result = json.loads((runs / name / "result.json").read_text())
            results[name] = {key: value for key, value in result.items() if key != "groups"}
    results = {name: results[name] for name in RUNS if name in results}
    with atomic_write(RESULTS) as file:
        file.write((json.dumps(results) + "\n").encode())
    text = "\n\n".join([final_table(results), stages_table(results), differences_table(results)])
    (ROOT / "docs" / "results-cifar10.md").write_text("# CIFAR-10, tables\n\n" + text + "\n")


def suite(result: dict[str, Any], name: str, stage: str = "fine-tuned") -> SuiteResult:
    return SuiteResult.from_json(name, result["stages"][stage][name])


def percent(interval: Interval) -> str:
    return f"{100 * interval.value:.2f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"


def points(interval: Interval) -> str:
    return f"{100 * interval.value:+.2f} ({100 * interval.low:+.1f} to {100 * interval.high:+.1f})"


def final_table(results: dict[str, Any]) -> str:
    rows = []
    for name, result in results.items():
        profile, counters = result["profiles"]["compressed"], result["counters"]
        dense = result["profiles"]["dense"]
        ratio = result["scores"]["fine-tuned"]["corrupted"] / result["scores"]["fine-tuned"]["clean"]
        rows.append(
            [
                name,
                f"{profile['parameters'] / dense['parameters']:.3f}",
                f"{profile['macs'] / dense['macs']:.3f}",
                *(percent(bootstrap_mean(suite(result, s).per_image(), resamples=2000)) for s in SUITES),
                f"{ratio:.3f}",
                f"{counters['passes']}",
                f"{counters['training_seconds'] / 60:.1f}",
            ]
        )
    header = ["run", "parameters kept", "MACs kept", *(f"{s} (%)" for s in SUITES), "corrupted / clean"]
    return f"## At the end\n\n{Table([*header, 'passes', 'training (min)'], rows)}"


def stages_table(results: dict[str, Any]) -> str:
    rows = []
    for name, result in results.items():
        for stage in STAGES:
            scores = result["scores"][stage]
            rows.append([name, stage, *(f"{100 * scores[s]:.2f}" for s in SUITES)])
    return f"## Stage by stage (%)\n\n{Table(['run', 'stage', *SUITES], rows)}"


def differences_table(results: dict[str, Any]) -> str:
    pairs = [(name, base) for name, base in RUNS.items() if base]
    pairs += [("resnet20_adasap_l2", "resnet20_plain_l2_double"), ("resnet20_adasap_l2", "resnet20_asam_l2")]
    rows = []
    for name, base in pairs:
        if name in results and base in results:
            gains = [
                paired_difference(suite(results[name], s).per_image(), suite(results[base], s).per_image())
                for s in SUITES
            ]
            rows.append([name, base, *map(points, gains)])
    title = "## Differences on the same images (points, paired bootstrap over images, 95 %)\n\n"
    return title + str(Table(["run", "minus", *SUITES], rows))


if __name__ == "__main__":
    main()
