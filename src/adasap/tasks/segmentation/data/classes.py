"""The numbers in masks as those of another data set's or a model's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adasap.data.classes import match_classes
from adasap.tasks.segmentation.data.segmentation_set import SegmentationImages


def matched_masks(images: Any, reference: Sequence[str], *, where: str, of: str) -> tuple[Any, str]:
    """Images whose masks number the reference's classes, and what is to be said of it; other data sets as they are.

    Raises:
        DataError: As `match_classes`, for a class that the reference does not know: any pixel may be of it.

    Example:
        >>> import torch
        >>> image, mask = torch.zeros(3, 1, 3, dtype=torch.uint8), torch.tensor([[0, 1, 255]], dtype=torch.uint8)
        >>> images = SegmentationImages([(image, mask)], ["road", "sky"])
        >>> matched, _ = matched_masks(images, ["sky", "road"], where="data.test", of="data.train")
        >>> matched.classes, matched[0][1]
        (('sky', 'road'), tensor([[  1,   0, 255]], dtype=torch.uint8))
    """
    if not isinstance(images, SegmentationImages) or not reference:
        return images, ""
    match = match_classes(reference, images.classes, range(images.num_classes), where=where, of=of)
    return images.renumbered(tuple(reference), match.numbers), match.remark
