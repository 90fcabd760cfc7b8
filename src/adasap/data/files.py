"""Image files with labels, decoded when they are asked for."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from adasap.data.decoding import AS_SHOWN, ImageFile, Reading, decode_image
from adasap.data.images import ChannelImages, ImageSet, require_channels
from adasap.errors import DataError

EXTENSIONS = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".apng", ".ppm", ".pgm", ".pbm", ".pnm", ".bmp", ".tif", ".tiff", ".webp"),
    *(".gif", ".jp2"),
)
"""Names of files that are taken for images; what they are is seen by their content."""


class ImageFiles:
    """Image files that are decoded when they are asked for.

    Args:
        files: The image files, relative to `root`.
        labels: int64 [N].
        classes: Class names.
        root: The folder that holds them.
        border: Pixels taken off on all four sides.
        named: Whether the classes have names, and not only numbers.
        remarks: What was passed over or done when the files were listed, a sentence for each.
        reading: How the files are read.
    """

    def __init__(
        self,
        files: Sequence[str],
        labels: Tensor,
        classes: Sequence[str],
        root: str = "",
        border: int = 0,
        *,
        named: bool = True,
        remarks: Sequence[str] = (),
        reading: Reading = AS_SHOWN,
    ) -> None:
        self.files = _some(files)
        self.named, self.remarks = named, tuple(remarks)
        self.labels = labels
        self.classes = tuple(classes)
        self.root = root
        self.border = border
        self.reading = reading

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = decode_image(self.path(index), self.reading)
        if self.border:
            image = image[:, self.border : -self.border, self.border : -self.border]
        return image, int(self.labels[index])

    def paths(self) -> Sequence[ImageFile]:
        """All of the files."""
        return [self.path(index) for index in range(len(self))]

    def path(self, index: int) -> ImageFile:
        """Where an image lies."""
        return os.path.join(self.root, self.files[index])

    def part(self, part: slice) -> ImageFiles:
        """Some of the files.

        Raises:
            DataError: If there are none.
        """
        return self._with(files=_some(self.files[part]), labels=self.labels[part])

    def some(self, indices: Sequence[int]) -> ImageFiles:
        """Those of some indices."""
        return self._with(files=_some([self.files[index] for index in indices]), labels=self.labels[list(indices)])

    def read_as(self, reading: Reading) -> ImageFiles:
        """The same files, read in another way."""
        return self._with(reading=reading)

    def _with(self, **changes: Any) -> ImageFiles:
        same = copy.copy(self)
        vars(same).update(changes)
        return same


class Store(Protocol):
    """Files that hold many images each."""

    def image(self, row: int) -> ImageFile:
        """Where one of them lies."""


class StoredImages(ImageFiles):
    """Images inside larger files, decoded when they are asked for.

    Args:
        store: Gives the images by their rows.
        labels: int64 [N], of rows 0 to N - 1.
        classes, named, remarks: As for `ImageFiles`.
    """

    def __init__(
        self, store: Store, labels: Tensor, classes: Sequence[str], *, named: bool, remarks: Sequence[str] = ()
    ) -> None:
        super().__init__([str(row) for row in range(len(labels))], labels, classes, named=named, remarks=remarks)
        self.store = store

    def path(self, index: int) -> ImageFile:
        """Where an image lies."""
        return self.store.image(int(self.files[index]))


def require_inside(paths: Iterable[str], folder: Path) -> None:
    """Refuses files that a link leads out of a folder: whoever made the folder could show any file of this machine.

    Raises:
        DataError: Names the first such file and where it leads.
    """
    home = os.path.realpath(folder)
    real: dict[str, str] = {}
    for path in paths:
        above, name = os.path.split(path)
        if above not in real:
            real[above] = os.path.realpath(above)
        found = os.path.realpath(path) if os.path.islink(path) else os.path.join(real[above], name)
        if not found.startswith(os.path.join(home, "")):
            raise DataError(
                f"{path} is a link that leaves the folder {folder}, to {found}; set `follow_links: true` of the data "
                "source if you trust its links, or copy the images into the folder"
            )


def _some(files: Sequence[str]) -> tuple[str, ...]:
    if not files:
        raise DataError("no images in this part of the folder; check `first` and `count`")
    return tuple(files)


def as_channels(images: ImageSet, channels: int | None, *, where: str) -> ImageSet:
    """The images with as many channels as a model wants; None leaves them.

    Raises:
        DataError: If they have others, and are not grey or colour.
    """
    if channels is None:
        return images
    given = 3 if isinstance(images, ImageFiles) else images[0][0].shape[0]
    require_channels(given, channels, where=where)
    return images if given == channels else ChannelImages(images, channels)
