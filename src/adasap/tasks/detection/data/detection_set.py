"""A set of images with boxes, wherever its pixels come from, and what its reader found wrong with it."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor

from adasap.data.decoding import AS_SHOWN, ImageFile, Reading, decode_image, read_image_header
from adasap.data.findings import Findings, first_names, shortened
from adasap.data.images import require_channels, with_channels
from adasap.data.orientation import Box, Header, frame_of, inverse, turned_box
from adasap.errors import DataError, suggestion
from adasap.tasks.detection.data.boxes import Target, make_target

Finding = Literal[
    "broken",
    "missing",
    "no size",
    "same id",
    "other size",
    "turned",
    "turn unknown",
    "empty",
    "orphan",
    "double",
    "clipped",
    "from 0",
    "no area",
    "other class",
    "flag",
]
NamedObject = tuple[str, Box, bool | None]
"""Class, (x_min, y_min, x_max, y_max), and whether it is difficult; None where the file says neither yes nor no."""

_MEANING: dict[Finding, str] = {
    "broken": "annotations that cannot be read, images left out",
    "missing": "images that are not there or cannot be opened, left out",
    "no size": "images without a width and height in whole pixels, left out",
    "same id": "images that share their id with another, left out",
    "other size": "annotations that state another width x height than their image has, boxes taken as they are",
    "turned": "images turned by their EXIF orientation, whose boxes were made for the pixels as stored: turned too",
    "turn unknown": "images turned by their EXIF orientation, whose annotation does not tell which way up its boxes "
    "are: taken as shown",
    "empty": "images without objects, kept",
    "orphan": "annotations whose image or category is not listed, left out",
    "double": "images, objects or categories that are listed twice, taken once",
    "clipped": "boxes beyond the edge of their image, clipped",
    "from 0": "boxes that begin at 0 where Pascal VOC counts from 1, read as if from 1",
    "no area": "boxes without area in their image, left out",
    "other class": "objects of classes that were not asked for, left out",
    "flag": "objects whose `difficult` or `iscrowd` is neither yes nor no, taken as no",
}
NO_CLASS = "N/A"
"""The name of labels that no class has, in COCO's own numbering."""


BoxFindings: TypeAlias = Findings[Finding]


def box_findings() -> BoxFindings:
    """None yet."""
    return Findings(_MEANING)


class Pixels(Protocol):
    """Images uint8 [C, H, W] by index: a tensor [N, C, H, W], a list, or files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensor: ...


class FilePixels:
    """Image files, decoded when they are asked for.

    Args:
        files: Their paths, or where they lie inside larger files.
        sizes: (height, width) that the annotations were made for, of each.
        reading: How the files are read.
    """

    def __init__(
        self, files: Sequence[ImageFile], sizes: Sequence[tuple[int, int]], reading: Reading = AS_SHOWN
    ) -> None:
        self.files, self.sizes = tuple(files), torch.tensor(sizes, dtype=torch.int32).reshape(-1, 2)
        self.reading = reading

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        image, size = decode_image(self.files[index], self.reading), self.sizes[index].tolist()
        if list(image.shape[1:]) != size:
            raise DataError(size_contradiction(self.files[index], (image.shape[1], image.shape[2]), (size[0], size[1])))
        return image

    def contradictions(self) -> list[str]:
        """A sentence for each file of another size than its annotation states; files that cannot be read have none."""
        found = []
        for file, size in zip(self.files, self.sizes.tolist(), strict=True):
            with suppress(DataError):
                read = read_image_header(file, self.reading).size(self.reading.exif_orientation)
                if list(read) != size:
                    found.append(size_contradiction(file, read, (size[0], size[1])))
        return found


def size_contradiction(file: ImageFile, found: tuple[int, int], annotated: tuple[int, int]) -> str:
    """What is wrong where an annotation states another height and width than the file has."""
    text = (
        f"{file} is {found[1]} x {found[0]} pixels, its boxes were made for {annotated[1]} x {annotated[0]} (width x "
        "height)"
    )
    if found == annotated[::-1]:
        return (
            f"{text}: one of the two is turned by 90 degrees, and no EXIF orientation in the file says so; turn the "
            "file, or its annotation"
        )
    return f"{text}; take image and annotation from the same release"


def boxes_as_read(
    objects: Sequence[NamedObject],
    header: Header,
    annotated: tuple[int, int] | None,
    reading: Reading,
    findings: BoxFindings,
    *,
    name: str,
) -> Sequence[NamedObject]:
    """Boxes in the pixels of the image as it is read, whichever way up they were made; turns are counted.

    Boxes belong to the pixels as stored where the annotation states their size and not that of the turned image.
    Where its size cannot tell (a square, a half turn, a mirror image) they belong to the image as it is read.

    Args:
        objects: (class, (x_min, y_min, x_max, y_max), difficult).
        header: Of the file.
        annotated: Height and width by the annotation, if it states them.
        findings: Is told of turned boxes.
        name: What the image is called in it.
    """
    if header.orientation == 1:
        return objects
    frame = frame_of(annotated, header)
    if frame is None:
        if reading.exif_orientation:
            findings.add("turn unknown", name)
        return objects
    if (frame == "as shown") == reading.exif_orientation:
        return objects
    findings.add("turned", name)
    orientation, size = header.orientation, (header.height, header.width)
    if frame == "as shown":  # the boxes go back to where the pixels are stored
        orientation, size = inverse(orientation), header.shown_size
    return [(kind, turned_box(box, orientation, size), hard) for kind, box, hard in objects]


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
        >>> from adasap.tasks.detection.data.boxes import empty_target
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
        findings: BoxFindings | None = None,
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
        self.classes, self.findings, self.where = tuple(classes), findings or box_findings(), where

    @property
    def num_classes(self) -> int:
        """Number of classes without the background."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Image uint8 [C, H, W] and its target.

        Raises:
            DataError: If the file is damaged.
        """
        return self.pixels[index], self.annotations.target(index)

    def some(self, indices: Tensor) -> DetectionImages:
        """Some of the images, read when they are asked for; findings stay those of the whole."""
        pixels = _SomePixels(self.pixels, indices)
        return DetectionImages(pixels, self.annotations.some(indices), self.classes, self.findings, where=self.where)

    def with_channels(self, channels: int | None) -> DetectionImages:
        """The images with as many channels as a model wants; None leaves them.

        Raises:
            DataError: If they have others, and are not grey or colour.
        """
        if channels is None or (given := self.num_channels) == channels:
            return self
        require_channels(given, channels, where=self.where)
        pixels = _ChannelPixels(self.pixels, channels)
        return DetectionImages(pixels, self.annotations, self.classes, self.findings, where=self.where)

    def content(self) -> list[Tensor]:
        """All boxes: what the set is known again by."""
        return self.annotations.tensors()

    def paths(self) -> list[ImageFile]:
        """The image files, where it has any."""
        pixels = self.pixels
        if isinstance(pixels, _SomePixels) and isinstance(pixels.pixels, FilePixels):
            return [pixels.pixels.files[index] for index in pixels.indices.tolist()]
        return list(pixels.files) if isinstance(pixels, FilePixels) else []

    def broken_names(self) -> list[str]:
        """A sentence for each image that was left out, or whose annotation states another size than it has."""
        left_out = [
            f"{name}: {_MEANING[kind]}" for kind in ("missing", "broken") for name in self.findings.names.get(kind, [])
        ]
        return left_out + (self.pixels.contradictions() if isinstance(self.pixels, FilePixels) else [])

    @property
    def num_channels(self) -> int:
        """Number of channels; files are read as colour."""
        if isinstance(self.pixels, _ChannelPixels):
            return self.pixels.channels
        return 3 if self.paths() else self.pixels[0].shape[0]

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


def check_class_names(names: Sequence[str], *, where: str) -> tuple[str, ...]:
    """The names, after checking that there is one and that none is there twice.

    Raises:
        DataError: Names the first that is.

    The forms of Unicode are one: names come in its normal form C.

    Example:
        >>> check_class_names(["cat", "dog", "cat"], where="classes.txt")
        Traceback (most recent call last):
        adasap.errors.DataError: classes.txt names the class 'cat' twice; name each class once
    """
    names = [unicodedata.normalize("NFC", name) for name in names]
    if not names:
        raise DataError(f"{where} names no class; name at least one")
    if twice := [name for name, count in Counter(names).items() if count > 1 and name != NO_CLASS]:
        raise DataError(f"{where} names the class {shortened(twice[0])!r} twice; name each class once")
    return tuple(names)


class _ChannelPixels:
    def __init__(self, pixels: Pixels, channels: int) -> None:
        self.pixels, self.channels = pixels, channels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return with_channels(self.pixels[index], self.channels)


def require_objects(
    annotations: Annotations,
    found: Iterable[NamedObject],
    names: Sequence[str],
    findings: BoxFindings,
    *,
    where: str,
) -> None:
    """Checks that of the objects that were read some are left, and that their boxes are in pixels.

    Raises:
        DataError: If all were left out, or all lie within the first pixel, as fractions of the image's size do.
    """
    kinds = {kind: None for kind, _, _ in found}
    if len(annotations.labels) == 0 and kinds:
        nearest = suggestion(names[0], list(kinds)) if not kinds.keys() & set(names) else "correct the boxes"
        raise DataError(
            f"{where}: no object is left; {findings.summary()}; its objects are {first_names(list(kinds))}, wanted "
            f"{first_names(names)}; {nearest}"
        )
    if len(annotations.boxes) and annotations.boxes.max() <= 1:
        raise DataError(
            f"{where}: all boxes lie within one pixel, {annotations.boxes[0].tolist()} is the first; boxes are in "
            "pixels: multiply fractions by the width and height of their image"
        )


def objects_in_image(
    objects: Sequence[NamedObject],
    numbers: Mapping[str, int],
    size: tuple[int, int],
    findings: BoxFindings,
    *,
    name: str,
    image_id: int,
) -> Target:
    """A target from class names and boxes as they were read: clipped to the image, sorted out, and counted.

    Args:
        objects: As they were read; of several that are equal the first counts.
        numbers: Label of each class.
        size: Height and width of the image.
        findings: Is told what was wrong.
        name: What the image is called in it.
    """
    height, width = size
    kept: list[tuple[Box, int, bool]] = []
    for _ in range(len(objects) - len(set(objects))):
        findings.add("double", name)
    for kind, (left, top, right, bottom), difficult in dict.fromkeys(objects):
        inside = max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))
        if kind not in numbers:
            findings.add("other class", name)
        elif not (inside[0] < inside[2] and inside[1] < inside[3]):  # also where a number is NaN
            findings.add("no area", name)
        else:
            if inside != (left, top, right, bottom):
                findings.add("clipped", name)
            if difficult is None:
                findings.add("flag", name)
            kept.append((inside, numbers[kind], bool(difficult)))
    if not kept:
        findings.add("empty", name)
    boxes = torch.tensor([box for box, _, _ in kept]).reshape(-1, 4)
    labels = torch.tensor([label for _, label, _ in kept], dtype=torch.int64)
    return make_target(boxes, labels, torch.tensor([hard for *_, hard in kept], dtype=torch.bool), image_id=image_id)
