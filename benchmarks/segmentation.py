"""A U-Net on street photos: dense, then pruned to 0.4 of the MACs plainly (also with twice the epochs) and by AdaSAP.

    python benchmarks/segmentation.py                 # some four hours on one CPU core; goes on where it was
    python benchmarks/segmentation.py --only dense plain

Each run is `adasap compress recipes/segmentation/camvid_RUN.yaml`, each evaluation `adasap.evaluate` on the 233 test
photos, clean and under the 15 corruptions at severity 3.

Writes results/segmentation_camvid.json and docs/results-segmentation.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from files import write_json, write_page
from torch import Tensor

import adasap
from adasap.data import DataSource
from adasap.evaluation import CLEAN, Cell, SuiteResult, group_accuracies
from adasap.evaluation.metrics import cell_accuracies
from adasap.evaluation.statistics import Interval, bootstrap_mean, paired_difference
from adasap.experiments.recipe import read_recipe
from adasap.report import Table
from adasap.tasks.segmentation.suites import MOVES_PIXELS

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "segmentation_camvid.json", ROOT / "docs" / "results-segmentation.md"
RUNS = ("dense", "plain", "plain_double", "adasap")
PAIRS = (("adasap", "plain"), ("adasap", "plain_double"), ("plain", "dense"), ("adasap", "dense"))
BLOCK = 30
"""Neighbouring frames that the bootstrap draws together."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=RUNS, default=RUNS)
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"runs": {}}
    for run in parser.parse_args().only:
        if not (ROOT / f"runs/camvid_{run}/model.safetensors").is_file():
            recipe = f"recipes/segmentation/camvid_{run}.yaml"
            subprocess.run([sys.executable, "-m", "adasap", "compress", recipe], check=True, cwd=ROOT)
        kept["runs"][run] = evaluate(run)
        kept["runs"] = {name: kept["runs"][name] for name in RUNS if name in kept["runs"]}
        write_json(RESULTS, kept, indent=None)
        write_page(PAGE, page(kept["runs"]))


def evaluate(run: str) -> dict[str, Any]:
    """What the page needs of a finished run."""
    folder, out = ROOT / f"runs/camvid_{run}", ROOT / f"runs/segmentation/camvid_{run}"
    model = folder / "model.safetensors"
    names = read_recipe(ROOT / f"recipes/segmentation/camvid_{run}.yaml").data.test.classes
    data = DataSource("masks", f"{ROOT.parent}/shared/data/camvid", split="test", classes=names)
    found = adasap.evaluate(model, data, ["clean", "corrupted"], severities=[3], out=out)
    trained = json.loads((folder / "result.json").read_text())
    return {
        "environment": json.loads((out / "evaluation.json").read_text())["environment"],
        "counters": trained["counters"],
        "parameters": trained["profiles"]["compressed"]["parameters"],
        "macs": trained["profiles"]["compressed"]["macs"],
        **{name: _kept(found[name]) for name in ("clean", "corrupted")},
    }


def page(runs: dict[str, Any]) -> list[str]:
    processor = next(iter(runs.values()))["environment"]["processor"]["instruction_set"]
    moving = ", ".join(f"`{name}`" for name in MOVES_PIXELS)
    return [
        "# Segmentation on street photos",
        "`python benchmarks/segmentation.py` made this page. CamVid (11 classes, 367 photos for training, 233 for\n"
        "these numbers, 240 x 180 pixels), a U-Net on the ImageNet MobileNet V2, pruned to 0.4 of the MACs by L2\n"
        "magnitude; `recipes/segmentation/camvid_*.yaml`, **one seed**, radii as in the paper, nothing tuned. Clean\n"
        "is mIoU on the photos as they are, corrupted its mean over the 15 corruptions at severity 3; masks stay\n"
        f"as they are, also under {moving}, which move\n"
        f"pixels. In brackets 95 % intervals over blocks of {BLOCK} neighbouring frames, to first order; they do not\n"
        "contain the spread over seeds. Passes are forward-backward passes; `plain_double` has as many as `adasap`.\n"
        f"Processor: {processor}, float32.",
        str(_performance(runs)),
        "mIoU by kind of corruption (%):",
        str(_kinds(runs)),
        "IoU by class, clean (%):",
        str(_classes(runs)),
        "Paired differences (points):",
        str(_differences(runs)),
    ]


def _performance(runs: dict[str, Any]) -> Table:
    rows = []
    for run, row in runs.items():
        clean, corrupted = (_interval(_suite(row, name).per_image()) for name in ("clean", "corrupted"))
        boundary = row["clean"]["metrics"][str(CLEAN)]["boundary_f"]
        sizes = [f"{row['parameters']:,}", f"{row['macs'] / 1e6:.0f} M", f"{row['counters']['passes']:.0f}"]
        ratio = f"{corrupted.value / clean.value:.3f}"
        rows.append([run, f"{clean:.2f}", f"{corrupted:.2f}", ratio, f"{100 * boundary:.1f}", *sizes])
    header = ["run", "clean mIoU", "corrupted mIoU", "corrupted / clean", "boundary F", "parameters", "MACs", "passes"]
    return Table(header, rows)


def _kinds(runs: dict[str, Any]) -> Table:
    kinds = {
        run: group_accuracies(cell_accuracies(_suite(row, "corrupted").metrics, "miou")) for run, row in runs.items()
    }
    rows = [[run, *(f"{100 * value:.1f}" for value in by.values())] for run, by in kinds.items()]
    return Table(["run", *next(iter(kinds.values()))], rows)


def _classes(runs: dict[str, Any]) -> Table:
    found = {run: row["clean"]["metrics"][str(CLEAN)] for run, row in runs.items()}
    names = [name for name in next(iter(found.values())) if name.startswith("iou:")]
    rows = [[run, *(f"{100 * metrics[name]:.1f}" for name in names)] for run, metrics in found.items()]
    return Table(["run", *(name.removeprefix("iou:") for name in names)], rows)


def _differences(runs: dict[str, Any]) -> Table:
    rows = []
    for run, other in PAIRS:
        if run in runs and other in runs:
            cells = []
            for suite in ("clean", "corrupted"):
                one, two = (100 * _suite(runs[name], suite).per_image() for name in (run, other))
                cells.append(f"{paired_difference(one, two, block_length=BLOCK):+.2f}")
            rows.append([run, other, *cells])
    return Table(["run", "minus", "clean", "corrupted"], rows)


def _interval(scores: Tensor) -> Interval:
    return bootstrap_mean(100 * scores, block_length=BLOCK)


def _kept(suite: SuiteResult) -> dict[str, Any]:
    return {"metrics": suite.to_json()["cells"], "images": [round(share, 6) for share in suite.per_image().tolist()]}


def _suite(row: dict[str, Any], name: str) -> SuiteResult:
    """One suite with the images' shares of its mean over cells."""
    metrics = {Cell.parse(cell): found for cell, found in row[name]["metrics"].items()}
    return SuiteResult(name, {CLEAN: torch.tensor(row[name]["images"], dtype=torch.float64)}, metrics)


if __name__ == "__main__":
    main()
