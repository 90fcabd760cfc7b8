"""Small SSDs on real photos: dense, then pruned to 0.4 of the MACs plainly (also with twice the epochs) and by AdaSAP.

    python benchmarks/detection.py bccd             # 364 photos of blood cells; under an hour on two CPU cores
    python benchmarks/detection.py voc20            # 1,263 photos of Pascal VOC; some three hours
    python benchmarks/detection.py bccd voc20 --latency   # all models take turns, on a quiet machine

Each run is `adasap compress`, each evaluation `adasap evaluate` (clean, and 15 corruptions at five severities); what is
there already is read. A dense detector below its floor ends the script: detectors that are compared should detect. The
floor of bccd was set from a first run on validation images, that of voc20 after the run that is reported.

Writes results/detection_SET.json and docs/results-detection.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from files import write_json, write_page

from adasap.corruptions import BENCHMARK
from adasap.evaluation import CLEAN, Cell, SuiteResult, group_accuracies
from adasap.evaluation.metrics import cell_accuracies
from adasap.evaluation.statistics import bootstrap_mean, paired_difference
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import read_recipe
from adasap.export import load
from adasap.profiling.profile import profile_models
from adasap.report import Table
from adasap.tasks.detection.corruption_metrics import performance, ratio_interval

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results-detection.md"
FLOORS = {"bccd": 0.70, "voc20": 0.30}
"""AP50 (area) of the dense detector on clean test images."""
RUNS = ("dense", "plain", "plain_double", "adasap")
PAIRS = (("adasap", "plain"), ("adasap", "plain_double"), ("plain", "dense"), ("adasap", "dense"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", choices=FLOORS)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=RUNS)
    parser.add_argument("--latency", action="store_true", help="only measure the models that are there")
    arguments = parser.parse_args()
    for name in arguments.sets:
        kept = _read(name)
        for run in () if arguments.latency else arguments.only:
            train(name, run)
            kept["runs"][run] = evaluate(name, run)
            _write(name, kept)
            check_floor(name, kept)
        if arguments.latency:
            kept["latency"] = measure(name, [run for run in RUNS if run in kept["runs"]])
            _write(name, kept)


def train(name: str, run: str) -> None:
    """`adasap compress`; a run that is finished is left alone, one that was stopped goes on."""
    if not (ROOT / f"runs/{name}_{run}/model.safetensors").is_file():
        _adasap("compress", f"recipes/{name}/{name}_{run}.yaml")


def evaluate(name: str, run: str) -> dict[str, Any]:
    """`adasap evaluate`; then what the page needs of it."""
    suites = ["--suite", "clean", "--suite", "corrupted", "--data", f"voc:../shared/data/{name}"]
    out = f"runs/detection/{name}_{run}"
    _adasap("evaluate", f"runs/{name}_{run}/model.safetensors", *suites, "--out", out)
    found = json.loads((ROOT / out / "evaluation.json").read_text())
    trained = json.loads((ROOT / f"runs/{name}_{run}/result.json").read_text())
    clean, corrupted = (SuiteResult.from_json(suite, found["suites"][suite]) for suite in ("clean", "corrupted"))
    return {
        "environment": found["environment"],
        "counters": trained["counters"],
        "stages": trained["scores"],
        "parameters": trained["profiles"]["compressed"]["parameters"],
        "macs": trained["profiles"]["compressed"]["macs"],
        "clean": {"metrics": clean.to_json()["cells"], "images": _rounded(clean)},
        "corrupted": {"metrics": corrupted.to_json()["cells"], "images": _rounded(corrupted)},
    }


def check_floor(name: str, kept: dict[str, Any]) -> None:
    (cell,) = kept["runs"]["dense"]["clean"]["metrics"].values()
    if cell["map50"] < FLOORS[name]:
        raise SystemExit(
            f"the dense detector has AP50 {cell['map50']:.3f} on {name}, below the floor of {FLOORS[name]}: train it "
            "better before others are compared with it"
        )


def measure(name: str, runs: list[str]) -> dict[str, Any]:
    """Latency of all models, taking turns: the traced part, and from images to boxes."""
    recipe = read_recipe(ROOT / f"recipes/{name}/{name}_dense.yaml")
    data = open_data(recipe)
    images = open_task(recipe, classes=data.train.classes).timed_images(data)
    models = {run: load(ROOT / f"runs/{name}_{run}/model.safetensors").eval() for run in runs}
    example = torch.zeros(1, *recipe.model.input_size)
    profiles = profile_models(models, example, images=images, seconds=20.0)
    return {"threads": torch.get_num_threads(), **{run: dataclasses.asdict(p) for run, p in profiles.items()}}


def page(found: dict[str, dict[str, Any]]) -> list[str]:
    parts = [
        "# Detectors on real photos",
        "`python benchmarks/detection.py bccd voc20` made this page, `--latency` the tables of latency. SSD with\n"
        "MobileNet V1 (width 0.75, ImageNet weights) at 224 x 224, pruned to 0.4 of the MACs of backbone and heads by\n"
        "L2 magnitude; `recipes/bccd` and `recipes/voc20`, one seed, bf16 on the CPU. Clean is AP50 (area) on the\n"
        "test images, mPC its mean over 15 corruptions and five severities of the photos at their own size; rPC is\n"
        "mPC / clean (as for COCO), beside it the mean of the classes' ratios (as for Pascal VOC). In brackets 95 %\n"
        "intervals over images, to first order; they do not contain the spread over seeds. Passes are\n"
        "forward-backward passes. The floor of bccd was set from a first run on validation images, that of voc20\n"
        "after its dense detector had been seen on the test images.",
    ]
    for name, kept in found.items():
        first = kept["runs"]["dense"]["clean"]["images"]
        images = f"## {name}: {len(first)} test images, floor of the dense AP50 {100 * FLOORS[name]:.0f} %"
        parts += [images, str(_performance(kept)), "Mean AP50 by kind of corruption (%):", str(_kinds(kept))]
        parts += ["Paired differences (points):", str(_differences(kept))]
        if "latency" in kept:
            said = f"Latency, median / 95th percentile, ms; {kept['latency']['threads']} threads, models taking turns:"
            parts += [said, str(_latency(kept["latency"]))]
    return parts


def _performance(kept: dict[str, Any]) -> Table:
    header = ["run", "clean", "mPC", "rPC", "rPC by class", "parameters", "MACs", "passes"]
    rows = []
    for run, row in kept["runs"].items():
        clean, corrupted = _suite(row, "clean"), _suite(row, "corrupted")
        found = performance(clean, corrupted, BENCHMARK)
        ratio = ratio_interval(clean.per_image(), corrupted.per_image())
        scores = [bootstrap_mean(100 * suite.per_image()) for suite in (clean, corrupted)]
        sizes = [f"{row['parameters']:,}", f"{row['macs'] / 1e6:.0f} M", f"{row['counters']['passes']:.0f}"]
        rows.append(
            [run, *(f"{score:.2f}" for score in scores), f"{ratio:.3f}", f"{found.mean_of_class_ratios:.2f}", *sizes]
        )
    return Table(header, rows)


def _kinds(kept: dict[str, Any]) -> Table:
    kinds = {
        run: group_accuracies(cell_accuracies(_suite(row, "corrupted").metrics, "map50"))
        for run, row in kept["runs"].items()
    }
    rows = [[run, *(f"{100 * value:.1f}" for value in by.values())] for run, by in kinds.items()]
    return Table(["run", *next(iter(kinds.values()))], rows)


def _differences(kept: dict[str, Any]) -> Table:
    rows = []
    for run, other in PAIRS:
        if run in kept["runs"] and other in kept["runs"]:
            pairs = [
                [100 * _suite(kept["runs"][one], suite).per_image() for one in (run, other)]
                for suite in ("clean", "corrupted")
            ]
            rows.append([run, other, *(f"{paired_difference(*pair):+.2f}" for pair in pairs)])
    return Table(["run", "minus", "clean", "mPC"], rows)


def _latency(latency: dict[str, Any]) -> Table:
    rows = []
    for run, profile in latency.items():
        if run != "threads":
            times = [*profile["latency"], *profile["predictions"]["images to boxes"]]
            rows.append([run, *(f"{t['p50_ms']:.1f} / {t['p95_ms']:.1f}" for t in times)])
    header = ["run", "traced part, batch 1", "batch 16", "images to boxes, batch 1", "batch 16"]
    return Table(header, rows)


def _suite(row: dict[str, Any], name: str) -> SuiteResult:
    """One suite with the images' shares of its mean over cells."""
    metrics = {Cell.parse(cell): found for cell, found in row[name]["metrics"].items()}
    return SuiteResult(name, {CLEAN: torch.tensor(row[name]["images"], dtype=torch.float64)}, metrics)


def _rounded(suite: SuiteResult) -> list[float]:
    return [round(share, 6) for share in suite.per_image().tolist()]


def _adasap(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "adasap", *words], check=True, cwd=ROOT)


def _read(name: str) -> dict[str, Any]:
    path = ROOT / "results" / f"detection_{name}.json"
    return json.loads(path.read_text()) if path.is_file() else {"runs": {}}


def _write(name: str, kept: dict[str, Any]) -> None:
    kept["runs"] = {run: kept["runs"][run] for run in RUNS if run in kept["runs"]}
    write_json(ROOT / "results" / f"detection_{name}.json", kept, indent=None)
    write_page(PAGE, page({one: found for one in FLOORS if (found := _read(one))["runs"]}))


if __name__ == "__main__":
    main()
