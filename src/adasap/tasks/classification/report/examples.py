"""Example images of a run: each corruption as the models saw it, with what they took it for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from adasap.errors import DataError
from adasap.evaluation import Cell, ImageSuite
from adasap.groups import evaluating
from adasap.io import atomic_write, read_json
from adasap.models.outputs import logits_of
from adasap.report.pictures import nearest_severities, picture
from adasap.report.schema import picture_beside
from adasap.schema import Count, checked
from adasap.tasks import Task


@dataclass(frozen=True)
class Guess:
    """What a model took an image for, with the probability it gave."""

    label: str
    confidence: Annotated[float, Field(ge=0, le=1.001)]
    right: bool


@dataclass(frozen=True)
class _Entry:
    """An entry of `examples.json`."""

    suite: str
    corruption: str
    severity: Count
    index: Count
    label: str
    image: str
    guesses: dict[str, Guess]


@dataclass(frozen=True)
class Example:
    """A test image as the models saw it.

    Attributes:
        suite, corruption, severity: Where it comes from; severity 0 for images as they are.
        index: Place in the test set.
        label: Its true class.
        image: PNG file.
        guesses: `dense` and `compressed` -> their answers.
    """

    suite: str
    corruption: str
    severity: int
    index: int
    label: str
    image: Path
    guesses: dict[str, Guess]


@dataclass(frozen=True)
class Shown:
    """Some images of a cell: uint8 [K, C, H, W], their labels and their places in the test set."""

    suite: str
    cell: Cell
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
        for row, (label, index) in enumerate(zip(shown.labels, shown.places, strict=True)):
            name = f"{len(entries):03d}.png"
            picture(shown.images[row]).save(place / name)
            entries.append(
                {
                    "suite": shown.suite,
                    "corruption": shown.cell.corruption,
                    "severity": shown.cell.severity,
                    "index": index,
                    "label": _name(label, classes),
                    "image": name,
                    "guesses": {model: rows[row] for model, rows in guesses.items()},
                }
            )
    with atomic_write(place / "examples.json") as file:
        file.write(json.dumps(entries).encode())


def read_examples(folder: Path) -> tuple[Example, ...]:
    """What `save_examples` left in a run folder; nothing where there is none.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / "examples" / "examples.json"
    if not path.is_file():
        return ()
    entries = read_json(path, what="the examples of a run", error=DataError)
    if not isinstance(entries, list):
        raise DataError(f"{path} is not a list of examples; run the command of this run again")
    found = [checked(_Entry, entry, where=f"{path}, entry {place}") for place, entry in enumerate(entries)]
    return tuple(Example(**{**vars(entry), "image": picture_beside(path, entry.image)}) for entry in found)


def _cells(suites: Sequence[ImageSuite]) -> Iterator[Shown]:
    """The cells that are shown, one per suite of plain images and one per corruption.

    Suites of fewer classes than the model's number their labels differently and are left out.
    """
    for suite in (suite for suite in suites if suite.outputs is None):
        places = torch.tensor(first_of_two_classes(suite.labels))
        for cell in nearest_severities(suite.cells):
            some = suite.images_of[cell].sampled(places)
            images = torch.stack([some.images[row][0] for row in range(len(places))])
            images = some.corrupted(images, torch.arange(len(places)))
            yield Shown(suite.name, cell, images, suite.labels[places].tolist(), places.tolist())


def first_of_two_classes(labels: Tensor) -> list[int]:
    """Index of the first image and of the first one of another class.

    Example:
        >>> first_of_two_classes(torch.tensor([4, 4, 2, 4]))
        [0, 2]
    """
    others = (labels != labels[0]).nonzero().flatten().tolist()
    return [0, *others[:1]]


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
