"""What a corruption is, and the constants it is drawn with."""

from __future__ import annotations

from typing import Literal, Protocol

from torch import Tensor

Constants = Literal["32", "64", "224"]
"""The benchmark's three sets of severity constants, named by the image side they were chosen for."""

NUM_SEVERITIES = 5


class Corruption(Protocol):
    """A corruption with five severities.

    Args:
        images: float [N, 3, H, W], 8-bit values divided by 255; those that deal in whole levels get and give uint8.
        severity: 1 to 5.
        seeds: int64 [N] on the images' device, one per image: the same image and seed get the same draws in any batch,
            order, and on any device.
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
