"""The batches of a detector's evaluation: every image once, in order, each of its own size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from torch import Tensor
from torch.utils.data import Dataset

from adasap.data.evaluation import PreparationTime, read_ahead
from adasap.errors import AdasapError, DataError
from adasap.tasks.detection.data.boxes import DetectionBatch
from adasap.tasks.detection.data.detection_set import DetectionImages

ImageTransform = Callable[[Tensor, int], Tensor]
"""An image uint8 [C, H, W] and its index to an image of the same size."""


def detection_batches(
    dataset: DetectionImages,
    batch_size: int,
    *,
    num_workers: int = 0,
    transform: ImageTransform | None = None,
    spent: PreparationTime | None = None,
) -> Iterator[DetectionBatch]:
    """All images in order.

    Args:
        dataset: The images.
        batch_size: Images per batch; the last one may be smaller.
        num_workers: Processes that read and transform images ahead, one thread each; 0 does it in this process.
        transform: Applied to each image where it is read; boxes stay as they are.
        spent: Is told how long reading and transforming took.
    Raises:
        DataError: If an image cannot be read.

    Example:
        >>> from adasap.tasks.detection.data.shapes import read_shapes
        >>> [len(batch) for batch in detection_batches(read_shapes("test", slice(5)), 2)]
        [2, 2, 1]
    """
    if batch_size < 1 or num_workers < 0:
        raise DataError(f"batch_size is {batch_size}, num_workers {num_workers}; give 1 or more images, 0 or more")
    yield from read_ahead(_DetectionBatchesInOrder(dataset, batch_size, transform), num_workers, spent)


TimedBatch = tuple[DetectionBatch, float, float]
"""A batch, and the seconds that reading and transforming it took."""


class _DetectionBatchesInOrder(Dataset[TimedBatch | AdasapError]):
    def __init__(self, dataset: DetectionImages, batch_size: int, transform: ImageTransform | None) -> None:
        self.dataset, self.batch_size, self.transform = dataset, batch_size, transform

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __getitem__(self, place: int) -> TimedBatch | AdasapError:
        indices = range(place * self.batch_size, min((place + 1) * self.batch_size, len(self.dataset)))
        began = time.perf_counter()
        try:
            pairs = [self.dataset[index] for index in indices]
        except AdasapError as error:
            return error
        read = time.perf_counter()
        images = [image for image, _ in pairs]
        if self.transform is not None:
            images = [self.transform(image, index) for image, index in zip(images, indices, strict=True)]
        batch = DetectionBatch(images, [target for _, target in pairs])
        return batch, read - began, time.perf_counter() - read
