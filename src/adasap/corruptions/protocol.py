"""What a corruption is, and the constants it is drawn with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

Constants = Literal["32", "64", "224"]
"""The benchmark's three sets of severity constants, named by the image side they were chosen for."""

NUM_SEVERITIES = 5


class Corruption(Protocol):
    """A corruption with five severities.

    Args:
        images: float [N, 3, H, W] in [0, 1].
        severity: 1 to 5.
        seeds: int64 [N], one per image: the same image and seed get the same draws in any batch and order.
        constants: Which set of severity constants.

    Returns:
        float [N, 3, H, W] in [0, 1].
    """

    def __call__(self, images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor: ...


def constants_for(height: int, width: int) -> Constants:
    """The constants chosen for the nearest image side, by the shorter side.

    Example:
        >>> constants_for(32, 32), constants_for(64, 80), constants_for(500, 375)
        ('32', '64', '224')
    """
    side = min(height, width)
    return "32" if side < 48 else "64" if side < 120 else "224"


def generators(seeds: Tensor) -> Iterator[torch.Generator]:
    """One generator per image, on the CPU."""
    return (torch.Generator().manual_seed(seed) for seed in seeds.tolist())


def draw_per_image(images: Tensor, seeds: Tensor, draw: Callable[..., Tensor]) -> Tensor:
    """`draw(size, generator=...)` for each image with its own seed, stacked to the images' shape and device."""
    size: Sequence[int] = images.shape[1:]
    return torch.stack([draw(size, generator=generator) for generator in generators(seeds)]).to(images)
