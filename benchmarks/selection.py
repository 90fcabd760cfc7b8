"""Ranking, knapsack and least damage at the same cost: what a single cut leaves, without fine-tuning.

    python ../shared/data/unpack.py .cache/cifar10
    python benchmarks/selection.py --cifar10 .cache/cifar10 --weights ../shared/data/weights

The pretrained CIFAR-10 networks, cut once by L2 and by Taylor scores to shares of their MACs and of their predicted
latency at batch 16 (a table measured at the start; every plan is predicted by the same one). 512 training images give
gradients, damage, norm statistics and compensation. Accuracy in per cent on test images 5,000 to 6,999, after norm
statistics are renewed, and after least-squares compensation and the same; that damage grows by the square was chosen on
images 0 to 999 of ResNet-20. Writes results/selection.json after every point, and docs/results-selection.md from it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from files import write_json, write_page
from latency import prepared
from torch import Tensor, nn

import adasap
from adasap.evaluation.statistics import paired_difference
from adasap.models import ModelSpec, open_model
from adasap.report import Table
from adasap.report.environment import environment

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "selection.json", ROOT / "docs" / "results-selection.md"
NETWORKS, CRITERIA, SHARES = ("cifar_resnet20", "cifar_resnet56"), ("l2", "taylor"), (0.8, 0.65, 0.5)
SELECTIONS = ("ranking", "knapsack", "least_damage")
MAKE_UP = {"renewed": "none", "compensated": "least_squares"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True, help="folder with train.npz and test.npz")
    parser.add_argument("--weights", type=Path, required=True, help="folder with resnet20_cifar10.safetensors")
    parser.add_argument("--tables", type=Path, default=Path("runs/latency"), help="folder of the latency tables")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--costs", nargs="+", default=["macs", "latency"])
    arguments = parser.parse_args()
    adasap.guard_convolutions()
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"points": {}}
    results["environment"] = environment()
    for name in arguments.networks:
        weights = arguments.weights / f"{name.removeprefix('cifar_')}_cifar10.safetensors"
        model = open_model(ModelSpec(f"adasap:{name}", input_size=(3, 32, 32), weights=str(weights))).eval()
        table = arguments.tables / f"{name}-16.json"
        if "latency" in arguments.costs:
            table.parent.mkdir(parents=True, exist_ok=True)
            adasap.latency_table(model, table, batch=16, seconds=5.0, num_plans=0, console=True)
        data = Images.of(arguments.cifar10)
        if f"{name}/dense" not in results["points"]:
            results["points"][f"{name}/dense"] = {"renewed": data.right(model)}
        for cost in arguments.costs:
            budget = {"latency_table": str(table)} if cost == "latency" else {}
            for criterion in CRITERIA:
                for share in SHARES:
                    for selection in SELECTIONS:
                        point = f"{name}/{cost}/{criterion}/{share}/{selection}"
                        if point not in results["points"]:
                            results["points"][point] = cut(model, criterion, {cost: share} | budget, selection, data)
                            write_json(RESULTS, results)
                            print(point, {k: f"{100 * mean(v):.2f}" for k, v in results["points"][point].items()})
    write_page(PAGE, page(results))


class Images:
    """Prepared batches: 512 training images with labels, 2,000 test images."""

    def __init__(self, train: list[tuple[Tensor, Tensor]], test: list[tuple[Tensor, Tensor]]) -> None:
        self.train, self.test = train, test

    @classmethod
    def of(cls, folder: Path) -> Images:
        train = labelled(folder / "train.npz", slice(512), 128)
        return cls(train, labelled(folder / "test.npz", slice(5000, 7000), 250))

    @torch.inference_mode()
    def right(self, model: nn.Module) -> str:
        """A 1 for every test image that is recognised, and else a 0."""
        found = torch.cat([model(images).argmax(1) == labels for images, labels in self.test])
        return "".join(map(str, found.int().tolist()))


def labelled(file: Path, part: slice, size: int) -> list[tuple[Tensor, Tensor]]:
    """Prepared batches of some images of a file."""
    held = np.load(file)
    images, labels = prepared(held["images"][part]), torch.from_numpy(held["labels"][part]).long()
    return list(zip(images.split(size), labels.split(size), strict=True))


def mean(right: str) -> float:
    return right.count("1") / len(right)


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def cut(model: nn.Module, criterion: str, budget: dict[str, Any], selection: Any, data: Images) -> dict[str, str]:
    """What the cut model still recognises, by how the cut is made up for."""
    scores = {}
    for title, compensate in MAKE_UP.items():
        pruned = adasap.prune(
            model,
            data.train[0][0][:1],
            criterion,
            budget,
            selection=selection,
            batches=data.train,
            loss=loss,
            compensate=compensate,  # type: ignore[arg-type]
            renew_norms=True,
        )
        scores[title] = data.right(pruned.model.eval())
    return scores


def page(results: dict[str, Any]) -> list[str]:
    """A table for each network and cost."""
    points, parts = results["points"], []
    for name in NETWORKS:
        for cost in ("macs", "latency"):
            rows = []
            for criterion in CRITERIA:
                for share in SHARES:
                    for title in MAKE_UP:
                        found = [
                            points.get(f"{name}/{cost}/{criterion}/{share}/{s}", {}).get(title) for s in SELECTIONS
                        ]
                        if all(found):
                            ranking, _, least = ([int(c) for c in one] for one in found)
                            gain = paired_difference(torch.tensor(least).double(), torch.tensor(ranking).double())
                            rows.append(
                                [f"{criterion}, {share}", title]
                                + [f"{100 * mean(one):.1f}" for one in found]
                                + [f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"]
                            )
            if rows:
                dense = 100 * mean(points[f"{name}/dense"]["renewed"])
                parts.append(f"## {name}, shares of the {'MACs' if cost == 'macs' else 'predicted latency'}\n")
                header = ["scores, share", "norms", *SELECTIONS, "least_damage - ranking"]
                parts += [f"Dense: {dense:.1f}.", str(Table(header, rows))]
    where = results["environment"]
    docs = (__doc__ or "").split("\n\n")
    made = f"Made with torch {where['packages']['torch']} on a processor with {where['processor']['instruction_set']}."
    return ["# Which channels, at the same cost", *docs[:3], *parts, made]


if __name__ == "__main__":
    main()
