"""Corruptions of colour, resolution and coding (Hendrycks and Dietterich, 2019)."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adasap.corruptions.protocol import Constants, of_colour, on_levels

CONTRAST_FACTOR = {
    "224": (0.4, 0.3, 0.2, 0.1, 0.05),
    "64": (0.4, 0.3, 0.2, 0.1, 0.05),
    "32": (0.75, 0.5, 0.4, 0.3, 0.15),
}
BRIGHTNESS_ADDED = {
    "224": (0.1, 0.2, 0.3, 0.4, 0.5),
    "64": (0.1, 0.2, 0.3, 0.4, 0.5),
    "32": (0.05, 0.1, 0.15, 0.2, 0.3),
}
SATURATION_FACTOR_AND_OFFSET = {
    "224": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    "64": ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (30, 0.2)),
    "32": ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
}
PIXELATE_SCALE = {
    "224": (0.6, 0.5, 0.4, 0.3, 0.25),
    "64": (0.9, 0.8, 0.7, 0.6, 0.5),
    "32": (0.95, 0.9, 0.85, 0.75, 0.65),
}
JPEG_QUALITY = {"224": (25, 18, 15, 10, 7), "64": (65, 58, 50, 40, 25), "32": (80, 65, 58, 50, 40)}

TINY = 1e-12  # stands for zero where 0 / 0 has to become 1; vanishes beside the smallest 8-bit value, 1 / 255


def contrast(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Pulls every pixel towards the image's mean colour."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return ((images - mean) * CONTRAST_FACTOR[constants][severity - 1] + mean).clamp(0, 1)


@of_colour
def brightness(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Adds to the value V of HSV, up to one; hue and saturation stay.

    The colours are proportional to V = max(R, G, B), so they are multiplied by V' / V, and black becomes grey.
    """
    images = images.clamp(min=TINY)
    value = images.amax(dim=1, keepdim=True)
    return images.mul_((value + BRIGHTNESS_ADDED[constants][severity - 1]).clamp_(max=1).div_(value))


@of_colour
def saturate(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Changes the saturation S of HSV to min(factor S + offset, 1); hue and value stay (a validation corruption).

    With V = max(R, G, B), V - R is V S times a number that hue alone decides, and V S = V - min(R, G, B): so these
    distances are multiplied by S' / S. Grey has the hue of red, so an offset takes from its green and blue.
    """
    factor, offset = SATURATION_FACTOR_AND_OFFSET[constants][severity - 1]
    value = images.amax(dim=1, keepdim=True)
    spread = (value - images.amin(dim=1, keepdim=True)).clamp_(min=TINY)
    wanted = torch.minimum(spread * factor + value * offset, value)
    distances = value - images
    distances[:, 1:].add_(TINY)
    return torch.sub(value, distances.mul_(wanted.div_(spread))).clamp_(0, 1)


@on_levels
def pixelate(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Shrinks by averages over boxes and enlarges by repeating pixels; uint8 in, uint8 out."""
    scale, (height, width) = PIXELATE_SCALE[constants][severity - 1], images.shape[-2:]
    # Pillow averages along rows first, and rounds to 8 bits after each direction.
    narrow = shrink_columns(images.mT.contiguous(), max(1, int(width * scale))).mT
    small = shrink_columns(narrow.contiguous(), max(1, int(height * scale)))
    columns, rows = enlarging_places(small.shape[-1], width), enlarging_places(small.shape[-2], height)
    wide = small.gather(-1, columns.to(images.device).expand(*small.shape[:-1], width))
    return wide.index_select(-2, rows.to(images.device))


def shrink_columns(levels: Tensor, height: int) -> Tensor:
    """Means of 8-bit levels above one another, rounded to whole numbers, to the bit as Pillow's `BOX` resize has them.

    Args:
        levels: uint8 [..., H, W]; bytes are moved, and only what is summed up is float32.
        height: Wanted height, no more than H.

    Returns:
        uint8 [..., height, W].
    Example:
        >>> shrink_columns(torch.tensor([0, 1, 4, 6, 8], dtype=torch.uint8).view(5, 1), 2).flatten()
        tensor([2, 7], dtype=torch.uint8)
    """
    places, inside, counts, half_up = (table.to(levels.device) for table in boxes(levels.shape[-2], height))
    total = levels.index_select(-2, places[0]).float()
    for rows, share in zip(places[1:], inside[1:], strict=True):
        total += levels.index_select(-2, rows).mul_(share)
    return total.div_(counts).add_(half_up).to(torch.uint8)


@lru_cache(maxsize=64)
def boxes(size: int, new: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which of `size` pixels each of `new` ones is the mean of, and what to add before the mean is cut off.

    Pillow gives every pixel whose centre lies in the box the same weight, a multiple of 2^-22, and rounds half up: so a
    mean that ends in one half goes up if the rounded weight is no less than the true one, and else down.

    Returns:
        Places int64 [K, new]; 1 where a place belongs to the box and 0 where it fills up, uint8 [K, new, 1]; the number
        of pixels, float [new, 1]; the addend, float [new, 1].
    """
    centres = [(place + 0.5) * (size / new) for place in range(new)]
    starts = torch.tensor([int(centre - size / new / 2 + 0.5) for centre in centres])
    counts = torch.tensor([min(size, int(centre + size / new / 2 + 0.5)) for centre in centres]) - starts
    steps = torch.arange(int(counts.max()))[:, None]
    goes_up = (2**22 / counts.double()).add(0.5).floor() * counts >= 2**22
    half_up = 0.5 + torch.where(goes_up, 0.25, -0.25) / counts
    inside = (steps < counts).to(torch.uint8)[..., None]
    return (starts + steps).clamp_(max=size - 1), inside, counts.float()[:, None], half_up[:, None]


@lru_cache(maxsize=64)
def enlarging_places(size: int, new: int) -> Tensor:
    """The pixel that each new one's centre falls in: Pillow's `NEAREST`, and its `BOX` when it enlarges."""
    return torch.tensor([int((place + 0.5) * (size / new)) for place in range(new)])


@of_colour
@on_levels
def jpeg_compression(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Codes each image as a JPEG of low quality and decodes it (libjpeg, on the CPU); uint8 in, uint8 out.

    Pillow's defaults, as in the benchmark: colours at half resolution, the precise integer cosine transform. Grey is
    coded as grey, which gives the luma of the same image in colour to the bit.
    """
    decoded = np.empty(images.shape, dtype=np.uint8)
    for image, planes in zip(images.cpu().numpy(), decoded, strict=True):
        file = BytesIO()
        bands = [Image.fromarray(plane) for plane in image]
        picture = Image.merge("RGB", bands) if len(bands) == 3 else bands[0]
        picture.save(file, "JPEG", quality=JPEG_QUALITY[constants][severity - 1])
        for plane, band in zip(planes, Image.open(file).split(), strict=True):
            plane[:] = np.asarray(band)
    return torch.from_numpy(decoded).to(images.device)
