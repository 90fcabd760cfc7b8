"""Corruptions that add noise pixel by pixel."""

from __future__ import annotations

from torch import Tensor

from adasap.corruptions.draws import normal
from adasap.corruptions.protocol import Constants

GAUSSIAN_STD = {
    "224": (0.08, 0.12, 0.18, 0.26, 0.38),
    "64": (0.04, 0.08, 0.12, 0.15, 0.18),
    "32": (0.04, 0.06, 0.08, 0.09, 0.10),
}


def gaussian_noise(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Adds normal noise of a fixed standard deviation (Hendrycks and Dietterich, 2019)."""
    noise = normal(seeds, "noise", images.shape[1:])
    return (images + GAUSSIAN_STD[constants][severity - 1] * noise).clamp(0, 1)
