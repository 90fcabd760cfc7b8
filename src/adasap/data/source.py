"""One door to every data set: a source says where the images are, `open_dataset` reads them."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from adasap.data.arrays import read_cifar10_1
from adasap.data.augmentation import ResizedImages, Resizing
from adasap.data.cifar import read_cifar
from adasap.data.coco import read_coco
from adasap.data.detection_set import DetectionImages
from adasap.data.digits import read_digits
from adasap.data.files import read_csv, read_folder
from adasap.data.imagenet import read_imagenet, read_imagenet_v2, read_objectnet
from adasap.data.images import ImageSet, InMemoryImages
from adasap.data.npz import read_npz
from adasap.data.shapes import read_shapes
from adasap.data.voc import read_voc
from adasap.errors import DataError, suggestion

SourceKind = Literal[
    "npz",
    "folder",
    "csv",
    "cifar10",
    "cifar100",
    "cifar10.1",
    "imagenet",
    "imagenet-v2",
    "objectnet",
    "digits",
    "voc",
    "coco",
    "shapes",
]
WITH_BOXES: frozenset[SourceKind] = frozenset({"voc", "coco", "shapes"})
"""Kinds whose images have boxes: `open_detection_dataset` reads them."""
ANY_SIZE: frozenset[SourceKind] = frozenset({"imagenet", "imagenet-v2", "objectnet"})
"""Kinds whose images come in many sizes."""


@dataclass(frozen=True)
class DataSource:
    """Where a set of labelled images lies, and which part of it to take.

    Attributes:
        kind: `npz` (an archive with `images`, `labels` and optionally `classes`), `folder` (one sub-folder of
            image files per class, numbered in the order of their names), `csv` (a list of files and class numbers),
            `cifar10` or `cifar100` (the official Python version), `cifar10.1` (two `.npy` files), `imagenet` (class
            folders named by wnid, any of the 1,000), `imagenet-v2` (class folders 0 to 999), `objectnet` (as
            published, the classes of ImageNet), or `digits` (scikit-learn's handwritten digits). With boxes, for
            detection: `voc` (Pascal VOC or any set in its layout), `coco` (COCO's JSON) or `shapes` (drawn here).
        path: `npz`: the file, or a folder that holds `train.npz`, `test.npz`, ...; `folder`: the folder that
            holds `train/`, `test/`, ...; `csv`: the file, or the folder of `labels.csv`; CIFAR: the folder that holds
            `cifar-10-batches-py`, `cifar-100-python` or `cifar10.1_v6_data.npy`; `imagenet`: the class folders, or
            the folder that holds them as `val/`; `voc`: the folder of `JPEGImages`, or the one above several such;
            `coco`: the JSON, or the folder of `annotations/`.
        split: Which split to read when it is not the one that is asked for; "." reads a folder itself. CIFAR-10.1: `v4`
            or `v6`; `voc`: also `VOC2007/trainval+VOC2012/trainval`, in short `07+12`.
        first: Index of the first image to take.
        count: How many images to take; None takes all that follow.
        resize: Length of the shorter side to which each image is brought, in pixels; None leaves it as it is.
        center_crop: Side of the central square that is kept after that, in pixels.
        interpolation: How `resize` computes pixels.
        classes: Of `voc` and `coco`: class names, labels 1, 2, ...; by default those of the data.
    """

    kind: SourceKind
    path: str | None = None
    split: str | None = None
    first: int = 0
    count: int | None = None
    resize: int | None = None
    center_crop: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    classes: tuple[str, ...] | None = None

    @property
    def resizing(self) -> Resizing:
        """What brings each image to one size."""
        return Resizing(self.resize, self.center_crop, self.interpolation)

    def __post_init__(self) -> None:
        _ = self.resizing  # checks the two lengths
        if self.first < 0 or (self.count is not None and self.count < 1):
            raise DataError(
                f"first is {self.first} and count is {self.count}; "
                f"give first >= 0, and count >= 1 or leave count out to take all"
            )
        if self.kind not in ("digits", "shapes") and not self.path:
            raise DataError(f"a data source of kind {self.kind!r} needs a `path`; say where the images lie")
        if self.kind in WITH_BOXES and self.resizing:
            raise DataError(
                f"a data source of kind {self.kind!r} is not resized or cropped here, its boxes would be wrong; "
                "detectors bring images to their own size, and for training there is `size` of the augmentation"
            )
        if self.classes is not None and self.kind not in ("voc", "coco"):
            raise DataError(f"`classes` is for voc and coco; a data source of kind {self.kind!r} has its own, drop it")


def open_dataset(source: DataSource, split: str | None = None) -> ImageSet:
    """Reads the images of a source, or the part of them that it names, brought to the size that it wants.

    Args:
        source: Where the images lie.
        split: `train`, `test`, or what the folders are called; `source.split` comes first if it is set.
    Returns:
        Images in memory, except for image files, each of which is read when it is asked for.
    Raises:
        DataError: If a file is missing or does not hold what it should; the message names it.

    Example:
        >>> tuning = open_dataset(DataSource("digits", first=100, count=50), "test")
        >>> len(tuning), tuning.num_classes
        (50, 10)
    """
    if source.kind in WITH_BOXES:
        raise DataError(f"{source.kind} holds images with boxes, for detection; this wants images with labels")
    dataset = _read(source, split)
    _require_count(source, dataset)
    return ResizedImages(dataset, source.resizing) if source.resizing else dataset


def open_detection_dataset(source: DataSource, split: str | None = None) -> DetectionImages:
    """Reads the images with boxes of a source, or the part of them that it names.

    Args:
        source: Of kind `voc`, `coco` or `shapes`.
        split: As for `open_dataset`.
    Raises:
        DataError: If it holds no boxes, something is missing, or no image is left.

    Example:
        >>> open_detection_dataset(DataSource("shapes", count=2), "test").summary()
        'shapes, split test: 2 images, ...'
    """
    split, path = source.split or split, Path(source.path or "")
    part = slice(source.first, None if source.count is None else source.first + source.count)
    match source.kind:
        case "shapes":
            dataset = read_shapes(_train_or_test(source, split), part)
        case "voc" | "coco":
            if source.kind == "voc":
                whole = read_voc(path, split or "test", source.classes)
            else:
                whole = read_coco(path, split, source.classes)
            dataset = whole if part == slice(0, None) else whole.some(torch.arange(len(whole))[part])
        case _:
            raise DataError(
                f"{source.kind} holds images with labels and no boxes; give one of {', '.join(sorted(WITH_BOXES))}"
            )
    _require_count(source, dataset)
    return dataset


def _require_count(source: DataSource, dataset: Sized) -> None:
    if source.count is not None and len(dataset) != source.count:
        raise DataError(
            f"{source.path or source.kind}: wanted {source.count} images from index {source.first} on, but there are "
            f"only {len(dataset)}; lower `first` or `count`"
        )


def _read(source: DataSource, split: str | None) -> ImageSet:
    """The part of the source, its images as they are on disk."""
    split, path = source.split or split, Path(source.path or "")
    part = slice(source.first, None if source.count is None else source.first + source.count)
    match source.kind:
        case "npz":
            return read_npz(_npz_file(path, split), part)
        case "folder":
            return read_folder(path, split).part(part)
        case "csv":
            return read_csv(path).part(part)
        case "imagenet":
            return read_imagenet(path).part(part)
        case "imagenet-v2":
            return read_imagenet_v2(path).part(part)
        case "objectnet":
            return read_objectnet(path)[0].part(part)
        case "cifar10" | "cifar100":
            return _part(read_cifar(source.kind, path, _train_or_test(source, split)), part)
        case "cifar10.1":
            return _part(read_cifar10_1(path, source.split or "v6"), part)
        case "digits":
            return _part(read_digits(_train_or_test(source, split)), part)
    raise DataError(f"unknown kind of data {source.kind!r}; {suggestion(source.kind, get_args(SourceKind))}")


def _npz_file(path: Path, split: str | None) -> Path:
    if not path.is_dir():
        return path
    if split is None:
        raise DataError(f"{path} is a folder; name the .npz file, or a split such as `train`")
    return path / f"{split}.npz"


def _train_or_test(source: DataSource, split: str | None) -> Literal["train", "test"]:
    if split == "train":
        return "train"
    if split == "test":
        return "test"
    raise DataError(
        f"{source.kind} has no split {split!r}; choose `train` or `test`, and take a part of it with "
        f"`first` and `count`"
    )


def _part(dataset: InMemoryImages, part: slice) -> InMemoryImages:
    if part == slice(0, None):
        return dataset
    images, labels = dataset.images[part], dataset.labels[part]
    return InMemoryImages(images, labels, dataset.classes, where=f"images {part.start} and on")
