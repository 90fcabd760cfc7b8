"""Reads image files, one folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from adasap.errors import DataError


class ImageFiles:
    """Image files that are decoded when they are asked for.

    Args:
        files: The image files.
        labels: int64 [N].
        classes: Class names.
    """

    def __init__(self, files: Sequence[str], labels: Tensor, classes: Sequence[str]) -> None:
        if not files:
            raise DataError("no images in this part of the folder; check `first` and `count`")
        self.files = tuple(files)
        self.labels = labels
        self.classes = tuple(classes)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return decode_image(self.files[index]), int(self.labels[index])

    def part(self, part: slice) -> ImageFiles:
        """Some of the files."""
        return ImageFiles(self.files[part], self.labels[part], self.classes)


def read_folder(root: Path, split: str | None) -> ImageFiles:
    """The image files below `root/split`, one sub-folder per class, in torchvision's order.

    Raises:
        DataError: If the folder is missing or has no class folders with images.
    """
    from torchvision.datasets import ImageFolder

    folder = root / split if split else root
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; wanted one sub-folder of images per class in it")
    try:
        found = ImageFolder(folder)
    except FileNotFoundError as error:
        raise DataError(f"{folder}: {error}; wanted one sub-folder of images per class") from error
    labels = torch.tensor(found.targets, dtype=torch.int64)
    return ImageFiles([file for file, _ in found.samples], labels, found.classes)


def decode_image(path: str) -> Tensor:
    """An image file as uint8 [3, H, W], RGB; transparency is dropped.

    Raises:
        DataError: If the file is damaged or no image; the message names it.
    """
    try:
        with Image.open(path) as image:
            # a palette with transparency goes to RGB by way of RGBA
            colours = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
            pixels, (width, height) = bytearray(colours.tobytes()), image.size
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be decoded ({error}); replace the file or take it out of the folder") from error
    return torch.frombuffer(pixels, dtype=torch.uint8).view(height, width, 3).permute(2, 0, 1).contiguous()
