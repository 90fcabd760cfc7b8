"""What a set of labelled images is, and the checks that every reader makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from adasap.errors import DataError


class ImageSet(Protocol):
    """Labelled 8-bit colour images, indexed from 0.

    Attributes:
        labels: int64 [N], 0 to num_classes - 1.
        classes: Name of each class; the numbers as text where the source names none.
    """

    labels: Tensor
    classes: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """Number of classes, which may be more than occur in the labels."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Image uint8 [3, H, W] and label."""
        ...


class InMemoryImages:
    """Images of one size, held in memory.

    Args:
        images: uint8 [N, 3, H, W].
        labels: Integers [N].
        classes: Class names; by default "0", "1", ... up to the largest label.
        where: What error messages call the source.
    Raises:
        DataError: On any other shape or type, no image at all, or a label outside the classes.

    Example:
        >>> data = InMemoryImages(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([1, 0]))
        >>> len(data), data.num_classes
        (2, 2)
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        classes: Sequence[str] | None = None,
        *,
        where: str = "the images",
    ) -> None:
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise DataError(
                f"{where}: images are {images.dtype} {list(images.shape)}, wanted torch.uint8 [N, 3, H, W]; "
                f"convert to 8-bit RGB"
            )
        if len(images) == 0:
            raise DataError(f"{where}: no images; check `first`, `count` and the file")
        self.images = images
        self.labels = check_labels(labels, len(images), classes, where=where)
        self.classes = tuple(classes) if classes is not None else _numbered(self.labels)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class SomeImages:
    """Some images of a set, read when they are asked for.

    Args:
        images: The set.
        indices: Which of its images, int64 [n].

    Example:
        >>> all_four = InMemoryImages(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 2, 0]))
        >>> SomeImages(all_four, torch.tensor([1, 3])).labels
        tensor([1, 0])
    """

    def __init__(self, images: ImageSet, indices: Tensor) -> None:
        self.images_of = images
        self.indices = indices
        self.labels = images.labels[indices]
        self.classes = images.classes

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return self.images_of.num_classes

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images_of[int(self.indices[index])]


def check_labels(labels: Tensor, num_images: int, classes: Sequence[str] | None, *, where: str) -> Tensor:
    """The labels as int64 [N], after checking that they are one integer per image and name a class.

    Raises:
        DataError: Names the first label that is out of range, and its image.

    Example:
        >>> check_labels(torch.tensor([0, 2]), 2, ["cat", "dog"], where="pets.npz")
        Traceback (most recent call last):
        ...
        adasap.errors.DataError: pets.npz: label 2 of image 1 is out of range: there are 2 classes, numbered 0
        to 1; correct the labels or the list of classes
    """
    if labels.dtype == torch.bool or labels.is_floating_point() or labels.is_complex() or labels.ndim != 1:
        raise DataError(
            f"{where}: labels are {labels.dtype} {list(labels.shape)}, wanted integers [N]; "
            f"give one class number per image"
        )
    if len(labels) != num_images:
        raise DataError(f"{where}: {num_images} images but {len(labels)} labels; give one label per image, same order")
    labels = labels.to(torch.int64)
    wrong = (labels < 0) if classes is None else (labels < 0) | (labels >= len(classes))
    if wrong.any():
        index = int(wrong.nonzero()[0])
        known = "" if classes is None else f": there are {len(classes)} classes, numbered 0 to {len(classes) - 1}"
        raise DataError(
            f"{where}: label {int(labels[index])} of image {index} is out of range{known}; "
            f"correct the labels or the list of classes"
        )
    return labels


def check_image_size(dataset: ImageSet, wanted: Sequence[int], *, where: str = "the data set") -> None:
    """Checks that the images are as large as the model wants; a folder is judged by its first image.

    Args:
        dataset: The images, after any resizing.
        wanted: The model's input size (channels, height, width).
    Raises:
        DataError: If the sizes differ.
    """
    given = tuple(dataset[0][0].shape)
    if given != tuple(wanted):
        raise DataError(
            f"{where}: images are {given[0]} x {given[1]} x {given[2]} (channels, height, width), the model "
            f"wants "
            f"{' x '.join(map(str, wanted))}; set `resize` and `center_crop`, or the model's `input_size`"
        )


def _numbered(labels: Tensor) -> tuple[str, ...]:
    return tuple(str(number) for number in range(int(labels.max()) + 1))
