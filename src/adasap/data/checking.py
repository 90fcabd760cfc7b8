"""Finds broken image files before training does: a sample of a set, or every file of it, by several processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adasap.data.decoding import ImageFile, Reading, decode_image, read_image_header
from adasap.data.draws import sample_indices
from adasap.data.files import ImageFiles
from adasap.data.items import Samples, image_and_target, image_tensor, read_items
from adasap.data.orientation import Header
from adasap.errors import DataError

SAMPLE = 256
"""Images of each set that are read before a run begins."""
_NAMED = 3


@dataclass(frozen=True)
class FileCheck:
    """What reading one image file gave: what it says, and why it cannot be read, if it cannot."""

    path: str
    header: Header | None
    problem: str | None


def check_file(path: ImageFile, reading: Reading) -> FileCheck:
    """Decodes a file whole."""
    header = None
    try:
        header = read_image_header(path, reading)
        decode_image(path, reading)
    except DataError as error:
        return FileCheck(str(path), header, str(error))
    return FileCheck(str(path), header, None)


def check_files(paths: Sequence[ImageFile], reading: Reading, *, workers: int | None = None) -> Iterator[FileCheck]:
    """Decodes files whole, in their order.

    Args:
        paths: The files.
        reading: How they are read.
        workers: Processes; 0 uses this one. By default as many as processors where there are enough files.
    """
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if len(paths) > 4 * SAMPLE else 0
    yield from _each(_Files(paths, reading), workers)


@dataclass
class Inspection:
    """What the images of a set are: how many of each size, kind and peculiarity, and what is wrong with which.

    Attributes:
        sizes: Width x height of the pixels as stored -> number of images.
        kinds: Format and mode, or type and channels -> number of images.
        remarks: What else there is -> number of images.
        problems: A sentence for each broken file.
    """

    sizes: Counter[str]
    kinds: Counter[str]
    remarks: Counter[str]
    problems: list[str]

    def lines(self, most: int) -> list[str]:
        """Counts as text, the largest first, no more than `most` of each."""
        text = []
        for title, counts in (("sizes", self.sizes), ("kinds", self.kinds), ("also", self.remarks)):
            if counts:
                named = ", ".join(f"{name}: {count:,}" for name, count in counts.most_common(most))
                more = f", and {len(counts) - most} more" if len(counts) > most else ""
                text.append(f"{title}: {named}{more}")
        return [*text, f"{len(self.problems):,} cannot be read" if self.problems else "all can be read"]


def inspect_files(checks: Iterable[FileCheck]) -> Inspection:
    """Counts what `check_files` found."""
    found = Inspection(Counter(), Counter(), Counter(), [])
    for check in checks:
        if check.problem is not None:
            found.problems.append(check.problem)
        elif (header := check.header) is not None:
            found.sizes[f"{header.width} x {header.height}"] += 1
            found.kinds[f"{header.format} {header.mode}"] += 1
            if header.orientation != 1:
                found.remarks["turned by their EXIF orientation"] += 1
            if header.several:
                found.remarks["of several frames, the first is read"] += 1
            if _EXTENSIONS.get(os.path.splitext(check.path)[1].lower(), header.format) != header.format:
                found.remarks["of another format than their name says, read all the same"] += 1
    return found


def inspect_images(images: Samples) -> Inspection:
    """Counts the images of arrays."""
    found = Inspection(Counter(), Counter(), Counter(), [])
    for index in range(len(images)):
        channels, height, width = _image(images, index).shape
        found.sizes[f"{width} x {height}"] += 1
        found.kinds[f"8 bits, channels {channels}"] += 1
    return found


_EXTENSIONS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jfif"), "JPEG"),
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    ".bmp": "BMP",
    ".webp": "WEBP",
    ".gif": "GIF",
    ".jp2": "JPEG2000",
}


def without_broken(images: ImageFiles) -> ImageFiles:
    """Those files that can be read, and a remark on how many cannot.

    Raises:
        DataError: If none can.
    """
    checks = list(check_files(images.paths(), images.reading))
    sound = [index for index, check in enumerate(checks) if check.problem is None]
    if len(sound) == len(images):
        return images
    note = broken_text([check for check in checks if check.problem], len(checks))
    if not sound:
        raise DataError(f"no image can be read: {note}; correct the files")
    left = images.some(sound)
    left.remarks = (*images.remarks, f"{note}: left out")
    return left


def require_readable(
    images: Samples,
    *,
    where: str,
    shape: Sequence[int] | None = None,
    most: int = SAMPLE,
    seed: int = 0,
    workers: int = 0,
) -> None:
    """Reads a sample of a set, so that a run does not stop at a broken image hours later.

    Args:
        images: The set.
        where: What error messages call it.
        shape: Channels, height and width that every image must have; None allows any.
        most: Size of the sample, without replacement; all images if there are no more.
        seed: Of the sample.
        workers: Processes; 0 uses this one.
    Raises:
        DataError: Names the first images that cannot be read or have another shape, and how many there are.
    """
    count = len(images)
    indices = torch.arange(count) if count <= most else sample_indices(count, most, seed=seed)
    problems = [problem for problem in _each(_Sample(images, indices, shape), workers) if problem]
    if problems:
        raise DataError(
            f"{where}: {len(problems)} of {len(indices)} images that were tried cannot be used: "
            f"{'; '.join(problems[:_NAMED])}. `adasap check` lists all of them, `skip_broken: true` of the data source "
            "leaves broken files out"
        )


def broken_text(broken: Sequence[FileCheck], total: int) -> str:
    """How many files are broken, the first by name."""
    names = "; ".join(str(check.problem) for check in broken[:_NAMED])
    return f"{len(broken):,} of {total:,} image files cannot be read ({names}{'; ...' if len(broken) > _NAMED else ''})"


class _Files(Dataset[FileCheck]):
    def __init__(self, paths: Sequence[ImageFile], reading: Reading) -> None:
        self.paths, self.reading = paths, reading

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> FileCheck:
        return check_file(self.paths[index], self.reading)


class _Sample(Dataset[str]):
    """What is wrong with each image of a sample; empty where nothing is."""

    def __init__(self, images: Samples, indices: Tensor, shape: Sequence[int] | None) -> None:
        self.images, self.indices, self.shape = images, indices, None if shape is None else tuple(shape)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> str:
        index = int(self.indices[place])
        try:
            found = tuple(_image(self.images, index).shape)
        except DataError as error:
            return str(error)
        if self.shape is not None and found != self.shape:
            sizes = (" x ".join(map(str, size)) for size in (found, self.shape))
            return (
                "image {} is {} (channels, height, width), the model wants {}; set `resize` and `center_crop`".format(
                    index, *sizes
                )
            )
        return ""


def _image(images: Samples, index: int) -> Tensor:
    """The image of an item, [C, H, W]."""
    return image_tensor(image_and_target(read_items(images, torch.tensor([index]))[0])[0])


def _each(dataset: Dataset[Any], workers: int) -> Iterator[Any]:
    yield from DataLoader(
        dataset, batch_size=None, num_workers=workers, collate_fn=_as_it_is, generator=torch.Generator()
    )


def _as_it_is(item: Any) -> Any:
    return item
