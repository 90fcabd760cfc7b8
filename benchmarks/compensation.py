"""Accuracy right after one cut, no training: weights as they were, norms renewed, folded, refitted by least squares.

    python benchmarks/compensation.py --model mobilenet     # ImageNet's MobileNet V1 0.75; hours on two CPU cores
    python benchmarks/compensation.py --model resnet20      # CIFAR-10; goes on where it was, as the other

`--criteria l2,taylor --removed 0.3 --images 200` runs a part of it, on the first images only; cells of more images take
the place of those of fewer. Folded and refitted networks have their norms renewed, too. Corrupted: the four validation
corruptions at severity 3. Ranking over all groups, each of which keeps a tenth.

MobileNet: criteria, norms and moments see images 0, 4, 8, ... of `imagenet_sample` (250); accuracy is of the others, of
other classes. Very probably all are training images of the network. ResNet-20: the first 512 training images; accuracy
is of CIFAR-10 test images 0 to 4,999 (the tuning split).

Writes results/compensation.json and docs/results-compensation.md.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from files import write_json, write_page
from torch import Tensor, nn

import adasap
from adasap.corruptions import VALIDATION, corrupt
from adasap.data import DataSource, open_dataset
from adasap.evaluation.statistics import bootstrap_mean, paired_difference
from adasap.groups.fake_model import copied
from adasap.groups.norms_behind import norms_behind
from adasap.pruning import compensate_
from adasap.report import Table
from adasap.sharpness import recalibrate_
from adasap.tasks.classification.task import ClassificationTask

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "results" / "compensation.json", ROOT / "docs" / "results-compensation.md"
CRITERIA = ("l2", "taylor", "lamp", "norm_scale", "activation_mean")
REMOVED = (0.1, 0.2, 0.3, 0.5)
WAYS = ("as they were", "norms renewed", "folded", "least squares")
SEVERITY = 3
TITLES = {"mobilenet": "MobileNet V1 0.75 on ImageNet photos", "resnet20": "ResNet-20 on CIFAR-10"}

Raw = tuple[Tensor, Tensor]
Scores = dict[str, str]
"""`clean` or a corruption -> a digit per image, 1 where the answer is right."""


@dataclass(eq=False)
class Subject:
    """A network, what it was prepared for, and its images as they are read."""

    model: nn.Module
    task: ClassificationTask
    example: Tensor
    seen: list[Raw]
    reported: list[Raw]

    def prepared(self, batch: Raw) -> Raw:
        return self.task.prepare(batch, torch.device("cpu"))

    @cached_property
    def shown(self) -> dict[str, list[Raw]]:
        """The reported images, clean and corrupted."""
        found: dict[str, list[Raw]] = {"clean": self.reported}
        for kind in VALIDATION:
            firsts = itertools.accumulate((len(labels) for _, labels in self.reported), initial=0)
            found[kind] = [
                (corrupt(images, kind, SEVERITY, seeds=torch.arange(first, first + len(images))), labels)
                for (images, labels), first in zip(self.reported, firsts, strict=False)
            ]
        return found

    @torch.no_grad()
    def scores(self, model: nn.Module) -> Scores:
        """Of the reported images, clean and corrupted."""
        model.eval()
        return {
            kind: "".join(
                str(int(right)) for batch in shown for right in model(self.prepared(batch)[0]).argmax(1) == batch[1]
            )
            for kind, shown in self.shown.items()
        }


def batches(images: Any, places: list[int], size: int) -> Iterator[Raw]:
    for start in range(0, len(places), size):
        some = [images[place] for place in places[start : start + size]]
        yield torch.stack([image for image, _ in some]), torch.tensor([int(label) for _, label in some])


def mobilenet(shared: str, most: int) -> Subject:
    half = (0.5, 0.5, 0.5)
    weights = f"{shared}/weights/mobilenet_v1_0.75_imagenet.safetensors"
    spec = adasap.ModelSpec("adasap:mobilenet_v1_tf", {"width": 0.75}, (3, 224, 224), half, half, weights)
    images = open_dataset(DataSource("csv", f"{shared}/imagenet_sample", center_crop=224))
    reported = [place for place in range(len(images)) if place % 4][:most]
    seen = list(batches(images, [place for place in range(len(images)) if place % 4 == 0], 25))
    task = ClassificationTask(mean=half, std=half)
    return Subject(
        adasap.open_model(spec).eval(), task, torch.zeros(1, 3, 224, 224), seen, list(batches(images, reported, 50))
    )


def resnet20(shared: str, most: int) -> Subject:
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    weights = f"{shared}/weights/resnet20_cifar10.safetensors"
    spec = adasap.ModelSpec("adasap:cifar_resnet20", {}, (3, 32, 32), mean, std, weights)
    train, test = (open_dataset(DataSource("npz", f".cache/cifar10/{part}.npz")) for part in ("train", "test"))
    reported = list(range(min(5000, most)))
    seen, shown = list(batches(train, list(range(512)), 128)), list(batches(test, reported, 250))
    task = ClassificationTask(mean=mean, std=std)
    return Subject(adasap.open_model(spec).eval(), task, torch.zeros(1, 3, 32, 32), seen, shown)


SUBJECTS = {"mobilenet": mobilenet, "resnet20": resnet20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=list(SUBJECTS), default="resnet20")
    parser.add_argument("--shared", default="../shared/data")
    parser.add_argument("--criteria", default=",".join(CRITERIA))
    parser.add_argument("--removed", default=",".join(map(str, REMOVED)))
    parser.add_argument("--images", type=int, default=10**9)
    arguments = parser.parse_args()
    subject = SUBJECTS[arguments.model](arguments.shared, arguments.images)
    images = sum(len(labels) for _, labels in subject.reported)
    kept: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    cells = kept.setdefault(arguments.model, {})

    def missing(name: str) -> bool:
        return name not in cells or len(cells[name]["scores"]["clean"]) < images

    def keep(name: str, cell: dict[str, Any]) -> None:
        cells[name] = cell
        write_json(RESULTS, kept)
        write_page(PAGE, page(kept))
        print(arguments.model, name, percent(cell["scores"]["clean"]), cell.get("compensation", ""), flush=True)

    if missing("dense"):
        keep("dense", {"scores": subject.scores(subject.model)})
    for removed in map(float, arguments.removed.split(",")):
        for criterion in arguments.criteria.split(","):
            names = {way: f"{criterion}/{removed}/{way}" for way in WAYS}
            if any(map(missing, names.values())):
                for way, cell in cut(subject, criterion, removed, [w for w in WAYS if missing(names[w])]):
                    keep(names[way], cell)


def cut(subject: Subject, criterion: str, removed: float, ways: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """One plan, and the network after it in each way."""
    seen = [subject.prepared(batch) for batch in subject.seen]
    budget = {"macs": 1 - removed}
    pruned = adasap.prune(
        subject.model, subject.example, criterion, budget, min_kept=0.1, batches=seen, loss=subject.task.loss
    )
    norms = norms_behind(subject.model, subject.example)
    for way in ways:
        model, said = copy.deepcopy(pruned.model).eval(), {}
        if way in ("folded", "least squares"):
            found = compensate_(
                copied(subject.model),
                model,
                pruned.dense_groups,
                pruned.plan.kept,
                "fold" if way == "folded" else "least_squares",
                norms=norms,
                batches=seen,
            )
            said = {"compensation": str(found)}
        if way != "as they were":
            recalibrate_(model, seen)
        yield way, {"macs": pruned.cost_after / pruned.cost_before, "scores": subject.scores(model), **said}


def page(kept: dict[str, Any]) -> list[str]:
    parts = [
        "# Right after a cut, no training",
        "`python benchmarks/compensation.py --model mobilenet` and `--model resnet20` made this page: accuracy (%)\n"
        "after one cut, ranking over all groups, each of which keeps a tenth. *Norms renewed* re-estimates running\n"
        "statistics; *folded* and *least squares* ([compensation.md](compensation.md)) do so afterwards, too.\n"
        "Corrupted is the mean of the four validation corruptions at severity 3. The gain is that of least squares\n"
        "over renewed norms, paired by image, with 95 % bootstrap intervals over images.",
    ]
    for model, cells in kept.items():
        number = len(cells["dense"]["scores"]["clean"])
        parts += [f"## {TITLES[model]}", f"{number:,} images.", str(_table(cells))]
    return parts


def _table(cells: dict[str, Any]) -> Table:
    rows = [["dense", "", " / ".join(_both(cells["dense"]["scores"])), "", "", "", "", ""]]
    for criterion, removed in dict.fromkeys(tuple(name.split("/")[:2]) for name in cells if name != "dense"):
        found = [cells.get(f"{criterion}/{removed}/{way}") for way in WAYS]
        shown = ["" if cell is None else " / ".join(_both(cell["scores"])) for cell in found]
        rows.append([criterion, f"{100 * float(removed):.0f} %", *shown, *_gains(found[1], found[3])])
    ways = [f"{way}: clean / corrupted" for way in WAYS]
    return Table(["criterion", "MACs removed", *ways, "gain, clean", "gain, corrupted"], rows)


def _both(scores: Scores) -> list[str]:
    return [percent(scores["clean"]), f"{100 * _corrupted(scores).mean():.2f}"]


def _corrupted(scores: Scores) -> Tensor:
    """Mean over the corruptions, of each image."""
    return torch.stack([digits(scores[kind]) for kind in VALIDATION]).mean(0)


def _gains(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    if before is None or after is None or len(before["scores"]["clean"]) != len(after["scores"]["clean"]):
        return ["", ""]
    pairs = [
        (digits(before["scores"]["clean"]), digits(after["scores"]["clean"])),
        (_corrupted(before["scores"]), _corrupted(after["scores"])),
    ]
    return [f"{paired_difference(100 * new, 100 * old):+.2f}" for old, new in pairs]


def digits(right: str) -> Tensor:
    return torch.tensor([float(digit) for digit in right])


def percent(right: str) -> str:
    return f"{bootstrap_mean(100 * digits(right)).value:.2f}"


if __name__ == "__main__":
    main()
