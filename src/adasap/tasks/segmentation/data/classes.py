"""The numbers in masks as those of another data set's or a model's classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adasap.data.classes import match_classes, numbers_used
from adasap.errors import DataError
from adasap.tasks.segmentation.data.segmentation_set import SegmentationImages


def matched_masks(images: Any, reference: Sequence[str], *, where: str, of: str) -> tuple[Any, str]:
    """Images whose masks number the reference's classes, and what is to be said of it; other data sets as they are.

    Where one side has names and the other only the numbers that occur in its masks, numbers are used, and that is said.

    Raises:
        DataError: As `match_classes`, for a class that the reference does not know: any pixel may be of it.

    Example:
        >>> import torch
        >>> image, mask = torch.zeros(3, 1, 3, dtype=torch.uint8), torch.tensor([[0, 1, 255]], dtype=torch.uint8)
        >>> images = SegmentationImages([(image, mask)], ["road", "sky"])
        >>> matched, _ = matched_masks(images, ["sky", "road"], where="data.test", of="data.train")
        >>> matched.classes, matched[0][1]
        (('sky', 'road'), tensor([[  1,   0, 255]], dtype=torch.uint8))
        >>> unnamed = SegmentationImages([(image, mask)], ["0", "1"])
        >>> matched_masks(unnamed, ["sky", "road"], where="data.test", of="data.train")[0].classes
        ('sky', 'road')
    """
    if not isinstance(images, SegmentationImages) or not reference:
        return images, ""
    mine, theirs = _numbers(images.classes), _numbers(reference)
    if (mine is None) != (theirs is None):
        return _by_number(images, reference, mine, theirs, where=where, of=of)
    match = match_classes(reference, images.classes, range(images.num_classes), where=where, of=of)
    return images.renumbered(tuple(reference), match.numbers), match.remark


def _by_number(
    images: SegmentationImages,
    reference: Sequence[str],
    mine: list[int] | None,
    theirs: list[int] | None,
    *,
    where: str,
    of: str,
) -> tuple[SegmentationImages, str]:
    """One side has names: its classes are numbered in their order, and looked up by the other side's numbers."""
    wanted = list(range(len(images.classes))) if mine is None else mine
    places = {number: place for place, number in enumerate(range(len(reference)) if theirs is None else theirs)}
    if beyond := [number for number in wanted if number not in places]:
        raise DataError(
            f"the masks of {where} have the number {beyond[0]}, which is none of the {len(reference)} classes of {of}: "
            f"{', '.join(reference)[:200]}; give `classes` or a classes.txt that names what the numbers are"
        )
    remark = numbers_used(of, where, images.classes) if mine is None else numbers_used(where, of, reference)
    return images.renumbered(tuple(reference), tuple(places[number] for number in wanted)), remark


def _numbers(names: Sequence[str]) -> list[int] | None:
    """The numbers that stand in place of names; None for names."""
    return [int(name) for name in names] if all(name.isascii() and name.isdecimal() for name in names) else None
