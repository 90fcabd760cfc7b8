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
    strength = F.pad(dx.abs() + dy.abs(), (1, 1, 1, 1))  # outside the map no pixel is stronger
    rise, run = F.pad(dy, (1, 1, 1, 1)), F.pad(dx, (1, 1, 1, 1))
    places = (strength > low).flatten().nonzero()[:, 0]
    places = places[_is_ridge(strength, run.flatten()[places].int(), rise.flatten()[places].int(), places)]
    return _connected(strength > high, places)[:, 1:-1, 1:-1]


def sobel(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Horizontal and vertical Sobel differences with the border pixel repeated, float [N, H, W] each."""
    padded = F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    across = padded[:, :, 2:] - padded[:, :, :-2]
    along = padded[:, 2:] - padded[:, :-2]
    dx = across[:, :-2] + 2 * across[:, 1:-1] + across[:, 2:]
    dy = along[:, :, :-2] + 2 * along[:, :, 1:-1] + along[:, :, 2:]
    return dx, dy


def _is_ridge(strength: Tensor, run: Tensor, rise: Tensor, places: Tensor) -> Tensor:
    """Whether pixels are stronger than their two neighbours along the gradient, of four directions the nearest.

    Args:
        strength: float [N, H, W], with a border of nothing.
        run: Horizontal gradient at the pixels, int [P]; `rise` the vertical one.
        places: Their indices in the flattened strength, int64 [P].
    """
    down, right = strength.shape[2], 1
    steepness, width = rise.abs() << 15, run.abs()
    flat = steepness < width * TANGENT_22_5
    steep = steepness > width * (TANGENT_22_5 + 2**16)
    diagonal = torch.where((run ^ rise) < 0, down - right, down + right)
    step = torch.where(flat, right, torch.where(steep, down, diagonal))
    values = strength.flatten()
    here, before, after = values[places], values[places - step], values[places + step]
    # A tie is won by the pixel further left or up on the axes, by nobody on the diagonals.
    return (here > before) & ((here > after) | ((here == after) & (flat | steep)))


def _connected(strong: Tensor, places: Tensor) -> Tensor:
    """The places that are strong, or joined to such by an eight-connected chain of places: bool [N, H, W]."""
    is_edge = torch.zeros_like(strong).flatten()
    certain = strong.flatten()[places]
    is_edge[places[certain]] = True
    waiting, width = places[~certain], strong.shape[2]
    around = torch.tensor([-width - 1, -width, -width + 1, -1, 1, width - 1, width, width + 1], device=places.device)
    while len(waiting):
        joins = is_edge[waiting[:, None] + around].any(dim=1)
        if not joins.any():
            break
        is_edge[waiting[joins]] = True
        waiting = waiting[~joins]
    return is_edge.view_as(strong)


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
        [0.0, 10000.0, 14000.0, 21969.0]
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
    places = values + levels * torch.arange(len(maps), device=maps.device)[:, None]
    counts = places.flatten().bincount(minlength=levels * len(maps)).view(-1, levels).float()
    upto = counts.cumsum(dim=1)
    lowest = counts.gather(1, (counts > 0).int().argmax(dim=1, keepdim=True))
    others = upto[:, -1:] - lowest
    table = ((upto - lowest) * (255 / others)).round_().clamp_(0, 255)
    constant = torch.arange(levels, device=maps.device, dtype=table.dtype)
    return table.where(others > 0, constant).flatten()[places].view_as(maps)
