"""ImageNet's MobileNet V1 0.75 cut by 10 to 30 % of its MACs, no training: accuracy, sharpness, damage of removal.

    python benchmarks/imagenet_removal.py       # under an hour on two CPU cores; goes on where it was

Images 0, 4, 8, ... of `imagenet_sample` (250) are what criteria, norms and sharpness see; accuracy is of the other 750,
whose classes are others, since the set has one photo per class. Both are very probably training images of the network.

Writes results/imagenet_removal.json and docs/results-imagenet-removal.md.
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from files import write_json, write_page
from torch import Tensor, nn

import adasap
from adasap.analysis import AnalysisOptions, Objective, Subject, analyze, channel_summary, worst_case_sharpness
from adasap.analysis.options import ChannelOptions
from adasap.data import DataSource, open_dataset
from adasap.evaluation.statistics import bootstrap_mean
from adasap.groups import trace_groups
from adasap.report import Table
from adasap.sharpness import recalibrate_
from adasap.sharpness.options import Geometry
from adasap.tasks.classification.task import ClassificationTask

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "imagenet_removal.json", ROOT / "docs" / "results-imagenet-removal.md"
CRITERIA = (
    *("random", "l1", "l2", "taylor", "norm_scale", "fpgm", "lamp", "fisher"),
    *("taylor2", "taylor_norm", "activation_mean", "apoz", "hutchinson"),
)
KEPT = (0.9, 0.8, 0.7)
SHARPNESS_OF = ("l2", "taylor")
BALLS: tuple[tuple[Geometry, float], ...] = (("euclidean", 0.05), ("elementwise", 0.5))
CHANNELS, IMAGES = 120, 64
EXAMPLE = torch.zeros(1, 3, 224, 224)

Batch = tuple[Tensor, Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/imagenet_sample")
    parser.add_argument("--weights", default="../shared/data/weights/mobilenet_v1_0.75_imagenet.safetensors")
    arguments = parser.parse_args()
    half = (0.5, 0.5, 0.5)
    spec = adasap.ModelSpec("adasap:mobilenet_v1_tf", {"width": 0.75}, (3, 224, 224), half, half, arguments.weights)
    dense = adasap.open_model(spec).eval()
    task = ClassificationTask(mean=half, std=half)
    images = open_dataset(DataSource("csv", arguments.data, center_crop=224))
    seen = [place for place in range(len(images)) if place % 4 == 0]
    reported = [place for place in range(len(images)) if place % 4]

    def batches(places: list[int], size: int) -> Iterator[Batch]:
        for start in range(0, len(places), size):
            some = [images[place] for place in places[start : start + size]]
            raw = torch.stack([image for image, _ in some]), torch.tensor([int(label) for _, label in some])
            yield task.prepare(raw, torch.device("cpu"))

    shown = list(batches(seen, 25))
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"accuracy": {}, "sharpness": {}, "removal": {}}

    def keep(part: str, name: str, value: Any) -> None:
        kept[part][name] = value
        write_json(RESULTS, kept)
        write_page(PAGE, page(kept))
        print(part, name, value if part == "accuracy" else "", flush=True)

    few = Objective(dense, batches(seen[:IMAGES], 32), task.loss)
    if "dense" not in kept["accuracy"]:
        keep("accuracy", "dense", {"right": right(dense, batches(reported, 50))})
        keep("sharpness", "dense", sharpness(few))
    for criterion in CRITERIA:
        for share in KEPT:
            name = f"{criterion}/{share}"
            if name in kept["accuracy"] and (criterion not in SHARPNESS_OF or name in kept["sharpness"]):
                continue
            cut = adasap.prune(dense, EXAMPLE, criterion, {"macs": share}, min_kept=0.1, batches=shown, loss=task.loss)
            as_is, renewed = cut.model.eval(), copy.deepcopy(cut.model).eval()
            recalibrate_(renewed, shown, forward=lambda model, batch: model(batch[0]))
            scores = {
                "right": right(as_is, batches(reported, 50)),
                "recalibrated": right(renewed, batches(reported, 50)),
            }
            macs = cut.cost_after / cut.cost_before
            parameters = sum(p.numel() for p in renewed.parameters()) / sum(p.numel() for p in dense.parameters())
            keep("accuracy", name, {"macs": macs, "parameters": parameters, **scores})
            if criterion in SHARPNESS_OF:
                keep("sharpness", name, sharpness(Objective(renewed, few.batches, task.loss)))
    if not kept["removal"]:
        keep("removal", "dense", removal(few))


def right(model: nn.Module, batches: Iterator[Batch]) -> str:
    """A digit per image, 1 where the answer is right."""
    with torch.no_grad():
        return "".join(str(int(hit)) for x, y in batches for hit in model(x).argmax(1) == y)


def sharpness(objective: Objective) -> dict[str, float]:
    """Mean loss, and its worst rise in two balls, five steps, m = 32."""
    found = {"loss": objective.losses().mean().item()}
    for geometry, radius in BALLS:
        (rise,) = worst_case_sharpness(objective, [radius], geometry=geometry, steps=5)
        found[f"{geometry} {radius}"] = rise.n_step.mean().item()
    return found


def removal(objective: Objective) -> list[dict[str, Any]]:
    """Exact damage, slope and curvature of a part of the channels, and every criterion's score of the same."""
    options = AnalysisOptions(channels=ChannelOptions(criteria=CRITERIA, most=CHANNELS))
    subject = Subject(objective, trace_groups(objective.model, EXAMPLE))
    models = analyze({"dense": subject}, options, only=["channels"])["models"]
    rows: list[dict[str, Any]] = models["dense"]["channels"]["channels"]["rows"]
    return rows


def page(kept: dict[str, Any]) -> list[str]:
    parts = [
        "# An ImageNet MobileNet, cut and not trained",
        "`python benchmarks/imagenet_removal.py` made this page. MobileNet V1 0.75, ranking over all groups, each of\n"
        "which keeps a tenth. Criteria, norms and sharpness see 250 photos of `imagenet_sample`; accuracy (%) is of\n"
        "the 750 others, of other classes, with 95 % bootstrap intervals over images. Very probably all are images\n"
        "that the network was trained on.",
        "## Right after the cut",
        str(_accuracies(kept["accuracy"])),
    ]
    missing = [name for name in CRITERIA if any(f"{name}/{share}" not in kept["accuracy"] for share in KEPT)]
    if missing:
        parts += [f"Not run to the end yet: {', '.join(missing)}; the damage of single channels comes after them."]
    if kept["sharpness"]:
        said = (
            f"The loss over {IMAGES} of the 250 photos and its worst rise in a ball (5 steps, m = 32), norms renewed:"
        )
        parts += ["## Sharpness", said, str(_sharpness(kept["sharpness"]))]
    if kept["removal"]:
        parts += ["## What each channel is worth", *_damage(kept["removal"]["dense"])]
    return parts


def _accuracies(accuracy: dict[str, Any]) -> Table:
    def interval(right: str) -> str:
        return f"{bootstrap_mean(100 * torch.tensor([float(digit) for digit in right])):.2f}"

    rows = [["none (dense)", "1.00", "1.00", interval(accuracy["dense"]["right"]), ""]]
    for name, row in accuracy.items():
        if name != "dense":
            cells = [f"{row['macs']:.2f}", f"{row['parameters']:.2f}", interval(row["right"])]
            rows.append([name.partition("/")[0], *cells, interval(row["recalibrated"])])
    return Table(["criterion", "MACs", "parameters", "norms as they were", "norms renewed"], rows)


def _sharpness(sharpness: dict[str, Any]) -> Table:
    header = ["model", *sharpness["dense"]]
    return Table(header, [[name, *(f"{value:.3f}" for value in row.values())] for name, row in sharpness.items()])


def _damage(rows: list[dict[str, Any]]) -> list[str]:
    damage = [row["damage"] for row in rows if row["damage"] is not None]
    correlations = channel_summary(rows)["correlations"]["damage"]
    cells = [
        [name, *("" if value is None else f"{value:+.2f}" for value in (found["pooled"], found["within"]))]
        for name, found in correlations.items()
    ]
    harmless = sum(value <= 0 for value in damage)
    said = (
        f"Exact damage (loss without the channel minus loss, {IMAGES} photos) of {len(damage)} channels drawn from\n"
        f"all: median {median(damage):.4f}, largest {max(damage):.3f}; without {harmless} of them the loss is lower.\n"
        "Spearman's rank correlation of it with what a criterion says of the same photos, over all channels and\n"
        "within groups (mean weighted by channels):"
    )
    return [said, str(Table(["score", "all channels", "within groups"], cells))]


if __name__ == "__main__":
    main()
