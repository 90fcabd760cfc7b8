"""What a suite is: named cells (clean, shifted, or corruption x severity) of the same images in the same order."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adasap.corruptions import corrupt
from adasap.data import ImageSet, PreparationTime, SomeImages, evaluation_batches, sample_indices
from adasap.data.items import Samples, content_of, read_items
from adasap.data.stream import as_it_is
from adasap.errors import AdasapError, DataError
from adasap.evaluation.cells import CLEAN, Cell
from adasap.evaluation.evaluator import BatchingTask


@dataclass(frozen=True)
class Loading:
    """How batches are made; none of it changes an image.

    Attributes:
        batch_size: Images per batch; None takes 500 up to a side of 64 pixels and 50 above.
        num_workers: Processes that decode and corrupt the batches ahead; 0 does it in this process.
    """

    batch_size: int | None = None
    num_workers: int = 0

    def images_per_batch(self, image_shape: Sequence[int]) -> int:
        """The batch size for images of [C, H, W]."""
        return self.batch_size or (500 if max(image_shape[-2:]) <= 64 else 50)


class Suite(Protocol):
    """A named set of cells; every cell holds the same number of images in the same order."""

    @property
    def name(self) -> str:
        """What results are filed under."""

    @property
    def images(self) -> Any:
        """The data set of the first cell."""

    @property
    def outputs(self) -> Tensor | None:
        """Which label each output of the model answers, int64 [outputs], -1 for none; None if they are the labels."""

    @property
    def record(self) -> Mapping[str, Any]:
        """What a result says about the suite, ready for JSON: `kind`, `images`, `published_images` and more."""

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lines for whoever reads the results."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells in their order."""

    def images_per_batch(self, loading: Loading) -> int:
        """The batch size, which numbers may depend on."""

    def sampled(self, count: int, *, seed: int) -> Suite:
        """A sample of the images, the same in every cell."""

    def content(self) -> list[Tensor]:
        """Labels and some images: what an evaluation is bound to."""

    def batches(self, cell: Cell, device: torch.device, loading: Loading, spent: PreparationTime) -> Iterable[Any]:
        """Raw batches of a cell, as the task prepares them, anywhere; `spent` is told how long making them took."""


@dataclass(frozen=True)
class CellImages:
    """The images of a cell: as they lie there, or corrupted on the fly.

    Attributes:
        images: The images.
        on_the_fly: What is done to them when they are read; the clean cell leaves them as they are.
        seeds: int64 [N], what each image's draws follow from; by default its index.
    """

    images: ImageSet
    on_the_fly: Cell = CLEAN
    seeds: Tensor | None = None

    def corrupted(self, images: Tensor, indices: Tensor) -> Tensor:
        """Images uint8 [B, C, H, W] with what is done on the fly, on their device."""
        if self.on_the_fly.is_clean:
            return images
        seeds = indices if self.seeds is None else self.seeds[indices]
        return corrupt(images, self.on_the_fly.corruption, self.on_the_fly.severity, seeds=seeds)

    def sampled(self, indices: Tensor) -> CellImages:
        """Some of the images, each with the draws that it has among all."""
        seeds = indices if self.seeds is None else self.seeds[indices]
        return replace(self, images=SomeImages(self.images, indices), seeds=seeds)


@dataclass(frozen=True)
class ImageSuite:
    """Labelled images in cells.

    Attributes:
        name: What results are filed under.
        images_of: Cell -> its images.
        outputs: Which label each output of the model answers, int64 [outputs], -1 for none; None for label = output.
        num_outputs: Outputs that a model must have; None asks for no more than an output for each label.
        record: What a result says about the suite: layout, preprocessing, counts; ready for JSON.
        remarks: Lines for whoever reads the results: how classes were matched, what was passed over.
    """

    name: str
    images_of: Mapping[Cell, CellImages]
    outputs: Tensor | None = None
    num_outputs: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()

    @property
    def images(self) -> ImageSet:
        """The images of the first cell; labels are the same in all."""
        return next(iter(self.images_of.values())).images

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return self.images.labels

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width, judged by the first image."""
        return tuple(self.images[0][0].shape)

    @property
    def cells(self) -> tuple[Cell, ...]:
        return tuple(self.images_of)

    def images_per_batch(self, loading: Loading) -> int:
        """The batch size."""
        return loading.images_per_batch(self.image_shape)

    def content(self) -> list[Tensor]:
        """All labels, and four images of each cell: what an evaluation is bound to."""
        samples = [self.labels]
        for images in {id(cell.images): cell.images for cell in self.images_of.values()}.values():
            places = sorted({place * (len(images) - 1) // 3 for place in range(4)})
            samples += [images[place][0] for place in places]
        return samples

    def batches(
        self, cell: Cell, device: torch.device, loading: Loading, spent: PreparationTime
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [B, C, H, W] and labels int64 [B]; corrupted on the device where that is a GPU."""
        source, size = self.images_of[cell], loading.images_per_batch(self.image_shape)
        ahead = source.corrupted if not source.on_the_fly.is_clean and device.type == "cpu" else None
        start = 0
        for images, labels in evaluation_batches(
            source.images, size, num_workers=loading.num_workers, transform=ahead, spent=spent
        ):
            if ahead is None and not source.on_the_fly.is_clean:
                images = source.corrupted(images.to(device), torch.arange(start, start + len(labels)))
            yield images, labels
            start += len(labels)

    def sampled(self, count: int, *, seed: int) -> ImageSuite:
        """A sample of the images without replacement, the same in every cell; all of them if there are no more."""
        if count >= len(self.labels):
            return self
        indices = sample_indices(len(self.labels), count, seed=seed)
        cells = {cell: images.sampled(indices) for cell, images in self.images_of.items()}
        return replace(self, images_of=cells, record={**self.record, "sampled": count, "sample_seed": seed})


@dataclass(frozen=True)
class DatasetSuite:
    """Any map-style data set in cells: as it is, or its 8-bit images corrupted on the fly, targets as they are.

    Attributes:
        name: What results are filed under.
        images: The data set; its items are (image, target).
        task: Puts items together to batches and corrupts them.
        cells: In their order.
        indices: Which items, int64 [N]; None takes all. An item's draws follow from its index in the whole set.
        record: What a result says about the suite; ready for JSON.
        remarks: Lines for whoever reads the results.
    """

    name: str
    images: Samples
    task: BatchingTask[Any]
    cells: tuple[Cell, ...] = (CLEAN,)
    indices: Tensor | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    outputs: Tensor | None = field(default=None, init=False)
    """Labels are those of the data: no mapping."""

    def images_per_batch(self, loading: Loading) -> int:
        """The batch size; 32 by default."""
        return loading.batch_size or 32

    def batches(self, cell: Cell, device: torch.device, loading: Loading, spent: PreparationTime) -> Iterator[Any]:
        """What `task.collate` gives; corrupted on the device where that is a GPU.

        Raises:
            DataError: If an item cannot be read, or is not of 8 bits and is to be corrupted.
        """
        ahead = device.type == "cpu"
        size = self.images_per_batch(loading)
        loader = DataLoader(
            _BatchesOfItems(self, size, cell if ahead else CLEAN),
            batch_size=None,
            num_workers=loading.num_workers,
            collate_fn=as_it_is,
            generator=torch.Generator(),  # else the loader takes a number from the global one
        )
        for made in loader:
            if isinstance(made, AdasapError):
                raise made
            batch, seeds, reading, transforming = made
            spent.reading += reading
            spent.transform += transforming
            if not (ahead or cell.is_clean):
                batch = self.task.corrupt(batch, cell.corruption, cell.severity, seeds)
            yield batch

    def all_indices(self) -> Tensor:
        """Which items of the data set, int64 [N]."""
        return torch.arange(len(self.images)) if self.indices is None else self.indices

    def sampled(self, count: int, *, seed: int) -> DatasetSuite:
        """A sample without replacement, the same in every cell; all items if there are no more."""
        indices = self.all_indices()
        if count >= len(indices):
            return self
        record = {**self.record, "sampled": count, "sample_seed": seed}
        return replace(self, indices=indices[sample_indices(len(indices), count, seed=seed)], record=record)

    def content(self) -> list[Tensor]:
        """What the data set is known by, and which items are taken."""
        return [*content_of(self.images), self.all_indices()]


class _BatchesOfItems(Dataset[Any]):
    def __init__(self, suite: DatasetSuite, batch_size: int, cell: Cell) -> None:
        self.suite, self.parts, self.cell = suite, torch.split(suite.all_indices(), batch_size), cell

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, place: int) -> tuple[Any, Tensor, float, float] | AdasapError:
        indices, cell = self.parts[place], self.cell
        began = time.perf_counter()
        try:
            batch = self.suite.task.collate(read_items(self.suite.images, indices))
            read = time.perf_counter()
            if not cell.is_clean:
                batch = self.suite.task.corrupt(batch, cell.corruption, cell.severity, indices)
        except AdasapError as error:
            return error
        return batch, indices, read - began, time.perf_counter() - read


def check_suite(suite: ImageSuite, *, input_size: Sequence[int], num_outputs: int) -> None:
    """Checks that a model can be scored on a suite.

    Args:
        suite: What is to be evaluated.
        input_size: The model's channels, height and width.
        num_outputs: Classes that the model can answer with.
    Raises:
        DataError: For images of another size, a label without a class or output, or outputs that cannot be the suite's.
    """
    if suite.image_shape != tuple(input_size):
        raise DataError(
            f"suite {suite.name!r}: images are {' x '.join(map(str, suite.image_shape))} (channels, height, width), "
            f"the model wants {' x '.join(map(str, input_size))}; set `resize` and `center_crop` of its data "
            "(`--resize` and `--center-crop` on the command line), or give the model's input size "
            "(`model.input_size` in a recipe, `--size` on the command line)"
        )
    if suite.num_outputs is not None and suite.num_outputs != num_outputs:
        raise DataError(
            f"suite {suite.name!r} numbers its classes for a model with {suite.num_outputs} outputs, this one has "
            f"{num_outputs}; give a model trained on those classes, or another suite"
        )
    largest, classes = int(suite.labels.max()), len(suite.images.classes)
    if suite.outputs is None and largest >= min(num_outputs, classes):
        known = f"the model has {num_outputs} outputs, numbered 0 to {num_outputs - 1}"
        if largest < num_outputs:
            known = f"there are {classes} classes, numbered 0 to {classes - 1}"
        raise DataError(
            f"suite {suite.name!r}: label {largest} of image {int(suite.labels.argmax())} is out of range: {known}; "
            "correct the labels, or give a model of as many classes"
        )
