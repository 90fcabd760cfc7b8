"""Blur from zooming while the shutter is open."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.corruptions.protocol import Constants

STOP_AND_STEP = {
    "224": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    "64": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    "32": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
}


def zoom_factors(stop: float, step: float) -> list[float]:
    """Factors from 1 in steps up to `stop`, which is itself one where float64 arithmetic counts a step more.

    Example:
        >>> [round(factor, 2) for factor in zoom_factors(1.06, 0.02)]
        [1.0, 1.02, 1.04, 1.06]
    """
    exact_step = (1 + step) - 1  # the benchmark's factors come from np.arange, which steps and counts so
    return [1 + number * exact_step for number in range(math.ceil((stop - 1) / step))]


def centre_zoom(images: Tensor, factor: float) -> Tensor:
    """The middle of each image, enlarged bilinearly to its old size: float [N, C, H, W] to the same.

    The crop's corner pixels become the enlarged image's corner pixels, as in SciPy's `zoom`. That image may be a pixel
    larger than wanted; the benchmark cuts that pixel off at the bottom and right.
    """
    sides = images.shape[-2:]
    crops = [math.ceil(side / factor) for side in sides]
    top, left = ((side - crop) // 2 for side, crop in zip(sides, crops, strict=True))
    enlarged = F.interpolate(
        images[:, :, top : top + crops[0], left : left + crops[1]],
        size=[round(crop * factor) for crop in crops],
        mode="bilinear",
        align_corners=True,
    )
    return enlarged[:, :, : sides[0], : sides[1]]


def zoom_blur(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Mean of the image and of its enlarged middles (Hendrycks and Dietterich, 2019)."""
    factors = zoom_factors(*STOP_AND_STEP[constants][severity - 1])
    images = images.contiguous(memory_format=torch.channels_last)  # `interpolate` is a third faster on it
    total = images.clone()
    for factor in factors:
        total += centre_zoom(images, factor)
    return total.div_(len(factors) + 1).clamp_(0, 1)
