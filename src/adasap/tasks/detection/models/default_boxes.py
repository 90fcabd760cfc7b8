"""Default boxes of a single-shot detector: where they lie, how boxes are written relative to them, which they match.

Liu et al. (2016), SSD: Single Shot MultiBox Detector, arXiv:1512.02325, section 2.2. All boxes are
(x_min, y_min, x_max, y_max) in pixels of the square image that the network sees.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import box_convert, box_iou

CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
"""What offsets are divided by, so that their spread is about 1; of the original implementation."""
MAX_LOG_SIZE = math.log(1000 / 16)
"""Largest log-ratio of sizes that is decoded: an untrained head must not overflow."""


def box_scales(num_maps: int, smallest: float, largest: float = 0.9) -> tuple[float, ...]:
    """Side of the square default box of each map, as a fraction of the image, and one more for the last map's second.

    The first map has half of `smallest`, the others go from it to `largest` in equal steps (section 3.2 for VOC).

    Example:
        >>> [round(scale, 3) for scale in box_scales(4, 0.2)]
        [0.1, 0.2, 0.55, 0.9, 1.0]
    """
    step = (largest - smallest) / max(num_maps - 2, 1)
    return (smallest / 2, *(smallest + step * place for place in range(num_maps - 1)), 1.0)


def aspect_ratios(num_maps: int) -> list[tuple[float, ...]]:
    """Ratios beside 1 of each map: 2 on the first and the last two, 2 and 3 between; each also upright.

    Example:
        >>> aspect_ratios(4)
        [(2.0,), (2.0, 3.0), (2.0,), (2.0,)]
    """
    return [(2.0,) if place in (0, num_maps - 2, num_maps - 1) else (2.0, 3.0) for place in range(num_maps)]


def boxes_per_place(ratios: Sequence[float]) -> int:
    """Two squares, and two boxes for every further ratio."""
    return 2 + 2 * len(ratios)


def default_boxes(
    sides: Sequence[int], image_size: int, scales: Sequence[float], ratios: Sequence[Sequence[float]]
) -> Tensor:
    """The default boxes of all maps, float [A, 4], clipped to nothing: those at the border reach over it.

    Args:
        sides: Rows (and columns) of each map.
        image_size: Side of the image in pixels.
        scales: As from `box_scales`, one more than maps.
        ratios: As from `aspect_ratios`.
    Returns:
        Ordered by map, row, column, shape: as the heads' outputs are.
    Example:
        >>> default_boxes([1], 100, [0.5, 1.0], [()])
        tensor([[25.0000, 25.0000, 75.0000, 75.0000],
                [14.6447, 14.6447, 85.3553, 85.3553]])
    """
    maps = []
    for place, side in enumerate(sides):
        scale, between = scales[place], math.sqrt(scales[place] * scales[place + 1])
        shapes = [(scale, scale), (between, between)]
        for ratio in ratios[place]:
            wide, flat = scale * math.sqrt(ratio), scale / math.sqrt(ratio)
            shapes += [(wide, flat), (flat, wide)]
        centre = (torch.arange(side) + 0.5) / side
        rows, columns = torch.meshgrid(centre, centre, indexing="ij")
        places = torch.stack([columns, rows], dim=-1)[:, :, None].expand(side, side, len(shapes), 2)
        sizes = torch.tensor(shapes).expand(side, side, len(shapes), 2)
        maps.append(torch.cat([places, sizes], dim=-1).reshape(-1, 4))
    boxes: Tensor = box_convert(torch.cat(maps) * image_size, "cxcywh", "xyxy")
    return boxes


def encode(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes as offsets from default boxes: ((c - c_a) / s_a / 0.1, log(s / s_a) / 0.2) for both axes.

    Args:
        boxes: float [..., 4], of positive area.
        anchors: Their default boxes, float [..., 4].
    Example:
        >>> encode(torch.tensor([[10.0, 0.0, 20.0, 10.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
        tensor([[10.,  0.,  0.,  0.]])
    """
    boxes, anchors = box_convert(boxes, "xyxy", "cxcywh"), box_convert(anchors, "xyxy", "cxcywh")
    centre = (boxes[..., :2] - anchors[..., :2]) / anchors[..., 2:] / CENTRE_VARIANCE
    return torch.cat([centre, (boxes[..., 2:] / anchors[..., 2:]).log() / SIZE_VARIANCE], dim=-1)


def decode(offsets: Tensor, anchors: Tensor) -> Tensor:
    """The boxes that `encode` wrote, float [..., 4]; sizes grow at most by 62.5.

    Example:
        >>> decode(torch.tensor([[10.0, 0.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 10.0, 10.0]]))
        tensor([[10.,  0., 20., 10.]])
    """
    anchors = box_convert(anchors, "xyxy", "cxcywh")
    centre = anchors[..., :2] + offsets[..., :2] * CENTRE_VARIANCE * anchors[..., 2:]
    size = anchors[..., 2:] * (offsets[..., 2:] * SIZE_VARIANCE).clamp(max=MAX_LOG_SIZE).exp()
    boxes: Tensor = box_convert(torch.cat([centre, size], dim=-1), "cxcywh", "xyxy")
    return boxes


def match(boxes: Tensor, anchors: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Which true box each default box is to find: the one it overlaps most, if by at least the threshold.

    And each true box has the default box that overlaps it most, whatever the overlap; where two claim the same one, the
    later box has it.

    Args:
        boxes: float [N, 4]; N may be 0.
        anchors: float [A, 4].
    Returns:
        Index of the box, or -1 for background, int64 [A].
    Example:
        >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> match(torch.tensor([[0.0, 0.0, 9.0, 10.0]]), anchors)
        tensor([ 0, -1])
    """
    if len(boxes) == 0:
        return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
    overlaps = box_iou(boxes, anchors)
    largest, found = overlaps.max(dim=0)
    best, numbers = overlaps.argmax(dim=1), torch.arange(len(boxes), device=anchors.device)
    # the largest number, not the last written: a scatter has no order among equal places
    claimed = torch.full_like(found, -1).scatter_reduce(0, best, numbers, "amax")
    return torch.where(claimed >= 0, claimed, torch.where(largest >= threshold, found, -1))
