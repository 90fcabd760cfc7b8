"""Blur as through frosted glass: pixels taken from nearby, between two blurs."""

from __future__ import annotations

import torch
from torch import Tensor

from adasap.corruptions.blur import blur_axes
from adasap.corruptions.draws import integers
from adasap.corruptions.protocol import Constants

SIGMA_REACH_PASSES = {
    "224": ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    "64": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    "32": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
}


def glass_blur(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Blurs, lets every pixel away from the border take the colour of one nearby, and blurs again.

    The benchmark writes down a swap of two pixels. But its pixels are views of the array, so that the first assignment
    overwrites what the second one reads: one pixel is copied, none is swapped. That is what its images hold, and
    what is computed here.
    """
    sigma, reach, passes = SIGMA_REACH_PASSES[constants][severity - 1]
    blurred = blur_axes(images, sigma).mul_(255).add_(1e-4).floor_().div_(255)
    count, channels, height, width = images.shape
    moves = integers(seeds, "glass", (passes, height * width), (2 * reach) ** 2)
    source = torch.arange(height * width, device=images.device).expand(count, -1)
    for number in range(passes):
        source = source.gather(1, scan_sources(moves[:, number], height, width, reach))
    taken = blurred.view(count, channels, -1).gather(2, source[:, None].expand(-1, channels, -1))
    return blur_axes(taken.view_as(images), sigma).clamp_(0, 1)


def scan_sources(moves: Tensor, height: int, width: int, reach: int) -> Tensor:
    """Which old pixel each pixel shows after one scan from the bottom right to the top left.

    At its turn a pixel copies the one that its move points to, which has had its turn already if it lies further on in
    reading order. Such pixels are followed, twice as far each time, to one that copied an untouched pixel: a few
    parallel steps give what the scan gives.

    Args:
        moves: int64 [N, H W], 0 to (2 reach)^2 - 1: a shift of -reach to reach - 1 down, and one to the right.
        height, width: Size of the image.
        reach: Pixels as near to the border as this stay.

    Returns:
        int64 [N, H W], indices of pixels.
    """
    here = torch.arange(height * width, device=moves.device)
    rows, columns = torch.arange(height, device=moves.device)[:, None], torch.arange(width, device=moves.device)
    moving = (rows > reach) & (rows <= height - reach) & (columns > reach) & (columns <= width - reach)
    near = torch.arange(-reach, reach, device=moves.device)
    shifts = (near[:, None] * width + near).flatten()
    steps = shifts.index_select(0, moves.flatten()).view_as(moves)
    target = here + steps.masked_fill_(~moving.flatten(), 0)
    following = torch.maximum(target, here)
    while not torch.equal(further := following.gather(1, following), following):
        following = further
    return target.gather(1, following)
