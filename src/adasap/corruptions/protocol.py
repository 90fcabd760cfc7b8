"""What a corruption is, and the constants it is drawn with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

Constants = Literal["32", "64", "224"]
"""The benchmark's three sets of severity constants, named by the image side they were chosen for."""

NUM_SEVERITIES = 5
Function = TypeVar("Function")


class Corruption(Protocol):
    """A corruption with five severities.

    Args:
        images: float [N, C, H, W], 8-bit values divided by 255; those that deal in whole levels get and give uint8.
            One channel is grey, three are colour; what is defined by colour takes no other numbers.
        severity: 1 to 5.
        seeds: int64 [N] on the images' device, one per image: the same image and seed get the same draws in any batch,
            order, and on any device.
        constants: Which set of severity constants.

    Returns:
        float [N, C, H, W] in [0, 1].
    """

    def __call__(self, images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor: ...


def of_colour(function: Function) -> Function:
    """Marks a corruption that is defined by colour: for grey images (one channel) and colour images (three) alone."""
    function.__dict__["of_colour"] = True
    return function


def on_levels(function: Function) -> Function:
    """Marks a corruption that is given uint8 and gives it: conversions would take as long as its own steps."""
    function.__dict__["on_levels"] = True
    return function


def is_of_colour(corruption: Corruption) -> bool:
    """Whether it is marked by `of_colour`."""
    return getattr(corruption, "of_colour", False)


def is_on_levels(corruption: Corruption) -> bool:
    """Whether it is marked by `on_levels`."""
    return getattr(corruption, "on_levels", False)


GREY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luma (ITU-R BT.601)."""


def luma(colours: Tensor) -> Tensor:
    """Colour [N, 3, H, W] as grey [N, 1, H, W]; grey stays as it is."""
    if colours.shape[1] == 1:
        return colours
    red, green, blue = (colours[:, channel, None] for channel in range(3))
    return (red * GREY[0]).add_(green, alpha=GREY[1]).add_(blue, alpha=GREY[2])


def constants_for(height: int, width: int) -> Constants:
    """The constants chosen for the nearest image side, by the shorter side.

    Example:
        >>> constants_for(32, 32), constants_for(64, 80), constants_for(500, 375)
        ('32', '64', '224')
    """
    side = min(height, width)
    return "32" if side < 48 else "64" if side < 120 else "224"
