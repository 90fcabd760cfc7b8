"""How training images with boxes are varied: torchvision's transforms, as for SSD (Liu et al., 2016, section 2.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adasap.checks import MOST_PIXELS, require_within
from adasap.data.draws import generator_seeds, kept_random_state
from adasap.data.items import image_tensor, read_items
from adasap.errors import RecipeError
from adasap.tasks.detection.data.boxes import DetectionBatch, Target, typed_target

_SMALLEST = 1.0
"""Boxes narrower or lower than this, in pixels, go."""


@dataclass(frozen=True)
class DetectionAugmentation:
    """What is done to each training image and its boxes, in this order.

    Attributes:
        photometric: Brightness, contrast, saturation, hue and order of the colours, each at random.
        zoom_out: Half of the images are laid on a grey canvas up to so many times their width and height; 4 is SSD's;
            1 leaves them as they are.
        iou_crop: A random part of the image that overlaps some object enough (a minimum IoU drawn from 0 to 1); boxes
            whose centre lies outside go.
        horizontal_flip: Mirror half of the images.
        size: Height and width to which every image is brought, its aspect ratio not kept; None leaves them.
    """

    photometric: bool = False
    zoom_out: float = 1.0
    iou_crop: bool = False
    horizontal_flip: bool = False
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        require_within(RecipeError, 1, 16, zoom_out=self.zoom_out)
        require_within(RecipeError, 1, MOST_PIXELS, size=self.size)

    def maker(self, *, seed: int) -> DetectionAugmenter:
        """What makes the batches of images with boxes in a run of that seed."""
        return DetectionAugmenter(self, seed=seed)


class DetectionAugmenter:
    """Makes batches of varied images; every draw is a pure function of (seed, epoch, image).

    Args:
        augmentation: What to do.
        seed: Of the run.

    Example:
        >>> from adasap.tasks.detection.data.shapes import read_shapes
        >>> augmenter = DetectionAugmenter(DetectionAugmentation(iou_crop=True, size=(64, 64)), seed=0)
        >>> batch = augmenter.labelled(read_shapes("train", slice(2)), torch.tensor([1, 0]), epoch=3)
        >>> [tuple(image.shape) for image in batch.images]
        [(3, 64, 64), (3, 64, 64)]
    """

    def __init__(self, augmentation: DetectionAugmentation, *, seed: int) -> None:
        self.seed = seed
        self.transforms = _transforms(augmentation)

    def labelled(self, dataset: Any, indices: Tensor, epoch: int) -> DetectionBatch:
        """The images of one batch, uint8, with the boxes that are left of each; torch's generator stays as it was.

        Of any data set of (image, target); images of other types than uint8 are not varied.
        """
        images, targets = [], []
        samples = read_items(dataset, indices, seed=self.seed, epoch=epoch)
        seeds = generator_seeds(self.seed, epoch, indices, "boxes")
        with kept_random_state():
            for sample, index, seed in zip(samples, indices.tolist(), seeds, strict=True):
                image, target = image_tensor(sample[0]), typed_target(sample[1], index)
                torch.default_generator.manual_seed(seed)
                image, target = self._varied(image, target)
                images.append(image)
                targets.append(target)
        return DetectionBatch(images, targets)

    def _varied(self, image: Tensor, target: Target) -> tuple[Tensor, Target]:
        if not self.transforms or image.dtype != torch.uint8:
            return image, target
        from torchvision import tv_tensors

        boxes = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=image.shape[-2:])
        sample = tv_tensors.Image(image), boxes
        for transform in self.transforms:
            sample = transform(*sample)
        size = tuple(sample[0].shape[-2:])
        clipped = _clipped(sample[1].as_subclass(Tensor), size)
        stays = ((clipped[:, 2:] - clipped[:, :2]) >= _SMALLEST).all(dim=1)
        kept = {name: target[name][stays] for name in ("labels", "difficult")}
        return sample[0].as_subclass(Tensor), {**target, "boxes": clipped[stays], **kept}


def _clipped(boxes: Tensor, size: tuple[int, ...]) -> Tensor:
    limits = torch.tensor([size[1], size[0], size[1], size[0]], dtype=boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


def _transforms(options: DetectionAugmentation) -> list[Any]:
    from torchvision.transforms import v2

    transforms: list[Any] = []
    if options.photometric:
        transforms.append(v2.RandomPhotometricDistort(p=0.5))
    if options.zoom_out > 1:
        transforms.append(v2.RandomZoomOut(fill=127, side_range=(1.0, options.zoom_out), p=0.5))
    if options.iou_crop:
        transforms.append(v2.RandomIoUCrop())
    if options.horizontal_flip:
        transforms.append(v2.RandomHorizontalFlip(p=0.5))
    if options.size is not None:
        transforms.append(v2.Resize(list(options.size), antialias=True))
    return transforms
