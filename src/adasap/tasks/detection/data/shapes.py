"""Coloured shapes on textured grounds with their boxes: drawn here, the same for everybody, for tests and the demo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.tasks.detection.data.boxes import Target, make_target
from adasap.tasks.detection.data.detection_set import Annotations, DetectionImages

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
    scenes = [draw_scene(split, index) for index in indices]
    pixels = [scene.image for scene in scenes]
    targets = (scene.target(index) for index, scene in zip(indices, scenes, strict=True))
    return DetectionImages(pixels, Annotations.of_targets(targets), SHAPES, where=f"shapes, split {split}")


@dataclass(frozen=True)
class Scene:
    """A drawn image and what it shows.

    Attributes:
        image: uint8 [3, 96, 96].
        boxes: x_min, y_min, x_max, y_max of each shape.
        labels: 1 to 3 of each.
        difficult: Whether each is faint.
        covers: How much of each pixel each shape covers, float64 [96, 96], 0 to 1; they do not overlap.
    """

    image: Tensor
    boxes: list[list[int]]
    labels: list[int]
    difficult: list[bool]
    covers: list[Tensor]

    def target(self, image_id: int) -> Target:
        """Its boxes."""
        difficult = torch.tensor(self.difficult, dtype=torch.bool)
        return make_target(torch.tensor(self.boxes), torch.tensor(self.labels), difficult, image_id=image_id)


def draw_scene(split: Literal["train", "test"], index: int) -> Scene:
    """Image `index` of a split."""
    generator = torch.Generator().manual_seed(_SEEDS[split] + index)
    image = _ground(generator)
    wanted = 0 if index % _EMPTY == _EMPTY - 1 else 1 + int(_integers(_MOST, generator))
    boxes: list[list[int]] = []
    labels, difficult, covers = [], [], []
    for _ in range(wanted):
        radius = _RADII[0] + int(_integers(_RADII[1] - _RADII[0] + 1, generator))
        place = [int(_integers(SIDE - 2 * radius + 1, generator)) for _ in range(2)]
        box = [*place, place[0] + 2 * radius, place[1] + 2 * radius]
        label, faint = 1 + int(_integers(len(SHAPES), generator)), int(_integers(_FAINT, generator)) == 0
        colour = _colour(generator)
        if any(_touch(box, other) for other in boxes):
            continue  # whether another one is drawn instead must not depend on a number of tries
        covers.append(_cover(SHAPES[label - 1], box))
        painted = covers[-1] * (0.25 if faint else 1.0)
        image = image * (1 - painted) + colour * painted
        boxes.append(box)
        labels.append(label)
        difficult.append(faint)
    pixels = (image * 255).round().clamp(0, 255).to(torch.uint8)
    return Scene(pixels, boxes, labels, difficult, covers)


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
