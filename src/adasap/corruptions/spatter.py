"""Spatter: drops of water, or of mud, on the lens (a validation corruption of the benchmark)."""

from __future__ import annotations

import torch
from torch import Tensor

from adasap.corruptions.blur import blur_axes
from adasap.corruptions.draws import normal
from adasap.corruptions.edges import UNIT, distance, edges, equalize
from adasap.corruptions.protocol import Constants, luma, of_colour
from adasap.corruptions.shifts import shifted_sum

SPATTER = {  # mean, deviation and blur of the liquid, threshold, strength (mud: blur of the blots), whether it is mud
    "224": (
        (0.65, 0.3, 4.0, 0.69, 0.6, False),
        (0.65, 0.3, 3.0, 0.68, 0.6, False),
        (0.65, 0.3, 2.0, 0.68, 0.5, False),
        (0.65, 0.3, 1.0, 0.65, 1.5, True),
        (0.67, 0.4, 1.0, 0.65, 1.5, True),
    ),
    "64": (
        (0.62, 0.1, 0.7, 0.7, 0.6, False),
        (0.65, 0.1, 0.8, 0.7, 0.6, False),
        (0.65, 0.3, 1.0, 0.69, 0.6, False),
        (0.65, 0.1, 0.7, 0.68, 0.6, True),
        (0.65, 0.1, 0.5, 0.67, 0.6, True),
    ),
    "32": (
        (0.62, 0.1, 0.7, 0.7, 0.5, False),
        (0.65, 0.1, 0.8, 0.7, 0.5, False),
        (0.65, 0.3, 1.0, 0.69, 0.5, False),
        (0.65, 0.1, 0.7, 0.69, 0.6, True),
        (0.65, 0.1, 0.5, 0.68, 0.6, True),
    ),
}

PALE_TURQUOISE = (175 / 255, 238 / 255, 238 / 255)
MUD_BROWN = (63 / 255, 42 / 255, 20 / 255)

EMBOSS = {(-1, -1): -2.0, (-1, 0): -1.0, (0, -1): -1.0, (0, 0): 1.0, (0, 1): 1.0, (1, 0): 1.0, (1, 1): 2.0}
"""Lights the drops from one corner."""


@of_colour
def spatter(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Adds the light of water drops, or covers the image with mud: normal numbers, blurred and cut at a threshold."""
    mean, deviation, sigma, threshold, strength, is_mud = SPATTER[constants][severity - 1]
    liquid = normal(seeds, "spatter", images.shape[-2:]).mul_(deviation).add_(mean)
    liquid = blur_axes(liquid[:, None], sigma)
    if is_mud:
        blots = blur_axes((liquid > threshold).float(), strength)
        mud = blots.where(blots >= 0.8, 0)
        return torch.lerp(images, _colour(MUD_BROWN, images), mud).clamp_(0, 1)
    # Cut off to 8 bits as the benchmark does; a value above 1 (one pixel in 50,000) stays white instead of going black.
    liquid = liquid.where(liquid >= threshold, 0).mul(255).floor_().clamp_(0, 255)
    return (images + strength * water_light(liquid[:, 0])[:, None] * _colour(PALE_TURQUOISE, images)).clamp_(0, 1)


def water_light(liquid: Tensor) -> Tensor:
    """Light on drops: bright inside, by the distance from their edges, and more so towards one corner.

    Args:
        liquid: Whole numbers from 0 to 255, float [N, H, W]; 0 where there is none.

    Returns:
        float [N, H, W], largest 1; all 0 for an image without liquid.
    """
    depth = (_sum_3x3(distance(edges(liquid), limit=20)) / (9 * UNIT)).floor_()
    depth = equalize(depth, levels=21)
    light = (_sum_3x3(shifted_sum(depth, EMBOSS, border="mirrored").clamp_(0, 255)) / 9).round_() * liquid
    return light / light.amax(dim=(1, 2), keepdim=True).clamp_min(1)


def _sum_3x3(maps: Tensor) -> Tensor:
    """Sum over 3 x 3 pixels, the map mirrored about its border pixels: float [N, H, W]."""
    rows = shifted_sum(maps, {(0, right): 1.0 for right in (-1, 0, 1)}, border="mirrored")
    return shifted_sum(rows, {(down, 0): 1.0 for down in (-1, 0, 1)}, border="mirrored")


def _colour(colour: tuple[float, float, float], images: Tensor) -> Tensor:
    """The colour, or its luma for grey images: [1, C, 1, 1]."""
    colours = images.new_tensor(colour).view(1, 3, 1, 1)
    return luma(colours) if images.shape[1] == 1 else colours
