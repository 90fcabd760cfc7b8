"""Edges of 8-bit maps, distance to them, and histogram equalisation: what spatter is built on, as batched tensors.

Numbers equal those of OpenCV's `Canny`, `distanceTransform(DIST_L2, 5)` and `equalizeHist`, which the benchmark calls.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TANGENT_22_5 = 13573
"""tan(22.5 degrees) in units of 2^-15."""

UNIT = 10_000
STEPS = {(0, 1): UNIT, (1, 0): UNIT, (1, 1): 14_000, (1, -1): 14_000} | dict.fromkeys(
    [(1, 2), (2, 1), (1, -2), (2, -1)], 21_969
)
"""Chamfer step (rows, columns) -> its length 1, 1.4 or 2.1969 (Borgefors, 1986) in units of 1/10,000."""


def edges(maps: Tensor, low: int = 50, high: int = 150) -> Tensor:
    """Canny's (1986) detector: Sobel gradients, thinning across the edge, and two thresholds on |dx| + |dy|.

    Args:
        maps: Whole numbers from 0 to 255, float [N, H, W].
        low: Pixels whose gradient is above `low` are edges if they touch one that is above `high`, or such a chain.

    Returns:
        bool [N, H, W].

    Example:
        >>> step = torch.zeros(1, 4, 6)
        >>> step[:, :, 3:] = 200
        >>> edges(step)[0, 0].int()
        tensor([0, 0, 1, 0, 0, 0], dtype=torch.int32)
    """
    dx, dy = sobel(maps)
    strength = dx.abs() + dy.abs()
    ridge = _is_ridge(strength, dx.int(), dy.int()) & (strength > low)
    return _connected(ridge & (strength > high), ridge)


def sobel(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical Sobel differences with the border pixel repeated, float [N, H, W] each."""
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, :, 2:] - padded[:, :, :-2]
    along = padded[:, 2:] - padded[:, :-2]
    dx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    dy = along[:, :, :-2] + 2 * along[:, :, 1:-1] + along[:, :, 2:]
    return dx, dy


def _is_ridge(strength: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """Whether a pixel is larger than its two neighbours along the gradient, of four directions the nearest."""
    around = F.pad(strength, (1, 1, 1, 1))
    height, width = strength.shape[1:]

    def neighbour(down: int, right: int) -> Tensor:
        return around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    run, rise = dx.abs(), dy.abs() << 15
    flat = rise < run * TANGENT_22_5
    steep = rise > run * (TANGENT_22_5 + 2**16)
    falling = (dx ^ dy) < 0
    # A tie is won by the pixel further right or down on the axes, by nobody on the diagonals.
    on_row = (strength > neighbour(0, -1)) & (strength >= neighbour(0, 1))
    on_column = (strength > neighbour(-1, 0)) & (strength >= neighbour(1, 0))
    down_right = (strength > neighbour(-1, -1)) & (strength > neighbour(1, 1))
    down_left = (strength > neighbour(-1, 1)) & (strength > neighbour(1, -1))
    return torch.where(flat, on_row, torch.where(steep, on_column, torch.where(falling, down_left, down_right)))


def _connected(seeds: Tensor, allowed: Tensor) -> Tensor:
    """The allowed pixels that eight-connected chains of allowed pixels join to a seed, bool [N, H, W]."""
    while True:
        grown = F.max_pool2d(seeds.float(), 3, stride=1, padding=1).bool() & allowed
        if torch.equal(grown, seeds):
            return seeds
        seeds = grown


def distance(targets: Tensor, limit: int = 20) -> Tensor:
    """Length of the shortest chamfer path to a target, or `limit` if that is less, in units of 1/10,000.

    Every direction of steps is taken on its own, 1, 2, 4, ... at a time: a shortest path uses two directions at most
    and their order is free.

    Args:
        targets: bool [N, H, W].

    Returns:
        Whole numbers, float [N, H, W].

    Example:
        >>> distance(torch.eye(4, dtype=torch.bool)[None])[0, 0].tolist()
        [0.0, 10000.0, 14000.0, 24000.0]
    """
    lengths = torch.where(targets, 0.0, float(limit * UNIT))
    for (down, right), unit in STEPS.items():
        for power in range(math.ceil(math.log2(limit * UNIT / unit))):
            _step_both_ways_(lengths, down << power, right * 2**power, unit << power)
    return lengths


def _step_both_ways_(lengths: Tensor, down: int, right: int, cost: int) -> None:
    """Lowers every length to that of the pixel `(down, right)` away, either way, plus the cost."""
    height, width = lengths.shape[1:]
    if down >= height or abs(right) >= width:
        return
    first = lengths[:, : height - down, max(0, -right) : width - max(0, right)]
    second = lengths[:, down:, max(0, right) : width - max(0, -right)]
    torch.minimum(second, first + cost, out=second)
    torch.minimum(first, second + cost, out=first)


def equalize(maps: Tensor, levels: int) -> Tensor:
    """Histogram equalisation to 0..255: each value becomes the share of pixels up to it, its lowest value 0.

    Args:
        maps: Whole numbers from 0 to levels - 1, float [N, H, W]; a map of one value stays as it is.
    """
    values = maps.flatten(1).to(torch.int64)
    counts = torch.zeros(len(maps), levels, device=maps.device)
    counts.scatter_add_(1, values, torch.ones_like(values, dtype=counts.dtype))
    upto = counts.cumsum(dim=1)
    lowest = counts.gather(1, (counts > 0).int().argmax(dim=1, keepdim=True))
    others = upto[:, -1:] - lowest
    table = ((upto - lowest) * (255 / others)).round_().clamp_(0, 255)
    constant = torch.arange(levels, device=maps.device, dtype=table.dtype)
    return table.where(others > 0, constant).gather(1, values).view_as(maps)
