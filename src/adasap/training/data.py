"""What a run trains and is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from adasap.data import Augmentation, DetectionAugmentation, DetectionImages, ImageSet
from adasap.robustness import Suite


@dataclass(frozen=True)
class Data:
    """What a run trains and is measured on.

    Attributes:
        train: Images with labels, or with boxes.
        suites: What is evaluated after each stage; the first is the clean test set.
        example_inputs: One preprocessed image, float [1, C, H, W], for tracing and counting.
        augmentation: Applied to training images only.
    """

    train: ImageSet | DetectionImages
    suites: Sequence[Suite]
    example_inputs: Tensor
    augmentation: Augmentation | DetectionAugmentation = Augmentation()  # noqa: RUF009 - frozen
