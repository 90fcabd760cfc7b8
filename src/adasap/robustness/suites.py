"""Suites: named sets of evaluation cells (clean, shifted, or corruption x severity)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch

from adasap.corruptions import BENCHMARK, NUM_SEVERITIES, VALIDATION, corrupt
from adasap.data import DataSource, ImageSet, evaluation_batches, open_dataset
from adasap.errors import DataError


class Suite(Protocol):
    """A named set of cells; every cell holds the same number of images in the same order."""

    @property
    def name(self) -> str:
        """What results are filed under."""

    def cells(self) -> Iterator[tuple[str, Iterable[Any]]]:
        """Cell name and its raw batches, one cell after the other."""


@dataclass(frozen=True)
class SuiteSource:
    """Where a suite comes from.

    Attributes:
        kind: `images` (a data set as it is), `corrupted` (the data set, corrupted on the fly), or
            `corruption_arrays` (an npz of `labels` and per corruption uint8 [5, N, H, W, 3]).
        data: The data set, for `images` and `corrupted`; default the run's own test data.
        path: The npz file, for `corruption_arrays`.
        corruptions: `benchmark` (the 15 that are reported), `validation` (the 4 for choices), or names.
        severities: Which severities.
    """

    kind: Literal["images", "corrupted", "corruption_arrays"]
    data: DataSource | None = None
    path: str | None = None
    corruptions: Literal["benchmark", "validation"] | tuple[str, ...] = "benchmark"
    severities: tuple[int, ...] = tuple(range(1, NUM_SEVERITIES + 1))

    def names(self) -> tuple[str, ...]:
        """The corruptions by name."""
        sets = {"benchmark": BENCHMARK, "validation": VALIDATION}
        return sets[self.corruptions] if isinstance(self.corruptions, str) else tuple(self.corruptions)


@dataclass(frozen=True)
class ImageSuite:
    """One cell: a data set as it is."""

    name: str
    images: ImageSet
    batch_size: int = 500

    def cells(self) -> Iterator[tuple[str, Iterable[Any]]]:
        yield "clean", evaluation_batches(self.images, self.batch_size)


@dataclass(frozen=True)
class CorruptedSuite:
    """A data set under corruptions computed on the fly; image i is drawn with seed i."""

    name: str
    images: ImageSet
    source: SuiteSource
    batch_size: int = 500

    def cells(self) -> Iterator[tuple[str, Iterable[Any]]]:
        for corruption in self.source.names():
            for severity in self.source.severities:
                yield f"{corruption}/{severity}", self._batches(corruption, severity)

    def _batches(self, corruption: str, severity: int) -> Iterator[Any]:
        start = 0
        for images, labels in evaluation_batches(self.images, self.batch_size):
            seeds = torch.arange(start, start + len(labels))
            yield corrupt(images, corruption, severity, seeds=seeds), labels
            start += len(labels)


@dataclass(frozen=True)
class ArraySuite:
    """Corrupted images that lie on disk as arrays, one per corruption."""

    name: str
    arrays: dict[str, np.ndarray]
    severities: tuple[int, ...]
    labels: torch.Tensor
    names: tuple[str, ...] = field(default=())

    def cells(self) -> Iterator[tuple[str, Iterable[Any]]]:
        for corruption in self.names:
            for severity in self.severities:
                images = torch.from_numpy(self.arrays[corruption][severity - 1]).permute(0, 3, 1, 2)
                yield f"{corruption}/{severity}", [(images, self.labels)]


def open_suite(name: str, source: SuiteSource, test: ImageSet | None = None) -> Suite:
    """Opens a suite; raises DataError before any evaluation when something is missing."""
    if source.kind == "corruption_arrays":
        return _open_arrays(name, source)
    images = open_dataset(source.data, "test") if source.data is not None else test
    if images is None:
        raise DataError(f"suite {name!r} names no data; give `data:` with a kind and a path")
    if source.kind == "images":
        return ImageSuite(name, images)
    corrupt(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), source.names()[0], 1)  # unknown names fail here
    return CorruptedSuite(name, images, source)


def _open_arrays(name: str, source: SuiteSource) -> ArraySuite:
    if source.path is None or not Path(source.path).is_file():
        raise DataError(f"suite {name!r} wants an npz file at `path:`; {source.path!r} is none")
    with np.load(source.path) as file:
        wanted = ("labels", *source.names())
        missing = [key for key in wanted if key not in file]
        if missing:
            raise DataError(f"{source.path} has no array {missing[0]!r}; it holds: {', '.join(file.files)}")
        arrays = {key: file[key] for key in source.names()}
        labels = torch.from_numpy(file["labels"].astype(np.int64))
    for key, array in arrays.items():
        if array.dtype != np.uint8 or array.shape[:2] != (NUM_SEVERITIES, len(labels)) or array.shape[-1] != 3:
            raise DataError(
                f"{source.path}: {key} is {array.dtype} {list(array.shape)}; "
                f"wanted uint8 [5, {len(labels)}, H, W, 3], severities first"
            )
    return ArraySuite(name, arrays, source.severities, labels, source.names())
