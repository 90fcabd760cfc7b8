"""Corruptions that add noise pixel by pixel."""

from __future__ import annotations

import torch
from torch import Tensor

from adasap.corruptions.protocol import Constants, draw_per_image

GAUSSIAN_STD = {
    "224": (0.08, 0.12, 0.18, 0.26, 0.38),
    "64": (0.04, 0.08, 0.12, 0.15, 0.18),
    "32": (0.04, 0.06, 0.08, 0.09, 0.10),
}


def gaussian_noise(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Adds normal noise of a fixed standard deviation (Hendrycks and Dietterich, 2019)."""
    noise = draw_per_image(images, seeds, torch.randn)
    return (images + GAUSSIAN_STD[constants][severity - 1] * noise).clamp(0, 1)
