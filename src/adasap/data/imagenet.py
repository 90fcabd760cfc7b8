"""Reads ImageNet and the sets that share its classes, as they lie on disk; labels are the outputs 0 to 999."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adasap.data.files import EXTENSIONS, ImageFiles
from adasap.data.folders import PassedOver, image_tree
from adasap.errors import DataError
from adasap.io import read_json, read_text


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The 1,000 WordNet identifiers in the order of the outputs, which is that of their names.

    Example:
        >>> imagenet_wnids()[:2], len(imagenet_wnids())
        (('n01440764', 'n01443537'), 1000)
    """
    return tuple(files("adasap.data").joinpath("imagenet_wnids.txt").read_text().split())


def imagenet_names() -> tuple[str, ...]:
    """The usual English names of the 1,000 classes in the order of the outputs, as torchvision has them.

    Example:
        >>> imagenet_names()[:2]
        ('tench', 'goldfish')
    """
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def read_imagenet(root: Path) -> ImageFiles:
    """ImageNet's validation set, ImageNet-A, -R and -Sketch: one folder per class, named by its wnid.

    Also the validation set as one flat folder with `val.txt` (lines `FILE CLASS_INDEX`) in it or beside it.

    Args:
        root: The folder of the class folders, or one that holds it as `val/`.
    Raises:
        DataError: If there is no class folder, or one that is no wnid of ImageNet.
    """
    root = root / "val" if (root / "val").is_dir() else root
    listed = [path for path in (root / "val.txt", root.parent / "val.txt") if path.is_file()]
    if listed and not any(entry.is_dir() and not entry.name.startswith(".") for entry in root.iterdir()):
        return _flat(root, listed[0])
    return class_folders(root, {wnid: number for number, wnid in enumerate(imagenet_wnids())}, "a wnid of ImageNet")


def read_imagenet_v2(root: Path) -> ImageFiles:
    """ImageNet-V2: folders 0 to 999 are ImageNet's class numbers. As text they would sort 0, 1, 10, 100, ...

    Raises:
        DataError: If there is no class folder, or one that is no number from 0 to 999.
    """
    numbers = {str(number): number for number in range(1000)}
    images = class_folders(root, numbers, "a number from 0 to 999")
    images.classes = imagenet_wnids()
    return images


def read_objectnet(root: Path) -> tuple[ImageFiles, Tensor]:
    """ObjectNet (Barbu et al., 2019) restricted to the classes that it shares with ImageNet.

    Args:
        root: The folder `objectnet-1.0` with `images/` and `mappings/` as published.
    Returns:
        The images without their red border of 2 pixels, labels in the order of the shared folders' names; and which
        label each of the 1,000 outputs answers, int64 [1000], -1 for none. Several outputs may answer one.
    Raises:
        DataError: If a folder or mapping is missing or does not hold what it should.
    """
    label_of_folder = _mapping(root, "folder_to_objectnet_label.json")
    names_of_label = _mapping(root, "objectnet_to_imagenet_1k.json")
    line_of_output = _mapping(root, "pytorch_to_imagenet_2012_id.json")
    output_of_line = {_number(line, 10**6, root): _number(output, 999, root) for output, line in line_of_output.items()}
    lines = _text(_mapping_file(root, "imagenet_to_label_2012_v2")).splitlines()
    output_of_name = {name.strip(): output_of_line[line] for line, name in enumerate(lines) if line in output_of_line}
    passed = PassedOver()
    tree = image_tree(root / "images", passed)
    unknown = [folder for folder in tree if folder not in label_of_folder]
    if unknown:
        raise DataError(
            f"{root / 'images' / unknown[0]} is not listed in folder_to_objectnet_label.json; remove that folder, or "
            "take `mappings/` from the same release"
        )
    shared = [folder for folder in tree if str(label_of_folder[folder]) in names_of_label]
    outputs = torch.full((1000,), -1, dtype=torch.int64)
    for number, folder in enumerate(shared):
        for name in str(names_of_label[str(label_of_folder[folder])]).split(";"):
            if name.strip() not in output_of_name:
                raise DataError(f"objectnet_to_imagenet_1k.json names {name.strip()!r}, which is no class of ImageNet")
            outputs[output_of_name[name.strip()]] = number
    if not shared:
        raise DataError(f"{root / 'images'} has no folder of a class that ImageNet knows; unpack the whole archive")
    numbers = {folder: number for number, folder in enumerate(shared)}
    images = _images(root / "images", {folder: tree[folder] for folder in shared}, numbers, border=2)
    images.remarks = passed.remarks()
    return images, outputs


def class_folders(root: Path, numbers: Mapping[str, int], wanted: str) -> ImageFiles:
    """The images below `root`, whose folders' names give the class number; they need not all be there.

    Raises:
        DataError: For a folder that `numbers` does not know; `wanted` says what it should have been.
    """
    passed = PassedOver()
    tree = image_tree(root, passed)
    unknown = [folder for folder in tree if folder not in numbers]
    if unknown:
        raise DataError(
            f"{root / unknown[0]}: the name of a class folder should be {wanted}; give the folder that directly holds "
            "the class folders, or another kind of data"
        )
    images = _images(root, tree, numbers)
    images.remarks = passed.remarks()
    return images


def _images(root: Path, tree: Mapping[str, tuple[str, ...]], numbers: Mapping[str, int], border: int = 0) -> ImageFiles:
    """Sorted by class number, then by name."""
    ordered = sorted(tree, key=lambda folder: numbers[folder])
    names = tuple(f"{folder}/{file}" for folder in ordered for file in tree[folder])
    labels = torch.tensor([numbers[folder] for folder in ordered for _ in tree[folder]], dtype=torch.int64)
    return ImageFiles(names, labels, sorted(numbers, key=lambda folder: numbers[folder]), str(root), border)


def _flat(root: Path, listing: Path) -> ImageFiles:
    rows = [line.split() for line in _text(listing).splitlines() if line.strip()]
    wrong = [row for row in rows if len(row) != 2 or not _is_output(row[1])]
    if wrong or not rows:
        given = " ".join(wrong[0])[:80] if wrong else "no lines"
        raise DataError(f"{listing}: {given}; wanted lines `FILE CLASS_INDEX`")
    there = {path.name for path in root.iterdir() if path.name.lower().endswith(EXTENSIONS)}
    missing = [name for name, _ in rows if name not in there]
    if missing:
        raise DataError(
            f"{root} lacks {missing[0]}, which {listing} lists ({len(missing)} missing); complete the folder"
        )
    return ImageFiles([name for name, _ in rows], torch.tensor([int(n) for _, n in rows]), imagenet_wnids(), str(root))


def _is_output(digits: str) -> bool:
    return digits.isascii() and digits.isdigit() and len(digits) <= 3


def _text(path: Path) -> str:
    return read_text(path, what="a list of ImageNet's classes", error=DataError)


def _mapping_file(root: Path, name: str) -> Path:
    path = root / "mappings" / name
    if not path.is_file():
        raise DataError(f"{path} does not exist; unpack ObjectNet's archive whole, `mappings/` beside `images/`")
    return path


def _mapping(root: Path, name: str) -> dict[str, Any]:
    path = _mapping_file(root, name)
    mapping = read_json(path, what="a mapping of ObjectNet", error=DataError)
    if not isinstance(mapping, dict):
        raise DataError(f"{path} is no mapping; unpack it again")
    return mapping


def _number(value: object, largest: int, root: Path) -> int:
    digits = str(value)[:20]
    if not (digits.isascii() and digits.isdigit() and int(digits) <= largest):
        raise DataError(f"{root / 'mappings'}: {digits!r} is not the number of a class; unpack the archive again")
    return int(digits)
