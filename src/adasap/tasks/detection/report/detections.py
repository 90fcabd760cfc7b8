"""What detectors found, kept in a run folder: precision against recall, and images with boxes, clean and corrupted."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from adasap.data import PreparationTime
from adasap.errors import DataError
from adasap.evaluation import Loading, evaluate_cell
from adasap.groups import evaluating
from adasap.io import atomic_write, read_json
from adasap.report.pictures import nearest_severities, picture
from adasap.report.schema import picture_beside
from adasap.schema import Count, checked
from adasap.tasks import Task
from adasap.tasks.detection.data.boxes import DetectionBatch, Target
from adasap.tasks.detection.matching import Detection, Records, match_boxes
from adasap.tasks.detection.metrics import by_class, precision_recall
from adasap.tasks.detection.suites import DetectionSuite

FOLDER = "detections"
NUM_RECALLS = 101
SHOWN_SCORE = 0.3
"""Boxes with a lower score are not drawn."""
_MOST_BOXES = 30

_Corner = Annotated[float, Field(ge=-1e9, le=1e9)]


@dataclass(frozen=True)
class _TruthData:
    """An object in a scene."""

    label: str
    box: Annotated[list[_Corner], Field(min_length=4, max_length=4)]
    difficult: bool


@dataclass(frozen=True)
class _FoundData:
    """A detection in a scene."""

    label: str
    box: Annotated[list[_Corner], Field(min_length=4, max_length=4)]
    score: Annotated[float, Field(ge=0, le=1.001)]
    outcome: Literal[-1, 0, 1]


@dataclass(frozen=True)
class _SceneData:
    """A scene of `detections.json`."""

    suite: str
    corruption: str
    severity: Count
    index: Count
    width: Annotated[int, Field(gt=0, le=1_000_000)]
    height: Annotated[int, Field(gt=0, le=1_000_000)]
    image: str
    truth: list[_TruthData]
    found: dict[str, list[_FoundData]]


_Curve = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=101, max_length=101)]


@dataclass(frozen=True)
class _DetectionsData:
    """`detections.json`."""

    curves: dict[Literal["dense", "compressed"], Annotated[dict[str, _Curve], Field(min_length=1)]]
    scenes: list[_SceneData]


@dataclass(frozen=True)
class Scene:
    """A test image with what is on it and what each model found.

    Attributes:
        image: PNG file.
        truth: `label`, `box` (pixels), `difficult` of each object.
        found: Model -> `label`, `box`, `score` and `outcome` (1 found, 0 false alarm, -1 ignored) of each detection.
    """

    suite: str
    corruption: str
    severity: int
    index: int
    width: int
    height: int
    image: Path
    truth: list[dict[str, Any]]
    found: dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class DetectionRecord:
    """What a run folder keeps: `curves`, model -> class -> precision at recalls 0, 0.01, ..., 1, and the scenes."""

    curves: dict[str, dict[str, list[float]]]
    scenes: tuple[Scene, ...]


def save_detections(
    folder: Path,
    models: Mapping[str, nn.Module],
    task: Task[DetectionBatch],
    suites: Sequence[DetectionSuite],
    device: torch.device,
) -> None:
    """Writes `detections/*.png` and `detections/detections.json` into a run folder.

    Curves are those of the first suite, the clean test set. Shown are the first test image with an object, and the
    first one with objects of other classes only, the same ones under every corruption: nobody chose.

    Args:
        models: Name -> detector, on the device.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    clean = suites[0]
    curves = {}
    for name, model in models.items():
        result = evaluate_cell(model, task, clean, clean.cells[0], device)
        curves[name] = recall_curves(result.records, clean.images.classes)
    scenes = []
    for number, (scene, image) in enumerate(_scenes(models, task, suites, device)):
        name = f"{number:03d}.png"
        picture(image).save(place / name)
        scenes.append({**scene, "image": name})
    with atomic_write(place / "detections.json") as file:
        file.write(json.dumps({"curves": curves, "scenes": scenes}).encode())


def read_detections(folder: Path) -> DetectionRecord | None:
    """What `save_detections` left in a run folder, or None.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / FOLDER / "detections.json"
    if not path.is_file():
        return None
    try:
        content = read_json(path, what="the detections of a run", error=DataError)
        record = checked(_DetectionsData, content, where=str(path))
        models: list[set[str]] = [set(record.curves), *(set(scene.found) for scene in record.scenes)]
        if any(not {"dense", "compressed"} <= names for names in models):
            raise DataError(f"{path}: what the dense or the compressed model found is missing")
    except DataError as error:
        raise DataError(f"{path} is damaged ({error}); run the same command again, it ends at once") from error
    scenes = (
        Scene(**{**dataclasses.asdict(scene), "image": picture_beside(path, scene.image)}) for scene in record.scenes
    )
    return DetectionRecord({model: dict(curves) for model, curves in record.curves.items()}, tuple(scenes))


def recall_curves(records: Records, classes: Sequence[str]) -> dict[str, list[float]]:
    """Class -> highest precision at a recall of at least 0, 0.01, ..., 1; classes without objects are left out.

    Example:
        >>> records = {"detections": torch.tensor([2]), "objects": torch.tensor([[2]]), "label": torch.tensor([1, 1])}
        >>> records |= {"score": torch.tensor([0.9, 0.8]), "outcome": torch.tensor([1, 0])}
        >>> curve = recall_curves(records, ["cat"])["cat"]
        >>> curve[50], curve[51]
        (1.0, 0.0)
    """
    objects = records["objects"].long().sum(dim=0)
    steps, curves = torch.arange(NUM_RECALLS), {}
    for label, scores, outcomes, _ in by_class(records):
        wanted = int(objects[label - 1])
        if wanted == 0:
            continue
        recall, precision, _ = precision_recall(scores, outcomes, wanted)
        found = (recall * wanted).round().long()
        best = torch.cat([precision.flip(0).cummax(0).values.flip(0), torch.zeros(1)])
        places = torch.searchsorted(found * (NUM_RECALLS - 1), steps * wanted)
        curves[classes[label - 1]] = [round(value, 4) for value in best[places].tolist()]
    return curves


def _scenes(
    models: Mapping[str, nn.Module], task: Task[DetectionBatch], suites: Sequence[DetectionSuite], device: torch.device
) -> Iterator[tuple[dict[str, Any], Tensor]]:
    for suite in suites:
        annotations = suite.images.annotations
        indices = torch.tensor(first_with_two_classes(map(annotations.target, range(len(suite.images)))))
        for cell in nearest_severities(suite.cells):
            some = suite.chosen(indices)
            (batch,) = some.batches(cell, device, Loading(batch_size=len(indices)), PreparationTime())
            found = {name: _detect(model, task, batch, device) for name, model in models.items()}
            for row, (image, target) in enumerate(zip(batch.images, batch.targets, strict=True)):
                scene = {
                    "suite": suite.name,
                    "corruption": cell.corruption,
                    "severity": cell.severity,
                    "index": int(indices[row]),
                    "width": image.shape[-1],
                    "height": image.shape[-2],
                    "truth": _truth(target, suite.images.classes),
                    "found": {n: _found(rows[row], target, suite.images.classes) for n, rows in found.items()},
                }
                yield scene, image


def first_with_two_classes(targets: Iterable[Target]) -> list[int]:
    """Index of the first image with an object, and of the first one whose objects are all of other classes.

    Example:
        >>> from adasap.tasks.detection.data.boxes import empty_target, make_target
        >>> some = [make_target(torch.ones(1, 4), torch.tensor([label]), image_id=0) for label in (2, 2, 1)]
        >>> first_with_two_classes([empty_target(0), *some])
        [1, 3]
    """
    found: list[int] = []
    seen: set[int] = set()
    for index, target in enumerate(targets):
        labels = set(target["labels"].tolist())
        if labels and not labels & seen:
            found.append(index)
            seen = labels
            if len(found) == 2:
                break
    return found or [0]


def _detect(
    model: nn.Module, task: Task[DetectionBatch], batch: DetectionBatch, device: torch.device
) -> list[Detection]:
    with evaluating(model), torch.no_grad():
        found: list[Detection] = model(task.prepare(batch, device).images)
    return [{key: value.cpu() for key, value in detection.items()} for detection in found]


def _truth(target: Target, classes: Sequence[str]) -> list[dict[str, Any]]:
    rows = zip(target["boxes"].tolist(), target["labels"].tolist(), target["difficult"].tolist(), strict=True)
    return [{"label": classes[label - 1], "box": _rounded(box), "difficult": hard} for box, label, hard in rows]


def _found(detection: Detection, target: Target, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The boxes that are drawn, the highest score first."""
    outcomes = match_boxes(detection, target)
    order = torch.sort(detection["scores"], descending=True, stable=True).indices[:_MOST_BOXES]
    return [
        {
            "label": classes[int(detection["labels"][row]) - 1],
            "box": _rounded(detection["boxes"][row].tolist()),
            "score": round(float(detection["scores"][row]), 3),
            "outcome": int(outcomes[row]),
        }
        for row in order.tolist()
        if detection["scores"][row] >= SHOWN_SCORE
    ]


def _rounded(box: list[float]) -> list[float]:
    return [round(number, 1) for number in box]
