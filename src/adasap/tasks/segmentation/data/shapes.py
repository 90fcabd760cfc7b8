"""Coloured shapes on textured grounds with their masks: drawn here, the same for everybody, for tests and the demo."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from adasap.errors import DataError
from adasap.tasks.detection.data.shapes import NUM_IMAGES, SHAPES, draw_scene
from adasap.tasks.segmentation.data.segmentation_set import IGNORED, SegmentationImages

SHAPE_CLASSES = ("ground", *SHAPES)
"""Names of the classes 0 to 3."""


def read_shape_masks(split: Literal["train", "test"], part: slice = slice(None)) -> SegmentationImages:
    """The images of `read_shapes`, 96 x 96 pixels, with the class of each pixel; faint shapes are ignored.

    A pixel belongs to a shape that covers at least half of it.

    Args:
        split: `train` (512 images) or `test` (200).
        part: Which of them.

    Example:
        >>> image, mask = read_shape_masks("test", slice(1))[0]
        >>> image.shape, mask.shape, sorted(mask.unique().tolist())
        (torch.Size([3, 96, 96]), torch.Size([96, 96]), [0, 2])
    """
    indices = range(NUM_IMAGES[split])[part]
    if not indices:
        raise DataError(f"shapes, split {split}: no images in this part; correct `first` and `count`")
    drawn = [_drawn(split, index) for index in indices]
    names = [str(index) for index in indices]
    return SegmentationImages(drawn, SHAPE_CLASSES, names, where=f"shapes, split {split}")


def _drawn(split: Literal["train", "test"], index: int) -> tuple[Tensor, Tensor]:
    scene = draw_scene(split, index)
    mask = torch.zeros(scene.image.shape[1:], dtype=torch.uint8)
    for label, cover, difficult in zip(scene.labels, scene.covers, scene.difficult, strict=True):
        mask[cover >= 0.5] = IGNORED if difficult else label
    return scene.image, mask
