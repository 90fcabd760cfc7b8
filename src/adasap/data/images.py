"""What a set of labelled images is, and the checks that every reader makes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from adasap.errors import DataError

MOST_CLASSES = 100_000
"""Labels above it are refused: ImageNet's largest edition has 21,841 classes."""


class ImageSet(Protocol):
    """Labelled 8-bit images, indexed from 0.

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
        """Image uint8 [C, H, W] and label."""
        ...


def is_image_set(dataset: object) -> bool:
    """Whether a data set is one of 8-bit images with labels that are known without reading the images."""
    known = isinstance(getattr(dataset, "labels", None), Tensor) and hasattr(dataset, "num_classes")
    return known and hasattr(dataset, "classes")


class InMemoryImages:
    """Images of one size, held in memory.

    Args:
        images: uint8 [N, C, H, W].
        labels: Integers [N].
        classes: Class names; by default "0", "1", ... up to the largest label.
        where: What error messages call the source.
    Attributes:
        named: Whether the classes have names, and not only numbers.
        remarks: What was passed over or done when the set was opened, a sentence for each.
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
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] < 1:
            raise DataError(
                f"{where}: images are {images.dtype} {list(images.shape)}, wanted torch.uint8 [N, C, H, W]; "
                f"convert to 8 bits, channels second"
            )
        if images.shape[3] <= 4 < images.shape[1]:
            raise DataError(
                f"{where}: images are {list(images.shape)}, which looks like [N, H, W, C]; wanted [N, C, H, W]: "
                "permute(0, 3, 1, 2)"
            )
        if len(images) == 0:
            raise DataError(f"{where}: no images; check `first`, `count` and the file")
        if images.numel() == 0:
            raise DataError(f"{where}: images are {list(images.shape)}, without a pixel; give a height and a width")
        self.named = classes is not None
        self.remarks: tuple[str, ...] = ()
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


class ImagesOf:
    """Images of another set, with its labels and classes; derive from it and say in `__getitem__` what is done to each.

    Args:
        images: The set.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images_before = images
        self.labels, self.classes = images.labels, images.classes
        self.named, self.remarks = class_names(images) is not None, remarks_of(images)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images_before[index][0], int(self.labels[index])


class SomeImages(ImagesOf):
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
        super().__init__(images)
        self.indices, self.labels = indices, images.labels[indices]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images_before[int(self.indices[index])][0], int(self.labels[index])


def class_names(images: ImageSet) -> tuple[str, ...] | None:
    """The class names of a data set, or None if its classes have only numbers.

    A set says so with its attribute `named`; without one, names that are the numbers 0, 1, ... are none.

    Example:
        >>> pixels = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
        >>> class_names(InMemoryImages(pixels, torch.tensor([0, 1]), ["cat", "dog"]))
        ('cat', 'dog')
        >>> class_names(InMemoryImages(pixels, torch.tensor([0, 1])))
    """
    numbers = all(name == str(number) for number, name in enumerate(images.classes))
    return tuple(images.classes) if getattr(images, "named", not numbers) else None


def remarks_of(images: ImageSet) -> tuple[str, ...]:
    """What was passed over or done when a data set was opened, a sentence for each; sets of other kinds have none."""
    return tuple(getattr(images, "remarks", ()))


class ChannelImages(ImagesOf):
    """Images brought to a number of channels when they are asked for: colour to grey by luma, grey repeated.

    Args:
        images: Images of 1 or 3 channels, or of those that are wanted.
        channels: What is wanted.

    Example:
        >>> red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)
        >>> ChannelImages(InMemoryImages(red, torch.tensor([0])), 1)[0][0]
        tensor([[[76]]], dtype=torch.uint8)
    """

    def __init__(self, images: ImageSet, channels: int) -> None:
        super().__init__(images)
        self.channels, self.remarks = channels, (*self.remarks, _CHANGE[channels])

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.images_before[index]
        return with_channels(image, self.channels), label


_CHANGE = {
    1: "read as grey, for a model of one channel: colour becomes 0.299 R + 0.587 G + 0.114 B",
    3: "read as colour, for a model of three channels: grey is repeated",
}


def require_channels(given: int, wanted: int, *, where: str) -> None:
    """Checks that images of so many channels can be brought to those that are wanted.

    Raises:
        DataError: Unless they are equal, or grey (1) and colour (3).
    """
    if given != wanted and {given, wanted} != {1, 3}:
        raise DataError(
            f"{where}: images have {given} channels, the model wants {wanted}; only grey (1) and colour (3) become "
            "each other: correct the model's `input_size`, or store the images with as many channels in an npz"
        )


def with_channels(image: Tensor, channels: int) -> Tensor:
    """An image uint8 [C, H, W] with so many channels.

    Grey is 0.299 R + 0.587 G + 0.114 B, rounded (the luma of ITU-R BT.601, as Pillow computes it), colour from grey is
    the same value three times.

    Raises:
        DataError: For other numbers of channels that differ.
    """
    require_channels(image.shape[0], channels, where="the images")
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return image.expand(3, -1, -1).contiguous()
    red, green, blue = image.to(torch.int32)
    grey: Tensor = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return grey.to(torch.uint8)[None]


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
    wrong = (labels < 0) | (labels >= (MOST_CLASSES if classes is None else len(classes)))
    if wrong.any():
        index = int(wrong.nonzero()[0])
        known = f": at most {MOST_CLASSES:,} classes are read, numbered from 0"
        if classes is not None:
            known = f": there are {len(classes)} classes, numbered 0 to {len(classes) - 1}"
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
