"""Sizes of images in files, and what brings them to the size that a model takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import torch

from adasap.data import DataSource, open_source
from adasap.data.decoding import ImageFile, Reading, read_image_header
from adasap.data.draws import sample_indices
from adasap.data.images import is_image_set
from adasap.data.items import image_and_target, image_tensor, read_items
from adasap.errors import DataError
from adasap.models import ModelSpec, default_input_size
from adasap.models.preparation import preparation_of

_LOOKED_AT = 500
"""Images whose sizes are read, of a set of more a sample."""
_READ = 30
"""Where images must be read for it."""


@dataclass(frozen=True)
class Sizes:
    """Height and width of the images of a set, as they are shown.

    Attributes:
        counts: (height, width) -> number of images; of files that can be read.
    """

    counts: Counter[tuple[int, int]]

    @property
    def single(self) -> tuple[int, int] | None:
        """The one size that all have; None where there are several."""
        return next(iter(self.counts)) if len(self.counts) == 1 else None

    def __str__(self) -> str:
        """The range, for people."""
        if self.single is not None:
            return f"{self.single[1]} x {self.single[0]} pixels"
        if not self.counts:
            return "of unknown size"
        widths, heights = ([size[axis] for size in self.counts] for axis in (1, 0))
        return f"{min(widths)} to {max(widths)} pixels wide, {min(heights)} to {max(heights)} high"


def sizes_of(images: Any) -> Sizes:
    """Sizes of a data set's images, of a sample where there are many; of files the headers alone are read."""
    count = len(images)
    chosen = range(count) if count <= _LOOKED_AT else sample_indices(count, _LOOKED_AT, seed=0).tolist()
    if hasattr(images, "paths"):
        paths = images.paths()
        found = [_size_of_file(paths[index], getattr(images, "reading", Reading())) for index in chosen]
        return Sizes(Counter(size for size in found if size is not None))
    if is_image_set(images):
        return Sizes(Counter(tuple(images[index][0].shape[-2:]) for index in chosen[:1]))
    some = list(chosen)[:_READ]
    return Sizes(Counter(_height_and_width(images, index) for index in some))


def _height_and_width(images: Any, index: int) -> tuple[int, int]:
    """Of an item that must be read for it."""
    image = image_tensor(image_and_target(read_items(images, torch.tensor([index]))[0])[0])
    return image.shape[-2], image.shape[-1]


def _size_of_file(path: ImageFile, reading: Reading) -> tuple[int, int] | None:
    try:
        return read_image_header(path, reading).size(reading.exif_orientation)
    except DataError:
        return None


def brought_to_size(train: DataSource, test: DataSource, spec: ModelSpec) -> tuple[DataSource, DataSource, list[str]]:
    """Sources of labelled images that are resized and cropped to what a model takes, where they are not of its size.

    Sources that say it themselves stay as they are.
    """
    size, row = default_input_size(spec), train.row
    if size is None or not row.resizes or train.is_own or train.resizing or row.task != "classification":
        return train, test, []
    if sizes_of(open_source(train, "train")).single == size[1:] == sizes_of(open_source(test, "test")).single:
        return train, test, []
    prepared = preparation_of(spec)
    keys: dict[str, Any] = {"resize": prepared.resize, "center_crop": size[-1], "interpolation": prepared.interpolation}
    said = f"images are brought to {prepared.resize} pixels on their shorter side, of which the central {size[-1]} stay"
    return replace(train, **keys), replace(test, **keys), [said]
