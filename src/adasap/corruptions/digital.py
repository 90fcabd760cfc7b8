"""Corruptions of colour, contrast and coding."""

from __future__ import annotations

from torch import Tensor

from adasap.corruptions.protocol import Constants

CONTRAST_FACTOR = {
    "224": (0.4, 0.3, 0.2, 0.1, 0.05),
    "64": (0.4, 0.3, 0.2, 0.1, 0.05),
    "32": (0.75, 0.5, 0.4, 0.3, 0.15),
}


def contrast(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Pulls every pixel towards the image's mean colour."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return ((images - mean) * CONTRAST_FACTOR[constants][severity - 1] + mean).clamp(0, 1)
