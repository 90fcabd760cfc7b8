"""mIoU under corruption: clean, corrupted, and their ratio (Kamann and Rother, 2020, arXiv:1908.05005)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adasap.corruptions import BENCHMARK
from adasap.evaluation.cells import Cell
from adasap.evaluation.metrics import AccuracyRatio, cell_accuracies, mean_corrupted_accuracy

MOVES_PIXELS = {
    "elastic_transform": "warps the image by up to a few pixels",
    "glass_blur": "exchanges pixels with neighbours a few pixels away",
    "motion_blur": "smears to one side, so that edges move with it",
    "zoom_blur": "adds enlarged copies, in which all but the middle lies further out",
}
"""Corruptions after which things lie elsewhere than their masks say, which stay as they are, and how."""

ON_THE_FLY = "on the fly: 8-bit images at their own size, seeded by the index of the image; masks as they were"


def segmentation_performance(
    clean: Mapping[str, float],
    corrupted: Mapping[Cell, Mapping[str, float]],
    corruptions: Sequence[str] = BENCHMARK,
    *,
    metric: str = "miou",
) -> AccuracyRatio:
    """Mean corrupted mIoU, the mean over severities and then corruptions, and its ratio to the clean one.

    Args:
        clean: Metrics of the clean cell.
        corrupted: Cell -> metrics.
        corruptions: Which of them count.
        metric: Such as `miou` or `boundary_f`.
    Raises:
        ArgumentError: For a corruption that is missing, severities that differ, or a clean value of 0.

    Example:
        >>> fog = {Cell("fog", 1): {"miou": 0.2}, Cell("fog", 2): {"miou": 0.1}}
        >>> print(segmentation_performance({"miou": 0.5}, fog, ["fog"]))
        0.300 (15.00 % / 50.00 %)
    """
    return AccuracyRatio(mean_corrupted_accuracy(cell_accuracies(corrupted, metric), corruptions), clean[metric])


def corruption_record(corruptions: Sequence[str]) -> dict[str, Any]:
    """What a result says about its corruptions: how they are made, and which of them move pixels.

    Example:
        >>> corruption_record(["fog", "zoom_blur"])["moves_pixels"]
        {'zoom_blur': 'adds enlarged copies, in which all but the middle lies further out'}
    """
    moving = {name: MOVES_PIXELS[name] for name in corruptions if name in MOVES_PIXELS}
    return {"corruptions": ON_THE_FLY, "moves_pixels": moving}
