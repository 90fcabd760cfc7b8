"""Example images of a run: each corruption as the models saw it, with what they took it for."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from adasap.export import atomic_write
from adasap.groups import evaluating
from adasap.robustness import ImageSuite
from adasap.tasks import Task
from adasap.tasks.classification import logits_of

SEVERITY = 3
"""The severity shown, or the nearest one that a suite has."""


@dataclass(frozen=True)
class Shown:
    """Some images of a cell: uint8 [K, 3, H, W], their labels and their places in the test set."""

    suite: str
    cell: str
    images: Tensor
    labels: list[int]
    places: list[int]


def save_examples(
    folder: Path,
    models: Mapping[str, nn.Module],
    task: Task[Any],
    suites: Sequence[ImageSuite],
    classes: Sequence[str],
    device: torch.device,
) -> None:
    """Writes `examples/*.png` and `examples/examples.json` into a run folder.

    Shown are the first test image and the first of another class, the same ones under every corruption: nobody chose.

    Args:
        models: Name -> classifier, on the device.
        classes: Name of each label.
    """
    place = folder / "examples"
    place.mkdir(exist_ok=True)
    entries: list[dict[str, Any]] = []
    for shown in _cells(suites):
        guesses = {name: _guesses(model, task, shown, classes, device) for name, model in models.items()}
        corruption, _, severity = shown.cell.partition("/")
        for row, (label, index) in enumerate(zip(shown.labels, shown.places, strict=True)):
            name = f"{len(entries):03d}.png"
            Image.fromarray(shown.images[row].permute(1, 2, 0).cpu().numpy()).save(place / name)
            entries.append(
                {
                    "suite": shown.suite,
                    "corruption": corruption if severity else "",
                    "severity": int(severity or 0),
                    "index": index,
                    "label": _name(label, classes),
                    "image": name,
                    "guesses": {model: rows[row] for model, rows in guesses.items()},
                }
            )
    with atomic_write(place / "examples.json") as file:
        file.write(json.dumps(entries).encode())


def _cells(suites: Sequence[ImageSuite]) -> Iterator[Shown]:
    """The cells that are shown, one per suite of plain images and one per corruption.

    Suites of fewer classes than the model's number their labels differently and are left out.
    """
    for suite in (suite for suite in suites if suite.outputs is None):
        places = torch.tensor(first_of_two_classes(suite.labels))
        for cell in nearest_severities(suite.cell_names()):
            some = suite.cell_of[cell].sampled(places)
            images = torch.stack([some.images[row][0] for row in range(len(places))])
            images = some.corrupted(images, torch.arange(len(places)))
            yield Shown(suite.name, cell, images, suite.labels[places].tolist(), places.tolist())


def nearest_severities(cells: Iterable[str]) -> list[str]:
    """Of each corruption the cell whose severity is nearest to the one shown; other cells as they are.

    Example:
        >>> nearest_severities(["clean", "fog/1", "fog/5", "fog/4"])
        ['clean', 'fog/4']
    """
    wanted: dict[str, str] = {}
    for cell in cells:
        corruption, _, severity = cell.partition("/")
        best = wanted.get(corruption)
        if best is None or _distance(severity) < _distance(best.partition("/")[2]):
            wanted[corruption] = cell
    return list(wanted.values())


def first_of_two_classes(labels: Tensor) -> list[int]:
    """Index of the first image and of the first one of another class.

    Example:
        >>> first_of_two_classes(torch.tensor([4, 4, 2, 4]))
        [0, 2]
    """
    others = (labels != labels[0]).nonzero().flatten().tolist()
    return [0, *others[:1]]


def _distance(severity: str) -> int:
    return abs(int(severity or SEVERITY) - SEVERITY)


def _guesses(
    model: nn.Module, task: Task[Any], shown: Shown, classes: Sequence[str], device: torch.device
) -> list[dict[str, Any]]:
    with evaluating(model), torch.no_grad():
        prepared = task.prepare((shown.images, torch.tensor(shown.labels)), device)
        confidence, label = logits_of(model(prepared[0])).float().softmax(dim=1).max(dim=1)
    return [
        {"label": _name(guess, classes), "confidence": sure, "right": guess == true}
        for guess, sure, true in zip(label.tolist(), confidence.tolist(), shown.labels, strict=True)
    ]


def _name(label: int, classes: Sequence[str]) -> str:
    return classes[label] if label < len(classes) else str(label)
