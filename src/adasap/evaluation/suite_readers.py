"""Corrupted images on disk: in the published layouts, each a kind of suite, and as runs keep their own."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adasap.corruptions import BENCHMARK, NUM_SEVERITIES, VALIDATION
from adasap.data import InMemoryImages
from adasap.data.arrays import CIFAR10_CLASSES, CIFAR100_CLASSES, mapped_images, mapped_labels
from adasap.data.files import ImageFiles
from adasap.data.folders import image_tree
from adasap.data.headers import labels_of, require_memory
from adasap.data.imagenet import class_folders, imagenet_wnids
from adasap.data.npz import open_npz, read_classes
from adasap.data.samples import image_levels
from adasap.errors import DataError
from adasap.evaluation.cells import Cell
from adasap.evaluation.suite_sources import SUITES, CellsOnDisk, SuiteKind, SuiteSource
from adasap.evaluation.suites import CellImages, ImageSuite
from adasap.io import atomic_write
from adasap.sealed import digest_of_file

_KEPT_BATCH = 500


def corruption_folders(source: SuiteSource) -> CellsOnDisk:
    """Cells of folders CORRUPTION/SEVERITY/CLASS, and how many outputs a model must have."""
    root, first = source.place(), None
    cells: dict[Cell, CellImages] = {}
    folders = {name: _corruption_folder(root, name) for name in source.names()}
    _complain_of_missing(root, source, [name for name, folder in folders.items() if folder is None])
    for cell in source.cells():
        here = root / str(folders[cell.corruption]) / str(cell.severity)
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
        cells[cell] = CellImages(
            ImageFiles(
                first.files, first.labels, first.classes, str(here), remarks=first.remarks, reading=source.reading
            )
        )
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


def corruption_npy(source: SuiteSource) -> CellsOnDisk:
    """Cells of one array per corruption, whose severities stand one below the other."""
    root = source.place()
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
            part = InMemoryImages(images[rows], labels[rows], source.row.classes, where=str(root))
            cells[Cell(corruption, severity)] = CellImages(part)
    return cells, source.row.num_outputs


def corruption_npz(source: SuiteSource) -> CellsOnDisk:
    """Cells of one archive with one array per corruption, severities first, and perhaps class names, `classes`."""
    path = source.place()
    with open_npz(path) as file:
        missing = [key for key in ("labels", *source.names()) if key not in file.names]
        if missing:
            raise DataError(f"{path} has no array {missing[0]!r}; it holds: {', '.join(file.names[:20])}")
        labels, classes = labels_of(file.read("labels"), str(path)), read_classes(file, str(path))
        kinds = {key: file.header(key) for key in source.names()}
        for corruption, kind in kinds.items():
            if kind.dtype != np.uint8 or kind.shape[:2] != (NUM_SEVERITIES, len(labels)) or len(kind.shape) < 4:
                raise DataError(
                    f"{path}: {corruption} is {kind}; wanted uint8 [5, {len(labels)}, H, W, C], severities first"
                )
        require_memory(sum(kind.num_bytes for kind in kinds.values()), str(path))
        arrays = {key: file.read(key) for key in kinds}
    cells = {}
    for cell in source.cells():
        images = torch.from_numpy(
            image_levels(arrays[cell.corruption][cell.severity - 1], f"{path}: {cell.corruption}")
        )
        cells[cell] = CellImages(InMemoryImages(images.permute(0, 3, 1, 2), labels, classes, where=str(path)))
    return cells, None


_CLASSES = "class folders named by wnid"
_V2 = "the variant's class folders 0 to 999, or the folder {} above them"
_V2_FOLDERS = {
    "imagenet-v2": "imagenetv2-matched-frequency-format-val",
    "imagenet-v2-threshold0.7": "imagenetv2-threshold0.7-format-val",
    "imagenet-v2-top-images": "imagenetv2-top-images-format-val",
}
_NPY = "CORRUPTION.npy, uint8 [5 N, 32, 32, 3] by severity, and labels.npy [5 N]"

_KINDS: dict[str, SuiteKind] = {
    "clean": SuiteKind(),
    "corrupted": SuiteKind(on_the_fly=True),
    "corrupted-validation": SuiteKind(on_the_fly=True, corruptions=VALIDATION),
    "corruption-arrays": SuiteKind(
        corruption_npz, on_disk="an npz of labels and, per corruption, uint8 [5, N, H, W, 3]"
    ),
    "imagenet-val": SuiteKind(
        on_disk=f"{_CLASSES}, or a flat folder with val.txt", images="imagenet", num_outputs=1000, num_images=50_000
    ),
    "imagenet-c": SuiteKind(
        corruption_folders, on_disk="CORRUPTION/SEVERITY/WNID/*.JPEG at 224 x 224", num_outputs=1000, num_images=50_000
    ),
    **{
        name: SuiteKind(
            on_disk=_V2.format(folder), images="imagenet-v2", subfolder=folder, num_outputs=1000, num_images=10_000
        )
        for name, folder in _V2_FOLDERS.items()
    },
    "imagenet-a": SuiteKind(on_disk=_CLASSES, images="imagenet", num_outputs=1000, restricted=True, num_images=7_500),
    "imagenet-r": SuiteKind(on_disk=_CLASSES, images="imagenet", num_outputs=1000, restricted=True, num_images=30_000),
    "imagenet-sketch": SuiteKind(on_disk=_CLASSES, images="imagenet", num_outputs=1000, num_images=50_889),
    "objectnet": SuiteKind(on_disk="images/ and mappings/ as published", images="objectnet", num_outputs=1000),
    "cifar10-c": SuiteKind(corruption_npy, on_disk=_NPY, num_outputs=10, num_images=10_000, classes=CIFAR10_CLASSES),
    "cifar100-c": SuiteKind(corruption_npy, on_disk=_NPY, num_outputs=100, num_images=10_000, classes=CIFAR100_CLASSES),
    "cifar10.1": SuiteKind(
        on_disk="cifar10.1_v6_data.npy, cifar10.1_v6_labels.npy", images="cifar10.1", num_outputs=10, num_images=2_000
    ),
    "cifar10.1-v4": SuiteKind(
        on_disk="cifar10.1_v4_data.npy, cifar10.1_v4_labels.npy",
        images="cifar10.1",
        split="v4",
        num_outputs=10,
        num_images=2_021,
    ),
    "tiny-imagenet-c": SuiteKind(
        corruption_folders,
        on_disk="CORRUPTION/SEVERITY/WNID/*.JPEG at 64 x 64, wnids numbered as sorted",
        num_images=10_000,
    ),
}
for _name, _kind in _KINDS.items():
    SUITES.register(_name, _kind)


def kept_suite(suite: ImageSuite, folder: Path) -> ImageSuite:
    """The same suite, its corrupted images read from a folder; what is not there yet is made and kept.

    Files are bound to the images, their seeds and the version of the package, and may be shared by runs and deleted
    at any time; one that is not what its digest says, half-written or altered, is made again. Cells whose images are
    not in memory stay as they are, and so do those of a user's own corruption, whose code may change.

    Args:
        suite: Any.
        folder: Where the arrays lie: uint8 [N, H, W, C], one .npy file for each cell.
    """
    cells = {cell: _kept(found, folder) if _is_keepable(found) else found for cell, found in suite.images_of.items()}
    return replace(suite, images_of=cells)


def _is_keepable(found: CellImages) -> bool:
    ours = found.on_the_fly.corruption in (*BENCHMARK, *VALIDATION)
    return ours and isinstance(found.images, InMemoryImages)


def _kept(found: CellImages, folder: Path) -> CellImages:
    images, cell = found.images, found.on_the_fly
    assert isinstance(images, InMemoryImages)
    path = folder / _digest(images.images, found.seeds) / f"{cell.corruption}-{cell.severity}.npy"
    if not _is_whole(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.save(file, _made(found, images.images).permute(0, 2, 3, 1).numpy())
        with atomic_write(_seal_of(path)) as file:
            file.write(digest_of_file(path).encode())
    kept = torch.from_numpy(mapped_images(path)).permute(0, 3, 1, 2)
    again = InMemoryImages(kept, images.labels, images.classes, where=str(path))
    again.named = images.named
    return CellImages(again)


def _is_whole(path: Path) -> bool:
    """Whether an array is there and is what was written."""
    seal = _seal_of(path)
    return path.is_file() and seal.is_file() and seal.read_bytes() == digest_of_file(path).encode()


def _seal_of(path: Path) -> Path:
    return path.with_suffix(".sha256")


def _made(found: CellImages, images: Tensor) -> Tensor:
    parts = torch.split(torch.arange(len(images)), _KEPT_BATCH)
    return torch.cat([found.corrupted(images[part], part) for part in parts])


def _digest(images: Tensor, seeds: Tensor | None) -> str:
    from adasap import __version__

    total = hashlib.sha256(f"{__version__} {tuple(images.shape)}".encode())
    total.update(images.contiguous().numpy().data)
    total.update(b"" if seeds is None else seeds.numpy().data)
    return total.hexdigest()[:16]
