"""The batches of an evaluation: every image once, in order, unvaried."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from adasap.data.augmentation import stack_images
from adasap.data.images import ImageSet, InMemoryImages
from adasap.data.stream import Batch, as_it_is
from adasap.errors import AdasapError, DataError


def evaluation_batches(
    dataset: ImageSet,
    batch_size: int,
    *,
    num_workers: int = 0,
    transform: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Batch]:
    """All images in order.

    Args:
        dataset: The images.
        batch_size: Images per batch; the last one may be smaller.
        num_workers: Processes that read images; 0 reads them in this process.
        transform: Applied to each image, uint8 [3, H, W] to uint8 [3, H', W'], such as a `Resizing`.
    Yields:
        Images uint8 [B, 3, H, W] and labels int64 [B].
    Raises:
        DataError: If an image cannot be read or the images of a batch differ in size.

    Example:
        >>> data = InMemoryImages(torch.zeros(5, 3, 4, 4, dtype=torch.uint8), torch.arange(5))
        >>> [labels.tolist() for _, labels in evaluation_batches(data, 2)]
        [[0, 1], [2, 3], [4]]
    """
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; give 1 or more images")
    loader = DataLoader(
        _BatchesInOrder(dataset, batch_size, transform),
        batch_size=None,
        num_workers=num_workers,
        collate_fn=as_it_is,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else the loader takes a number from the global one
    )
    for batch in loader:
        if isinstance(batch, AdasapError):
            raise batch
        yield batch[0], batch[1]


class _BatchesInOrder(Dataset[Batch | AdasapError]):
    def __init__(self, dataset: ImageSet, batch_size: int, transform: Callable[[Tensor], Tensor] | None) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.transform = transform or None

    def __len__(self) -> int:
        return -(-len(self.dataset) // self.batch_size)

    def __getitem__(self, place: int) -> Batch | AdasapError:
        start = place * self.batch_size
        stop = min(start + self.batch_size, len(self.dataset))
        try:
            return self._images(start, stop), self.dataset.labels[start:stop]
        except AdasapError as error:
            return error

    def _images(self, start: int, stop: int) -> Tensor:
        if isinstance(self.dataset, InMemoryImages) and self.transform is None:
            return self.dataset.images[start:stop]
        images = [self.dataset[index][0] for index in range(start, stop)]
        if self.transform is not None:
            images = [self.transform(image) for image in images]
        return stack_images(images, torch.arange(start, stop))
