"""Corruptions by weather: fog, snow and frost."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.corruptions.draws import normal, uniform
from adasap.corruptions.frost_texture import crops
from adasap.corruptions.motion import motion_blur_by_angle
from adasap.corruptions.protocol import Constants, luma, of_colour

FOG_STRENGTH_DECAY = {
    "224": ((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    "64": ((0.4, 3.0), (0.7, 3.0), (1.0, 2.5), (1.5, 2.0), (2.0, 1.75)),
    "32": ((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
}

SNOW = {  # mean and deviation of the flakes, zoom, threshold, radius and sigma of the blur, share of the image kept
    "224": (
        (0.1, 0.3, 3.0, 0.5, 10, 4.0, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12, 4.0, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12, 8.0, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8.0, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12.0, 0.55),
    ),
    "64": (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.8),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.8),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.7),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.65),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.6),
    ),
    "32": (
        (0.1, 0.2, 1.0, 0.6, 8, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12.0, 0.8),
    ),
}

FROST_WEIGHTS = {  # of the image and of the ice
    "224": ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    "64": ((1.0, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
    "32": ((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
}


def fog(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Adds a cloud (a plasma fractal) and scales back so that the image's largest value stays where it was."""
    strength, decay = FOG_STRENGTH_DECAY[constants][severity - 1]
    height, width = images.shape[-2:]
    side = 2 ** math.ceil(math.log2(max(height, width, 3)))
    cloud = plasma(seeds, side, decay)[:, None, :height, :width]
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return torch.add(images, cloud, alpha=strength).mul_(brightest / (brightest + strength)).clamp_(0, 1)


def plasma(seeds: Tensor, side: int, decay: float) -> Tensor:
    """Cloud-like field by the diamond-square algorithm (Fournier, Fussell and Carpenter, 1982), on a torus.

    Each level puts a point in the middle of every four neighbours: their mean plus a uniform number whose range
    shrinks by `decay` squared per level, as in the benchmark (its "wibble" bounds the number and also multiplies it).

    Args:
        seeds: int64 [N].
        side: A power of two, at least 2.

    Returns:
        float [N, side, side], smallest 0 and largest 1 per image.

    Example:
        >>> field = plasma(torch.tensor([3]), 64, 2.0)
        >>> field.min().item(), field.max().item()
        (0.0, 1.0)
    """
    numbers = uniform(seeds, "fog", (side * side,)).mul_(2).sub_(1)
    field = numbers.new_zeros(len(seeds), 1, 1)
    while (size := field.shape[-1]) < side:
        shifts = numbers[:, size**2 - 1 : 4 * size**2 - 1].view(-1, 3, size, size)
        field = _refine(field, shifts, decay ** (-2 * math.log2(size)))
    field -= field.amin(dim=(1, 2), keepdim=True)
    return field.div_(field.amax(dim=(1, 2), keepdim=True))


def _refine(corners: Tensor, shifts: Tensor, height: float) -> Tensor:
    """One level: [N, S, S] and shifts [N, 3, S, S] to [N, 2S, 2S]. The diamond step first, then the square step."""
    across = corners + corners.roll(-1, dims=2)
    down = corners + corners.roll(-1, dims=1)
    centres = (across + across.roll(-1, dims=1)).mul_(0.25).add_(shifts[:, 0], alpha=height)
    above = across.add_(centres).add_(centres.roll(1, dims=1)).mul_(0.25).add_(shifts[:, 1], alpha=height)
    beside = down.add_(centres).add_(centres.roll(1, dims=2)).mul_(0.25).add_(shifts[:, 2], alpha=height)
    rows = torch.stack([torch.stack([corners, above], dim=-1), torch.stack([beside, centres], dim=-1)], dim=2)
    return rows.view(len(corners), 2 * corners.shape[1], 2 * corners.shape[2])


@of_colour
def snow(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Whitens the image, then adds streaks of flakes and, as more flakes, the same streaks turned by half a circle."""
    *_, kept = SNOW[constants][severity - 1]
    layer = snow_layer(images.shape[-2:], severity, seeds, constants)
    brighter = luma(images).mul(1.5).add_(0.5)
    white = torch.maximum(images, brighter)
    return white.lerp_(images, kept).add_(layer + layer.flip(2, 3)).clamp_(0, 1)


def snow_layer(size: tuple[int, int] | torch.Size, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """The streaks, 8-bit values divided by 255, float [N, 1, H, W].

    Normal numbers, enlarged, with those under a threshold set to 0, smeared along a direction drawn from -135 to -45
    degrees. Only the middle that the enlargement keeps is drawn. The small constants go with the benchmark's path
    through an 8-bit picture, which cuts the flakes off to whole numbers before they are smeared.
    """
    mean, deviation, zoom, threshold, radius, sigma, _ = SNOW[constants][severity - 1]
    cells = [math.ceil(side / zoom) for side in size]
    flakes = normal(seeds, "snow", cells).mul_(deviation).add_(mean)[:, None]
    flakes = enlarge(flakes, size, zoom, centred=constants != "224")
    flakes = flakes.where(flakes >= threshold, 0).clamp_(0, 1)
    if constants != "224":
        flakes = flakes.mul_(255).floor_().div_(255)
    angles = uniform(seeds, "snow way", (1,))[:, 0].mul(90).sub(135)
    return motion_blur_by_angle(flakes, radius, sigma, angles).mul(255).round().div(255)


def enlarge(field: Tensor, size: tuple[int, int] | torch.Size, zoom: float, *, centred: bool) -> Tensor:
    """Linear enlargement with the corner points kept (SciPy's `zoom`), cut to size in the middle or the top left."""
    height, width = (round(side * zoom) for side in field.shape[-2:])
    if (height, width) != tuple(field.shape[-2:]):
        field = F.interpolate(field, size=(height, width), mode="bilinear", align_corners=True)
    top, left = ((height - size[0]) // 2, (width - size[1]) // 2) if centred else (0, 0)
    return field[..., top : top + size[0], left : left + size[1]]


@of_colour
def frost(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Adds a random crop of a generated picture of ice; the two weights exceed one together, so ice brightens.

    The benchmark crops photographs instead; `adasap.corruptions.frost_texture` says what ours have in common with them.
    """
    image_weight, ice_weight = FROST_WEIGHTS[constants][severity - 1]
    ice = crops(images.shape[-2:], seeds, constants)
    ice = luma(ice) if images.shape[1] == 1 else ice
    return images.mul(image_weight).add_(ice, alpha=ice_weight).clamp_(0, 1)
