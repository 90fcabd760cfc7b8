"""Blur along a line, as a moving camera makes it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from adasap.corruptions.draws import uniform
from adasap.corruptions.protocol import Constants
from adasap.corruptions.shifts import shifted_sum

RADIUS_AND_SIGMA = {
    "224": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    "64": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
    "32": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
}
MAX_ANGLE_DEG = 45.0


def motion_kernel(radius: float, sigma: float) -> list[float]:
    """Weights of the points on the line: the falling half of a Gaussian, 2 radius + 1 values with sum one."""
    weights = [math.exp(-0.5 * (step / sigma) ** 2) for step in range(math.ceil(2 * radius + 1))]
    return [weight / sum(weights) for weight in weights]


def line_offsets(num_points: int, angle_deg: float) -> list[tuple[int, int]]:
    """Whole pixels (down, right) nearest to the points 0, 1, 2, ... of a line that falls by the angle.

    Example:
        >>> line_offsets(4, 45.0)
        [(0, 0), (1, 1), (1, 1), (2, 2)]
    """
    down, right = math.sin(math.radians(angle_deg)), math.cos(math.radians(angle_deg))
    return [(math.ceil(step * down - 0.5), math.ceil(step * right - 0.5)) for step in range(num_points)]


def motion_blur_by_angle(images: Tensor, radius: float, sigma: float, angles_deg: Tensor) -> Tensor:
    """Blurs each image along its own line, as ImageMagick's `-motion-blur` does; border pixels are repeated.

    out[y, x] = sum_i w_i image[y + down_i, x + right_i], with w of `motion_kernel` and offsets of `line_offsets`.

    Args:
        images: float [N, C, H, W].
        radius: Half the length of the line in pixels.
        sigma: Standard deviation of the weights along the line, pixels.
        angles_deg: float [N], degrees clockwise from pointing right.

    Returns:
        float [N, C, H, W].

    Example:
        >>> point = torch.zeros(1, 1, 1, 5)
        >>> point[..., 3] = 1
        >>> motion_blur_by_angle(point, 1, 1.0, torch.zeros(1)).flatten()
        tensor([0.0000, 0.0777, 0.3482, 0.5741, 0.0000])
    """
    kernel = motion_kernel(radius, sigma)
    blurred = torch.empty_like(images, memory_format=torch.contiguous_format)
    for image, out, angle_deg in zip(images, blurred, angles_deg.tolist(), strict=True):
        weights: dict[tuple[int, int], float] = {}
        for offset, weight in zip(line_offsets(len(kernel), angle_deg), kernel, strict=True):
            weights[offset] = weights.get(offset, 0.0) + weight
        out.copy_(shifted_sum(image, weights, border="repeated"))
    return blurred


def motion_blur(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Blurs along a line of random angle, within 45 degrees of horizontal."""
    radius, sigma = RADIUS_AND_SIGMA[constants][severity - 1]
    angles_deg = (uniform(seeds, "angle", ()) * 2 - 1) * MAX_ANGLE_DEG
    return motion_blur_by_angle(images, radius, sigma, angles_deg).clamp_(0, 1)
