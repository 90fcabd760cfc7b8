"""Corruptions that smear the image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.corruptions.protocol import Constants

GAUSSIAN_SIGMA = {
    "224": (1.0, 2.0, 3.0, 4.0, 6.0),
    "64": (0.5, 0.75, 1.0, 1.25, 1.5),
    "32": (0.4, 0.6, 0.7, 0.8, 1.0),
}


def gaussian_kernel(sigma: float, *, truncate: float = 4.0) -> Tensor:
    """Normalised 1-d Gaussian, float [2r + 1], cut off at r = truncate sigma as in SciPy's `gaussian_filter`."""
    radius = math.floor(truncate * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    return (weights / weights.sum()).float()


def blur_axes(images: Tensor, sigma: float) -> Tensor:
    """Separable Gaussian blur with the border pixel repeated (`mode="nearest"`)."""
    kernel = gaussian_kernel(sigma).to(images)
    radius, channels = len(kernel) // 2, images.shape[1]
    rows = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    columns = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    images = F.conv2d(F.pad(images, (radius, radius, 0, 0), mode="replicate"), rows, groups=channels)
    return F.conv2d(F.pad(images, (0, 0, radius, radius), mode="replicate"), columns, groups=channels)


def gaussian_blur(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Blurs each colour with a Gaussian (a validation corruption of the benchmark)."""
    return blur_axes(images, GAUSSIAN_SIGMA[constants][severity - 1]).clamp(0, 1)
