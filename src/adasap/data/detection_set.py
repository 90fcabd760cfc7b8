"""A set of images with boxes, wherever its pixels come from, and what its reader found wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import torch
from torch import Tensor

from adasap.data.boxes import Target, make_target
from adasap.data.files import decode_image
from adasap.errors import DataError

Finding = Literal["broken", "missing", "empty", "clipped", "no area", "other class"]

_MEANING: dict[Finding, str] = {
    "broken": "annotations that cannot be read, images left out",
    "missing": "images that are not there or cannot be opened, left out",
    "empty": "images without objects, kept",
    "clipped": "boxes beyond the edge of their image, clipped",
    "no area": "boxes without area in their image, left out",
    "other class": "objects of classes that were not asked for, left out",
}
_NAMES_SHOWN = 3


@dataclass
class Findings:
    """What a reader met and what it did about it: each kind with the names of the images, one per case.

    Example:
        >>> findings = Findings()
        >>> findings.add("clipped", "000012")
        >>> findings.summary()
        '1 boxes beyond the edge of their image, clipped (000012)'
    """

    names: dict[Finding, list[str]] = field(default_factory=dict)

    def add(self, kind: Finding, name: str) -> None:
        """One more case."""
        self.names.setdefault(kind, []).append(name)

    def count(self, kind: Finding) -> int:
        """Number of cases."""
        return len(self.names.get(kind, []))

    def summary(self) -> str:
        """All kinds that occurred in one line, the first images by name; empty if there was nothing."""
        return "; ".join(
            f"{self.count(kind)} {text} ({_first(self.names[kind])})"
            for kind, text in _MEANING.items()
            if kind in self.names
        )


def _first(names: Sequence[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = ", ..." if len(distinct) > _NAMES_SHOWN else ""
    return ", ".join(distinct[:_NAMES_SHOWN]) + more


class Pixels(Protocol):
    """Images uint8 [3, H, W] by index: a tensor [N, 3, H, W], a list, or files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class FilePixels:
    """Image files, decoded when they are asked for.

    Args:
        files: Their paths.
        sizes: (height, width) that the annotations were made for, of each.
    """

    def __init__(self, files: Sequence[str], sizes: Sequence[tuple[int, int]]) -> None:
        self.files, self.sizes = tuple(files), torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image, size = decode_image(self.files[index]), self.sizes[index].tolist()
        if list(image.shape[1:]) != size:
            raise DataError(
                f"{self.files[index]} is {image.shape[2]} x {image.shape[1]} pixels, its boxes were made for {size[1]} "
                f"x {size[0]}; take image and annotation from the same release"
            )
        return image


@dataclass(frozen=True)
class Annotations:
    """The boxes of all images, one after another: a few tensors, however many images there are.

    Attributes:
        boxes, labels, difficult: float32 [M, 4], int64 [M], bool [M], as in a target.
        counts: Number of objects of each image, int64 [N].
        image_ids: int64 [N].
    """

    boxes: Tensor
    labels: Tensor
    difficult: Tensor
    counts: Tensor
    image_ids: Tensor

    @classmethod
    def of_targets(cls, targets: Iterable[Target]) -> Annotations:
        """From targets in the order of the images."""
        every = list(targets)
        return cls(
            boxes=torch.cat([torch.empty(0, 4), *(target["boxes"] for target in every)]),
            labels=torch.cat([torch.empty(0, dtype=torch.int64), *(target["labels"] for target in every)]),
            difficult=torch.cat([torch.empty(0, dtype=torch.bool), *(target["difficult"] for target in every)]),
            counts=torch.tensor([len(target["labels"]) for target in every], dtype=torch.int64),
            image_ids=torch.tensor([target["image_id"] for target in every], dtype=torch.int64),
        )

    def target(self, index: int) -> Target:
        """Boxes of one image, copies."""
        mine = slice(int(self._starts[index]), int(self._starts[index]) + int(self.counts[index]))
        return make_target(
            self.boxes[mine].clone(),
            self.labels[mine].clone(),
            self.difficult[mine].clone(),
            image_id=int(self.image_ids[index]),
        )

    @cached_property
    def _starts(self) -> Tensor:
        """Place of each image's first object, int64 [N]."""
        return self.counts.cumsum(0) - self.counts

    def some(self, indices: Tensor) -> Annotations:
        """Those of some images, in that order."""
        return Annotations.of_targets(self.target(index) for index in indices.tolist())

    def tensors(self) -> list[Tensor]:
        """Everything, for a digest."""
        return [self.boxes, self.labels, self.difficult, self.counts]


class DetectionImages:
    """8-bit colour images of any sizes with boxes, indexed from 0.

    Args:
        pixels: The images.
        annotations: Their boxes, in pixels of the images.
        classes: Names of the labels 1, 2, ...
        findings: What the reader met.
        where: What error messages call the source.
    Raises:
        DataError: For no image, another number of annotations, or a label outside the classes.

    Example:
        >>> from adasap.data.boxes import empty_target
        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> data = DetectionImages(pixels, Annotations.of_targets([empty_target(0), empty_target(1)]), ["cat"])
        >>> len(data), data.num_classes, data[1][1]["image_id"]
        (2, 1, 1)
    """

    def __init__(
        self,
        pixels: Pixels,
        annotations: Annotations,
        classes: Sequence[str],
        findings: Findings | None = None,
        *,
        where: str = "the images",
    ) -> None:
        if len(pixels) == 0 or len(pixels) != len(annotations.counts):
            raise DataError(
                f"{where}: {len(pixels)} images and annotations of {len(annotations.counts)}; give at least one image, "
                "and a target for each"
            )
        labels = annotations.labels
        if len(labels) and (labels.min() < 1 or labels.max() > len(classes)):
            raise DataError(
                f"{where}: labels run from {int(labels.min())} to {int(labels.max())}, there are {len(classes)} "
                "classes, numbered from 1 (0 is background); correct the labels or the list of classes"
            )
        self.pixels, self.annotations = pixels, annotations
        self.classes, self.findings, self.where = tuple(classes), findings or Findings(), where

    @property
    def num_classes(self) -> int:
        """Number of classes without the background."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Image uint8 [3, H, W] and its target.

        Raises:
            DataError: If the file is damaged.
        """
        return self.pixels[index], self.annotations.target(index)

    def some(self, indices: Tensor) -> DetectionImages:
        """Some of the images, read when they are asked for; findings stay those of the whole."""
        pixels = _SomePixels(self.pixels, indices)
        return DetectionImages(pixels, self.annotations.some(indices), self.classes, self.findings, where=self.where)

    def summary(self) -> str:
        """One line: how many images and objects, of which how many difficult, and what was found wrong."""
        difficult = int(self.annotations.difficult.sum())
        found = self.findings.summary()
        return (
            f"{self.where}: {len(self):,} images, {len(self.annotations.labels):,} objects ({difficult:,} difficult), "
            f"{self.num_classes} classes" + (f"; {found}" if found else "")
        )


class _SomePixels:
    def __init__(self, pixels: Pixels, indices: Tensor) -> None:
        self.pixels, self.indices = pixels, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[int(self.indices[index])]


def objects_in_image(
    objects: Sequence[tuple[str, tuple[float, float, float, float], bool]],
    numbers: Mapping[str, int],
    size: tuple[int, int],
    findings: Findings,
    *,
    name: str,
    image_id: int,
) -> Target:
    """A target from class names and boxes as they were read: clipped to the image, sorted out, and counted.

    Args:
        objects: (class, (x_min, y_min, x_max, y_max), difficult).
        numbers: Label of each class.
        size: Height and width of the image.
        findings: Is told what was wrong.
        name: What the image is called in it.
    """
    height, width = size
    kept: list[tuple[tuple[float, float, float, float], int, bool]] = []
    for kind, (left, top, right, bottom), difficult in objects:
        inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
        if kind not in numbers:
            findings.add("other class", name)
        elif not (inside[0] < inside[2] and inside[1] < inside[3]):  # also where a number is NaN
            findings.add("no area", name)
        else:
            if inside != (left, top, right, bottom):
                findings.add("clipped", name)
            kept.append((inside, numbers[kind], difficult))
    if not kept:
        findings.add("empty", name)
    boxes = torch.tensor([box for box, _, _ in kept]).reshape(-1, 4)
    labels = torch.tensor([label for _, label, _ in kept], dtype=torch.int64)
    return make_target(boxes, labels, torch.tensor([hard for *_, hard in kept], dtype=torch.bool), image_id=image_id)
