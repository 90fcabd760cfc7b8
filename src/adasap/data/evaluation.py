"""The batches of an evaluation: every image once, in order, unvaried."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adasap.data.augmentation import stack_images
from adasap.data.images import ImageSet, InMemoryImages
from adasap.data.stream import Batch, as_it_is
from adasap.errors import AdasapError, DataError

BatchTransform = Callable[[Tensor, Tensor], Tensor]
"""Images uint8 [B, C, H, W] and their indices int64 [B] to images uint8 [B, C, H', W']."""


@dataclass
class PreparationTime:
    """Seconds spent on images, summed over the processes that did it."""

    reading: float = 0.0
    transform: float = 0.0


def evaluation_batches(
    dataset: ImageSet,
    batch_size: int,
    *,
    num_workers: int = 0,
    transform: BatchTransform | None = None,
    spent: PreparationTime | None = None,
) -> Iterator[Batch]:
    """All images in order.

    Args:
        dataset: The images.
        batch_size: Images per batch; the last one may be smaller.
        num_workers: Processes that read and transform images ahead, one thread each; 0 does it in this process.
        transform: Applied to each batch where it is read.
        spent: Is told how long reading and transforming took.
    Yields:
        Images uint8 [B, C, H, W] and labels int64 [B].
    Raises:
        DataError: If an image cannot be read or the images of a batch differ in size.

    Example:
        >>> data = InMemoryImages(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.arange(5))
        >>> [labels.tolist() for _, labels in evaluation_batches(data, 2)]
        [[0, 1], [2, 3], [4]]
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; give 1 or more images")
    if num_workers < 0:
        raise DataError(f"num_workers is {num_workers}; give 0 or more processes")
    batches = _BatchesInOrder(dataset, batch_size, transform)
    for batch in read_ahead(batches, num_workers, spent, pin_memory=torch.cuda.is_available()):
        yield batch[0], batch[1]  # the pinning of memory makes lists of tuples


def read_ahead(
    batches: Dataset[Any], num_workers: int, spent: PreparationTime | None, *, pin_memory: bool = False
) -> Iterator[Any]:
    """The batches in order.

    Args:
        batches: Items are (batch, seconds of reading, seconds of transforming), or an error of ours to be raised.
        num_workers: Processes that read ahead, one thread each; 0 does it in this process.
        spent: Is told how long reading and transforming took.
        pin_memory: Lay batches where a GPU copies them from fast.
    """
    loader = DataLoader(
        batches,
        batch_size=None,
        num_workers=num_workers,
        collate_fn=as_it_is,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # else the loader takes a number from the global one
    )
    for made in loader:
        if isinstance(made, AdasapError):
            raise made
        batch, reading, transforming = made
        if spent is not None:
            spent.reading += reading
            spent.transform += transforming
        yield batch


TimedBatch = tuple[Batch, float, float]
"""A batch, and the seconds that reading and transforming it took."""


class _BatchesInOrder(Dataset[TimedBatch | AdasapError]):
    def __init__(self, dataset: ImageSet, batch_size: int, transform: BatchTransform | None) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.transform = transform

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __getitem__(self, place: int) -> TimedBatch | AdasapError:
        start = place * self.batch_size
        stop = min(start + self.batch_size, len(self.dataset))
        began = time.perf_counter()
        try:
            images = self._images(start, stop)
            read = time.perf_counter()
            if self.transform is not None:
                images = self.transform(images, torch.arange(start, stop))
        except AdasapError as error:
            return error
        return (images, self.dataset.labels[start:stop]), read - began, time.perf_counter() - read

    def _images(self, start: int, stop: int) -> Tensor:
        if isinstance(self.dataset, InMemoryImages):
            return self.dataset.images[start:stop]
        return stack_images([self.dataset[index][0] for index in range(start, stop)], torch.arange(start, stop))
