"""Suites: named sets of evaluation cells (clean, shifted, or corruption x severity)."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Sequence
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

    @property
    def labels(self) -> torch.Tensor:
        """int64 [N], the same in every cell."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width, judged by the first image."""

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

    @property
    def labels(self) -> torch.Tensor:
        return self.images.labels

    @property
    def image_shape(self) -> tuple[int, ...]:
        return tuple(self.images[0][0].shape)

    def cells(self) -> Iterator[tuple[str, Iterable[Any]]]:
        yield "clean", evaluation_batches(self.images, self.batch_size)


@dataclass(frozen=True)
class CorruptedSuite(ImageSuite):
    """A data set under corruptions computed on the fly; image i is drawn with seed i."""

    source: SuiteSource = field(kw_only=True)

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

    @property
    def image_shape(self) -> tuple[int, ...]:
        height, width, channels = self.arrays[self.names[0]].shape[2:]
        return channels, height, width

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
    return CorruptedSuite(name, images, source=source)


def check_suite(suite: Suite, *, input_size: Sequence[int], num_outputs: int) -> None:
    """Checks that a model can be scored on a suite.

    Args:
        suite: What is to be evaluated.
        input_size: The model's channels, height and width.
        num_outputs: Classes that the model can answer with.
    Raises:
        DataError: For images of another size, or a label without an output.
    """
    if suite.image_shape != tuple(input_size):
        raise DataError(
            f"suite {suite.name!r}: images are {' x '.join(map(str, suite.image_shape))} (channels, height, width), "
            f"the model wants {' x '.join(map(str, input_size))}; set `resize` and `center_crop` of its data, or give "
            "the model's input size (`model.input_size` in a recipe, `--size` on the command line)"
        )
    largest = int(suite.labels.max())
    if largest >= num_outputs:
        raise DataError(
            f"suite {suite.name!r}: label {largest} of image {int(suite.labels.argmax())} is out of range: the model "
            f"has {num_outputs} outputs, numbered 0 to {num_outputs - 1}; correct the labels, or give a model of as "
            "many classes"
        )


def _open_arrays(name: str, source: SuiteSource) -> ArraySuite:
    if source.path is None or not Path(source.path).is_file():
        raise DataError(f"suite {name!r} wants an npz file at `path:`; {source.path!r} is none")
    with _npz(source.path) as file:
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


def _npz(path: str) -> Any:
    try:
        file = np.load(path, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as an npz file ({error}); write one with numpy.savez") from error
    if not isinstance(file, np.lib.npyio.NpzFile):
        raise DataError(f"{path} holds a single array, not an npz archive; write one with numpy.savez")
    return file
