"""The demo's data: scikit-learn's 1,797 handwritten digits, drawn up to 32 x 32 RGB."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.data.images import InMemoryImages
from adasap.errors import DataError


def read_digits(split: Literal["train", "test"]) -> InMemoryImages:
    """Handwritten digits as 32 x 32 grey images with three equal channels.

    Every fourth image of each class, in scikit-learn's order, is a test image: 1,352 to train on, 445 to
    test on.

    Raises:
        DataError: If scikit-learn is not installed.

    Example:
        >>> digits = read_digits("test")
        >>> digits.images.shape, digits.num_classes
        (torch.Size([445, 3, 32, 32]), 10)
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError("the digits come with scikit-learn; install it: pip install 'adasap[demo]'") from error
    bunch = load_digits()
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    chosen = is_test_image(labels) if split == "test" else ~is_test_image(labels)
    images = upscale(torch.from_numpy(bunch.images))
    return InMemoryImages(images[chosen], labels[chosen], [str(digit) for digit in range(10)], where="digits")


def is_test_image(labels: Tensor) -> Tensor:
    """Every fourth image of each class, bool [N]: no random numbers, and each class is split alike."""
    place_in_class = torch.zeros_like(labels)
    for label in range(int(labels.max()) + 1):
        mine = labels == label
        place_in_class[mine] = torch.arange(int(mine.sum()))
    return place_in_class % 4 == 3


def upscale(images: Tensor) -> Tensor:
    """Grey images [N, 8, 8] of values 0 to 16 to uint8 [N, 3, 32, 32], bilinear.

    In float64 every weight and product is exact, so all machines round to the same pixels.
    """
    large = F.interpolate(images.double()[:, None], scale_factor=4, mode="bilinear", align_corners=False)
    return (large * 255 / 16).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
