"""Coloured shapes on textured grounds with their boxes: drawn here, the same for everybody, for tests and the demo."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.data.boxes import Target, make_target
from adasap.data.detection_set import Annotations, DetectionImages

SHAPES = ("disc", "square", "triangle")
"""Names of the labels 1 to 3."""

SIDE = 96
"""Height and width of an image, in pixels."""

NUM_IMAGES = {"train": 512, "test": 200}
_SEEDS = {"train": 1_000_000, "test": 2_000_000}
_RADII = 9, 22
"""Half of a shape's width, in pixels, smallest and largest."""
_MOST = 4
_EMPTY = 32
"""Every so many-th image shows nothing."""
_FAINT = 16
"""One of so many shapes is nearly transparent, and difficult."""


def read_shapes(split: Literal["train", "test"], part: slice = slice(None)) -> DetectionImages:
    """Images of 96 x 96 pixels with up to four discs, squares and triangles that do not cover each other.

    Image k of a split follows from (split, k) alone. Every 32nd shows nothing; one shape in 16 is faint and difficult.

    Args:
        split: `train` (512 images) or `test` (200).
        part: Which of them.

    Example:
        >>> data = read_shapes("test", slice(3))
        >>> image, target = data[0]
        >>> image.shape, [data.classes[label - 1] for label in target["labels"]]
        (torch.Size([3, 96, 96]), ...)
    """
    indices = range(NUM_IMAGES[split])[part]
    drawn = [draw_image(_SEEDS[split] + index, index) for index in indices]
    pixels = [image for image, _ in drawn]
    annotations = Annotations.of_targets(target for _, target in drawn)
    return DetectionImages(pixels, annotations, SHAPES, where=f"shapes, split {split}")


def draw_image(seed: int, index: int) -> tuple[Tensor, Target]:
    """One image uint8 [3, 96, 96] and its target."""
    generator = torch.Generator().manual_seed(seed)
    image = _ground(generator)
    wanted = 0 if index % _EMPTY == _EMPTY - 1 else 1 + int(_integers(_MOST, generator))
    boxes: list[list[int]] = []
    labels, difficult = [], []
    for _ in range(wanted):
        radius = _RADII[0] + int(_integers(_RADII[1] - _RADII[0] + 1, generator))
        place = [int(_integers(SIDE - 2 * radius + 1, generator)) for _ in range(2)]
        box = [*place, place[0] + 2 * radius, place[1] + 2 * radius]
        label, faint = 1 + int(_integers(len(SHAPES), generator)), int(_integers(_FAINT, generator)) == 0
        colour = _colour(generator)
        if any(_touch(box, other) for other in boxes):
            continue  # whether another one is drawn instead must not depend on a number of tries
        cover = _cover(SHAPES[label - 1], box) * (0.25 if faint else 1.0)
        image = image * (1 - cover) + colour * cover
        boxes.append(box)
        labels.append(label)
        difficult.append(faint)
    target = make_target(
        torch.tensor(boxes), torch.tensor(labels), torch.tensor(difficult, dtype=torch.bool), image_id=index
    )
    return (image * 255).round().clamp(0, 255).to(torch.uint8), target


def _integers(bound: int, generator: torch.Generator) -> Tensor:
    return torch.randint(bound, (), generator=generator)


def _ground(generator: torch.Generator) -> Tensor:
    """Grey clouds with a tint and some grain, float64 [3, 96, 96] from 0.3 to 0.7 or so."""
    clouds = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.float64)
    for cells, height in ((4, 0.16), (12, 0.10)):
        coarse = torch.rand(1, 1, cells, cells, dtype=torch.float64, generator=generator) - 0.5
        clouds += height * F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=True)
    tint = 0.1 * (torch.rand(1, 3, 1, 1, dtype=torch.float64, generator=generator) - 0.5)
    grain = 0.06 * (torch.rand(1, 1, SIDE, SIDE, dtype=torch.float64, generator=generator) - 0.5)
    return (0.5 + clouds + tint + grain)[0]


def _colour(generator: torch.Generator) -> Tensor:
    """One channel near 0, one near 1, one between, in any order: strong against the ground, float64 [3, 1, 1]."""
    shades = torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)
    shades += 0.1 * (torch.rand(3, dtype=torch.float64, generator=generator) - 0.5)
    return shades[torch.randperm(3, generator=generator)].view(3, 1, 1)


def _touch(box: list[int], other: list[int]) -> bool:
    return all(box[axis] < other[axis + 2] and other[axis] < box[axis + 2] for axis in range(2))


def _cover(shape: str, box: list[int]) -> Tensor:
    """How much of each pixel the shape covers, 0 to 1, float64 [96, 96]; it touches all four sides of its box."""
    left, top, right, _ = box
    radius = (right - left) / 2
    centres = torch.arange(SIDE, dtype=torch.float64) + 0.5
    x, y = (centres - left - radius)[None, :], (centres - top - radius)[:, None]
    if shape == "disc":
        distance = (x.square() + y.square()).sqrt() - radius
    elif shape == "square":
        distance = torch.maximum(x.abs(), y.abs()) - radius
    else:  # upright: its width grows from 0 at the top to that of the box at the bottom
        slope = 5**0.5  # length of (2, 1), the normal of its two long sides
        distance = torch.maximum((2 * x.abs() - (y + radius)) / slope, y - radius)
    return (0.5 - distance).clamp(0, 1)
