"""Corrupted images that lie on disk, in the published layouts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adasap.corruptions import NUM_SEVERITIES
from adasap.data import InMemoryImages
from adasap.data.arrays import mapped_images, mapped_labels
from adasap.data.files import ImageFiles, image_tree
from adasap.data.imagenet import class_folders, imagenet_wnids
from adasap.data.npz import open_npz
from adasap.errors import DataError
from adasap.robustness.suites import Cell
from adasap.robustness.suites_registry import SuiteSource


def suite_path(source: SuiteSource) -> Path:
    """Where the suite lies.

    Raises:
        DataError: If it says so nowhere or there is nothing.
    """
    path = None if source.path is None else Path(source.path)
    if path is None or not path.exists():
        given = "none is given" if path is None else f"{path} does not exist"
        raise DataError(f"suite {source.kind} wants {source.row.on_disk} at its path, and {given}; correct the path")
    return path


def cell_keys(source: SuiteSource) -> Iterator[tuple[str, str, int]]:
    """Name, corruption and severity of each cell."""
    for corruption in source.names():
        for severity in source.severities:
            yield f"{corruption}/{severity}", corruption, severity


def corruption_folders(source: SuiteSource) -> tuple[dict[str, Cell], int | None]:
    """Cells of folders CORRUPTION/SEVERITY/CLASS, and how many outputs a model must have."""
    root, first, cells = suite_path(source), None, {}
    folders = {name: _corruption_folder(root, name) for name in source.names()}
    _complain_of_missing(root, source, [name for name, folder in folders.items() if folder is None])
    for key, corruption, severity in cell_keys(source):
        here = root / str(folders[corruption]) / str(severity)
        if source.row.num_outputs:
            numbers, wanted = {wnid: n for n, wnid in enumerate(imagenet_wnids())}, "a wnid of ImageNet"
        elif first is None:
            numbers = {wnid: n for n, wnid in enumerate(image_tree(here))}
            wanted = f"one of those of {here}"
        images = class_folders(here, numbers, wanted)
        first = first or images
        if images.files != first.files:
            odd = sorted(set(images.files) ^ set(first.files))[0]
            raise DataError(
                f"{here} has {len(images):,} images and {first.root} has {len(first):,}: {odd} is in one of them only; "
                "unpack the archives again"
            )
        cells[key] = Cell(ImageFiles(first.files, first.labels, first.classes, str(here)))
    return cells, source.row.num_outputs or len(numbers)


def _corruption_folder(root: Path, corruption: str) -> Path | None:
    """Below the root, or below the folder of its archive (`noise`, `blur`, `weather`, `digital`, `extra`)."""
    places = [
        Path(corruption),
        *(Path(group, corruption) for group in ("noise", "blur", "weather", "digital", "extra")),
    ]
    return next((place for place in places if (root / place).is_dir()), None)


def _complain_of_missing(root: Path, source: SuiteSource, missing: list[str]) -> None:
    if missing:
        raise DataError(
            f"{root} lacks {', '.join(missing)} of the {len(source.names())} corruptions of {source.kind}; "
            "complete the suite, or name those that count with `corruptions`"
        )


def corruption_npy(source: SuiteSource) -> dict[str, Cell]:
    """Cells of one array per corruption, whose severities stand one below the other."""
    root = suite_path(source)
    _complain_of_missing(root, source, [name for name in source.names() if not (root / f"{name}.npy").is_file()])
    labels = mapped_labels(root / "labels.npy")
    count, rest = divmod(len(labels), NUM_SEVERITIES)
    if rest or not count or (labels.view(NUM_SEVERITIES, count) != labels[:count]).any():
        raise DataError(f"{root / 'labels.npy'}: {len(labels)} labels are not the same ones five times; fetch it again")
    cells = {}
    for corruption in source.names():
        images = torch.from_numpy(mapped_images(root / f"{corruption}.npy")).permute(0, 3, 1, 2)
        if len(images) != len(labels):
            raise DataError(
                f"{root / corruption}.npy has {len(images):,} images and labels.npy {len(labels):,} labels; wanted as "
                "many, severity by severity; fetch it again"
            )
        for severity in source.severities:
            rows = slice(count * (severity - 1), count * severity)
            cells[f"{corruption}/{severity}"] = Cell(InMemoryImages(images[rows], labels[rows], where=str(root)))
    return cells


def corruption_npz(source: SuiteSource) -> dict[str, Cell]:
    """Cells of one archive with one array per corruption, severities first."""
    path = suite_path(source)
    with open_npz(path) as file:
        wanted = ("labels", *source.names())
        missing = [key for key in wanted if key not in file]
        if missing:
            raise DataError(f"{path} has no array {missing[0]!r}; it holds: {', '.join(file.files)}")
        arrays = {key: file[key] for key in source.names()}
        labels = torch.from_numpy(file["labels"].astype(np.int64))
    cells = {}
    for key, corruption, severity in cell_keys(source):
        array: Any = arrays[corruption]
        if array.dtype != np.uint8 or array.shape[:2] != (NUM_SEVERITIES, len(labels)) or array.shape[-1] != 3:
            raise DataError(
                f"{path}: {corruption} is {array.dtype} {list(array.shape)}; "
                f"wanted uint8 [5, {len(labels)}, H, W, 3], severities first"
            )
        cells[key] = Cell(InMemoryImages(torch.from_numpy(array[severity - 1]).permute(0, 3, 1, 2), labels))
    return cells
