"""Test images of a run with their masks and what each model answered, kept in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from adasap.errors import DataError
from adasap.evaluation.suites import DatasetSuite
from adasap.groups import evaluating
from adasap.io import atomic_write, read_json
from adasap.report.pictures import nearest_severities, picture
from adasap.report.schema import picture_beside
from adasap.schema import Count, checked
from adasap.tasks.segmentation.data.batches import SegmentationBatch, collated
from adasap.tasks.segmentation.task import SegmentationTask, answers_of

FOLDER = "segmentation"
"""Of a run folder."""
SHOWN = ("image", "truth", "dense", "compressed")


@dataclass(frozen=True)
class _Entry:
    """An entry of `segmentation.json`."""

    suite: str
    corruption: str
    severity: Count
    index: Count
    files: dict[str, str]


@dataclass(frozen=True)
class _Listing:
    """`segmentation.json`."""

    classes: list[str]
    overlays: list[_Entry]


@dataclass(frozen=True)
class Overlay:
    """A test image as the models saw it, and what is where.

    Attributes:
        suite, corruption, severity: Where it comes from; severity 0 for images as they are.
        index: Place in the test set.
        files: `image` and, as grey images of class numbers, `truth`, `dense` and `compressed` -> PNG file.
    """

    suite: str
    corruption: str
    severity: int
    index: int
    files: dict[str, Path]


@dataclass(frozen=True)
class OverlayRecord:
    """What a run folder keeps: the classes' names and the overlays."""

    classes: tuple[str, ...]
    overlays: tuple[Overlay, ...]


def save_overlays(
    folder: Path,
    models: Mapping[str, nn.Module],
    task: SegmentationTask,
    suites: Sequence[DatasetSuite],
    device: torch.device,
) -> None:
    """Writes `segmentation/*.png` and `segmentation/segmentation.json` into a run folder.

    Shown are the first test image and the one in the middle, the same ones under every corruption: nobody chose.

    Args:
        models: `dense` and `compressed` -> network, on the device.
        suites: Of images with masks.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    entries: list[dict[str, Any]] = []
    for entry, pixels in _shown(models, task, suites, device):
        files = {}
        for kind, image in pixels.items():
            files[kind] = f"{len(entries):03d}-{kind}.png"
            image.save(place / files[kind])
        entries.append({**entry, "files": files})
    with atomic_write(place / "segmentation.json") as file:
        file.write(json.dumps({"classes": list(task.classes), "overlays": entries}).encode())


def read_overlays(folder: Path) -> OverlayRecord | None:
    """What `save_overlays` left in a run folder, or None.

    Raises:
        DataError: If the file is damaged.
    """
    path = folder / FOLDER / "segmentation.json"
    if not path.is_file():
        return None
    content = read_json(path, what="the overlays of a run", error=DataError)
    listing = checked(_Listing, content, where=str(path))
    overlays = []
    for entry in listing.overlays:
        if set(entry.files) != set(SHOWN):
            raise DataError(f"{path}: an overlay has the pictures {sorted(entry.files)}; run the same command again")
        files = {kind: picture_beside(path, name) for kind, name in entry.files.items()}
        overlays.append(Overlay(entry.suite, entry.corruption, entry.severity, entry.index, files))
    return OverlayRecord(tuple(listing.classes), tuple(overlays))


def _shown(
    models: Mapping[str, nn.Module],
    task: SegmentationTask,
    suites: Sequence[DatasetSuite],
    device: torch.device,
) -> Iterator[tuple[dict[str, Any], dict[str, Image.Image]]]:
    for suite in suites:
        indices = suite.all_indices()
        for index in dict.fromkeys((int(indices[0]), int(indices[len(indices) // 2]))):
            clean = task.collate([suite.images[index]])
            for cell in nearest_severities(suite.cells):
                seeds = torch.tensor([index])
                batch = clean if cell.is_clean else task.corrupt(clean, cell.corruption, cell.severity, seeds)
                answers = {model: _answer(net, task, batch, device) for model, net in models.items()}
                masks = {"truth": batch.masks[0], **answers}
                pixels = {"image": picture(batch.images[0])}
                pixels |= {kind: Image.fromarray(mask.cpu().byte().numpy()) for kind, mask in masks.items()}
                entry = {"suite": suite.name, "corruption": cell.corruption, "severity": cell.severity}
                yield {**entry, "index": index}, pixels


def _answer(model: nn.Module, task: SegmentationTask, batch: SegmentationBatch, device: torch.device) -> Tensor:
    """The class of each pixel, int64 [H, W]."""
    height, width = batch.masks[0].shape
    with evaluating(model), torch.no_grad():
        prepared = task.prepare(collated([(batch.images[0], batch.masks[0])]), device)
        answers = answers_of(model(prepared.images), prepared.masks[0].shape)
    return answers[0, :height, :width]  # without the padding
