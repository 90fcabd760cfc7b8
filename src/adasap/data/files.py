"""Reads image files: one folder per class, or a list of files and labels."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from adasap.data.images import check_labels
from adasap.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")


class ImageFiles:
    """Image files that are decoded when they are asked for.

    Args:
        files: The image files, relative to `root`.
        labels: int64 [N].
        classes: Class names.
        root: The folder that holds them.
        border: Pixels taken off on all four sides.
    """

    def __init__(
        self, files: Sequence[str], labels: Tensor, classes: Sequence[str], root: str = "", border: int = 0
    ) -> None:
        if not files:
            raise DataError("no images in this part of the folder; check `first` and `count`")
        self.files = files if isinstance(files, tuple) else tuple(files)
        self.labels = labels
        self.classes = tuple(classes)
        self.root = root
        self.border = border

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = decode_image(os.path.join(self.root, self.files[index]))
        if self.border:
            image = image[:, self.border : -self.border, self.border : -self.border]
        return image, int(self.labels[index])

    def part(self, part: slice) -> ImageFiles:
        """Some of the files."""
        return ImageFiles(self.files[part], self.labels[part], self.classes, self.root, self.border)

    def relabelled(self, labels: Tensor, classes: Sequence[str]) -> ImageFiles:
        """The same files with other labels."""
        return ImageFiles(self.files, labels, classes, self.root, self.border)


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


def read_csv(path: Path) -> ImageFiles:
    """The image files that a CSV lists, with its columns `file`, `class_index` and perhaps `class_name`.

    Args:
        path: The CSV, or the folder that holds `labels.csv`. Files lie beside it or in `images/` beside it.
    Raises:
        DataError: If the list or a file of it is missing, or a row names no class.
    """
    listing = path / "labels.csv" if path.is_dir() else path
    if not listing.is_file():
        raise DataError(f"{listing} does not exist; wanted a CSV with the columns `file` and `class_index`")
    with listing.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "class_index"} <= rows[0].keys():
        given = ", ".join(rows[0]) if rows else "no rows"
        raise DataError(f"{listing} has {given}; wanted rows with the columns `file` and `class_index`")
    try:
        labels = torch.tensor([int(row["class_index"]) for row in rows])
    except (ValueError, TypeError) as error:
        raise DataError(f"{listing}: a class_index is no whole number ({error}); correct that row") from error
    names = {int(row["class_index"]): row.get("class_name") or row["class_index"] for row in rows}
    root = listing.parent / "images" if (listing.parent / "images").is_dir() else listing.parent
    missing = [row["file"] for row in rows if not (root / row["file"]).is_file()]
    if missing:
        raise DataError(
            f"{root} lacks {missing[0]}, which {listing} lists ({len(missing)} missing); complete the folder"
        )
    classes = [names.get(number, str(number)) for number in range(int(labels.max()) + 1)]
    return ImageFiles(
        [row["file"] for row in rows], check_labels(labels, len(rows), classes, where=str(listing)), classes, str(root)
    )


def image_tree(root: Path) -> dict[str, tuple[str, ...]]:
    """Sub-folder -> the image files in it, both in the order of their names; links are followed.

    Raises:
        DataError: If there is no such folder, or no sub-folder with images in it.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; wanted one sub-folder of images per class in it")
    tree = {}
    for folder in sorted(entry.name for entry in os.scandir(root) if entry.is_dir()):
        names = (entry.name for entry in os.scandir(root / folder))
        files = tuple(sorted(name for name in names if name.lower().endswith(EXTENSIONS)))
        if files:
            tree[folder] = files
    if not tree:
        raise DataError(f"{root} has no sub-folders with images; wanted one per class")
    return tree


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
