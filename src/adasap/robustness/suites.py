"""What a suite is: named cells (clean, shifted, or corruption x severity) of the same images in the same order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from adasap.corruptions import corrupt
from adasap.data import ImageSet, PreparationTime, SomeImages, evaluation_batches, sample_indices
from adasap.errors import DataError


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
    def outputs(self) -> Tensor | None:
        """Which label each output of the model answers, int64 [outputs], -1 for none; None if they are the labels."""

    def cell_names(self) -> tuple[str, ...]:
        """The cells in their order: `clean`, or `corruption/severity`."""

    def batches(self, cell: str, device: torch.device, loading: Loading, spent: PreparationTime) -> Iterable[Any]:
        """Raw batches of a cell, as the task prepares them, anywhere; `spent` is told how long making them took."""


@dataclass(frozen=True)
class Cell:
    """Images, as they are or corrupted on the fly.

    Attributes:
        images: The images.
        corruption: None leaves them as they are.
        severity: 1 to 5.
        seeds: int64 [N], what each image's draws follow from; by default its index.
    """

    images: ImageSet
    corruption: str | None = None
    severity: int = 0
    seeds: Tensor | None = None

    def corrupted(self, images: Tensor, indices: Tensor) -> Tensor:
        """Images uint8 [B, 3, H, W] under the cell's corruption, on their device."""
        if self.corruption is None:
            return images
        seeds = indices if self.seeds is None else self.seeds[indices]
        return corrupt(images, self.corruption, self.severity, seeds=seeds)

    def sampled(self, indices: Tensor) -> Cell:
        """Some of the images, each with the draws that it has among all."""
        seeds = indices if self.seeds is None else self.seeds[indices]
        return replace(self, images=SomeImages(self.images, indices), seeds=seeds)


@dataclass(frozen=True)
class ImageSuite:
    """Labelled images in cells.

    Attributes:
        name: What results are filed under.
        cell_of: Cell name -> images.
        outputs: Which label each output of the model answers, int64 [outputs], -1 for none; None for label = output.
        num_outputs: Outputs that a model must have; None asks for no more than an output for each label.
        record: What a result says about the suite: layout, preprocessing, counts; ready for JSON.
    """

    name: str
    cell_of: Mapping[str, Cell]
    outputs: Tensor | None = None
    num_outputs: int | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def images(self) -> ImageSet:
        """The images of the first cell; labels are the same in all."""
        return next(iter(self.cell_of.values())).images

    @property
    def labels(self) -> Tensor:
        """int64 [N]."""
        return self.images.labels

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width, judged by the first image."""
        return tuple(self.images[0][0].shape)

    def cell_names(self) -> tuple[str, ...]:
        return tuple(self.cell_of)

    def images_per_batch(self, loading: Loading) -> int:
        """The batch size."""
        return loading.images_per_batch(self.image_shape)

    def content(self) -> list[Tensor]:
        """All labels, and four images of each cell: what an evaluation is bound to."""
        samples = [self.labels]
        for cell in {id(cell.images): cell for cell in self.cell_of.values()}.values():
            places = sorted({place * (len(cell.images) - 1) // 3 for place in range(4)})
            samples += [cell.images[place][0] for place in places]
        return samples

    def batches(
        self, cell: str, device: torch.device, loading: Loading, spent: PreparationTime
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 [B, 3, H, W] and labels int64 [B]; corrupted on the device where that is a GPU."""
        source, size = self.cell_of[cell], loading.images_per_batch(self.image_shape)
        ahead = source.corrupted if source.corruption is not None and device.type == "cpu" else None
        start = 0
        for images, labels in evaluation_batches(
            source.images, size, num_workers=loading.num_workers, transform=ahead, spent=spent
        ):
            if ahead is None and source.corruption is not None:
                images = source.corrupted(images.to(device), torch.arange(start, start + len(labels)))
            yield images, labels
            start += len(labels)

    def sampled(self, count: int, *, seed: int) -> ImageSuite:
        """A sample of the images without replacement, the same in every cell; all of them if there are no more."""
        if count >= len(self.labels):
            return self
        indices = sample_indices(len(self.labels), count, seed=seed)
        cells = {name: cell.sampled(indices) for name, cell in self.cell_of.items()}
        return replace(self, cell_of=cells, record={**self.record, "sampled": count, "sample_seed": seed})


def check_suite(suite: ImageSuite, *, input_size: Sequence[int], num_outputs: int) -> None:
    """Checks that a model can be scored on a suite.

    Args:
        suite: What is to be evaluated.
        input_size: The model's channels, height and width.
        num_outputs: Classes that the model can answer with.
    Raises:
        DataError: For images of another size, a label without an output, or outputs that cannot be the suite's.
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
    largest = int(suite.labels.max())
    if suite.outputs is None and largest >= num_outputs:
        raise DataError(
            f"suite {suite.name!r}: label {largest} of image {int(suite.labels.argmax())} is out of range: the model "
            f"has {num_outputs} outputs, numbered 0 to {num_outputs - 1}; correct the labels, or give a model of as "
            "many classes"
        )
