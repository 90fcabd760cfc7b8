"""Default boxes of a single-shot detector: torchvision's, with the scales of the paper; and which object each finds.

Liu et al. (2016), SSD: Single Shot MultiBox Detector, arXiv:1512.02325, section 2.2. All boxes are
(x_min, y_min, x_max, y_max) in pixels of the square image that the network sees.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

BOX_CODER = BoxCoder((10.0, 10.0, 5.0, 5.0))
"""Boxes as offsets from default boxes: 10 (c - c_a) / s_a and 5 log(s / s_a) for both axes, as the original has them.

Decoded sizes grow at most by 62.5: an untrained head must not overflow.
"""


def box_shapes(num_maps: int, smallest: float, largest: float = 0.9) -> DefaultBoxGenerator:
    """The sizes and ratios of every map's default boxes, as fractions of the image (section 3.2 for VOC).

    The first map has squares of half of `smallest`, the others from it to `largest` in equal steps, and each a second
    square that lies between its own and the next map's. Ratios are 2 on the first and the last two maps, 2 and 3
    between; each also upright.

    Example:
        >>> shapes = box_shapes(4, 0.2)
        >>> [round(scale, 3) for scale in shapes.scales], shapes.aspect_ratios
        ([0.1, 0.2, 0.55, 0.9, 1.0], [[2], [2, 3], [2], [2]])
        >>> shapes.num_anchors_per_location()
        [4, 6, 4, 4]
    """
    step = (largest - smallest) / max(num_maps - 2, 1)
    scales = [smallest / 2, *(smallest + step * place for place in range(num_maps - 1)), 1.0]
    ratios = [[2] if place in (0, num_maps - 2, num_maps - 1) else [2, 3] for place in range(num_maps)]
    return DefaultBoxGenerator(ratios, scales=scales, clip=False)


def default_boxes(shapes: DefaultBoxGenerator, sides: Sequence[int], image_size: int) -> Tensor:
    """The default boxes of all maps, float [A, 4], clipped to nothing: those at the border reach over it.

    Args:
        shapes: As from `box_shapes`.
        sides: Rows (and columns) of each map.
        image_size: Side of the image in pixels.
    Returns:
        Ordered by map, row, column, shape: as the heads' outputs are.
    Example:
        >>> default_boxes(DefaultBoxGenerator([[]], scales=[0.5, 1.0]), [1], 100)
        tensor([[25.0000, 25.0000, 75.0000, 75.0000],
                [14.6447, 14.6447, 85.3553, 85.3553]])
    """
    image = ImageList(torch.empty(1, 0, image_size, image_size), [(image_size, image_size)])
    boxes: Tensor = shapes(image, [torch.empty(1, 0, side, side) for side in sides])[0]
    return boxes


def match(boxes: Tensor, anchors: Tensor, *, threshold: float = 0.5) -> Tensor:
    """Which true box each default box is to find: the one it overlaps most, if by at least the threshold.

    And each true box has the default box that overlaps it most, whatever the overlap; where two claim the same one, the
    later box has it.

    torchvision's `SSDMatcher` does the same, but takes no image without objects, and where two boxes claim one default
    box its result may change from run to run on a GPU.

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
