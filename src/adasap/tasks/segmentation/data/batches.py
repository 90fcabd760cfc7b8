"""Batches of images with masks, and how training samples are varied: image and mask together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adasap.checks import MOST_PIXELS, require_above, require_declared, require_within
from adasap.data.draws import generator_seeds, kept_random_state
from adasap.data.items import image_and_target, image_tensor, read_items, target_tensor
from adasap.errors import DataError, RecipeError
from adasap.tasks.segmentation.data.segmentation_set import IGNORED, Sample

PixelTensors = Tensor | list[Tensor]


class SegmentationBatch(NamedTuple):
    """Images with their masks: one tensor each where all have one size, else lists.

    Attributes:
        images: uint8 [N, C, H, W] or N of [C, H, W] as read, float once a task has prepared them.
        masks: uint8 [N, H, W] or N of [H, W]; int64 once a task has prepared them.
    """

    images: PixelTensors
    masks: PixelTensors


def collated(samples: Sequence[Any]) -> SegmentationBatch:
    """A batch of samples, (image, mask) each, of PIL, NumPy, tensors or tv_tensors.

    Raises:
        DataError: For items of another kind, or a mask that is not of whole numbers [H, W], the size of its image.

    Example:
        >>> import numpy as np
        >>> small, large = ((np.zeros((n, n, 3), np.uint8), np.zeros((n, n), np.uint8)) for n in (4, 8))
        >>> collated([small, small]).images.shape, len(collated([small, large]).images)
        (torch.Size([2, 3, 4, 4]), 2)
    """
    pairs = [_pair(sample) for sample in samples]
    images, masks = [image for image, _ in pairs], [mask for _, mask in pairs]
    if len({image.shape for image in images}) == 1:
        return SegmentationBatch(torch.stack(images), torch.stack(masks))
    return SegmentationBatch(images, masks)


def _pair(sample: Any) -> Sample:
    """Image [C, H, W] and mask [H, W] as tensors."""
    image, mask = image_and_target(sample)
    pixels, numbers = image_tensor(image), target_tensor(mask)
    if isinstance(numbers, Tensor) and numbers.ndim == 3 and len(numbers) == 1:
        numbers = numbers[0]
    whole = isinstance(numbers, Tensor) and not numbers.is_floating_point() and not numbers.is_complex()
    if not whole or numbers.shape != pixels.shape[-2:]:
        given = f"{numbers.dtype} {list(numbers.shape)}" if isinstance(numbers, Tensor) else type(mask).__name__
        raise DataError(
            f"a mask is {given} and its image {list(pixels.shape)}; give class numbers [H, W] of the image's size, "
            f"{IGNORED} where a pixel takes no part"
        )
    return pixels, numbers


@dataclass(frozen=True)
class SegmentationAugmentation:
    """What is done to each training image and its mask, in this order.

    Attributes:
        scale: Sides are multiplied by a factor between these two; (1, 1) leaves them.
        crop: Height and width of a random part; smaller images are padded, their mask with ignored pixels.
        horizontal_flip: Mirror half of the images.
        colour: Brightness, contrast and saturation each change by up to this fraction.
        hue: Hue turns by up to this fraction of the circle, 0 to 0.5.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    crop: tuple[int, int] | None = None
    horizontal_flip: bool = False
    colour: float = 0.0
    hue: float = 0.0

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        require_above(RecipeError, 0, 16, scale=self.scale)
        require_within(RecipeError, 1, MOST_PIXELS, crop=self.crop)
        require_within(RecipeError, 0, 1, colour=self.colour)
        require_within(RecipeError, 0, 0.5, hue=self.hue)
        if self.scale[0] > self.scale[1]:
            raise RecipeError(f"scale is {self.scale}; give the smallest factor first, such as (0.5, 2.0)")


def varied(batch: SegmentationBatch, options: SegmentationAugmentation, seeds: Sequence[int]) -> SegmentationBatch:
    """The batch varied; what happens to an image follows from its seed alone, torch's generator stays as it was.

    Args:
        batch: Images uint8 and masks uint8.
        options: What to do.
        seeds: One for each image.

    Example:
        >>> image = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
        >>> batch = SegmentationBatch(image, image[:, 0])
        >>> image, mask = varied(batch, SegmentationAugmentation(crop=(2, 2), horizontal_flip=True), [7])
        >>> image.shape, bool((image[:, 0] == mask).all())
        (torch.Size([1, 3, 2, 2]), True)
    """
    steps = _steps(options)
    if not steps:
        return batch
    with kept_random_state():
        rows = zip(batch.images, batch.masks, seeds, strict=True)
        return collated([_varied(image, mask, seed, steps) for image, mask, seed in rows])


@dataclass(frozen=True)
class SegmentationBatching:
    """Batches of samples varied by an augmentation."""

    augmentation: SegmentationAugmentation

    def maker(self, *, seed: int) -> SegmentationAugmenter:
        """What makes the batches of a run of that seed."""
        return SegmentationAugmenter(self.augmentation, seed=seed)


class SegmentationAugmenter:
    """Makes batches of varied samples; every draw is a pure function of (seed, epoch, image).

    Args:
        augmentation: What to do.
        seed: Of the run.

    Example:
        >>> from adasap.tasks.segmentation.data.shapes import read_shape_masks
        >>> augmenter = SegmentationAugmenter(SegmentationAugmentation(scale=(0.5, 2.0), crop=(64, 80)), seed=0)
        >>> augmenter.labelled(read_shape_masks("train", slice(2)), torch.tensor([1, 0]), epoch=3).masks.shape
        torch.Size([2, 64, 80])
    """

    def __init__(self, augmentation: SegmentationAugmentation, *, seed: int) -> None:
        self.augmentation, self.seed = augmentation, seed

    def labelled(self, dataset: Any, indices: Tensor, epoch: int) -> SegmentationBatch:
        """The samples of one batch, uint8."""
        batch = collated(read_items(dataset, indices, seed=self.seed, epoch=epoch))
        return varied(batch, self.augmentation, generator_seeds(self.seed, epoch, indices, "masks"))


Step = Callable[[Any, Any], tuple[Any, Any]]


def _varied(image: Tensor, mask: Tensor, seed: int, steps: Sequence[Step]) -> Sample:
    from torchvision import tv_tensors

    if image.shape[-2:] != mask.shape[-2:]:
        raise DataError(
            f"an image is {list(image.shape[-2:])} pixels and its mask {list(mask.shape[-2:])}; give both one size"
        )
    torch.default_generator.manual_seed(seed)
    pair: tuple[Any, Any] = tv_tensors.Image(image), tv_tensors.Mask(mask)
    for step in steps:
        pair = step(*pair)
    return pair[0].as_subclass(Tensor).contiguous(), pair[1].as_subclass(Tensor).contiguous()


def _steps(options: SegmentationAugmentation) -> list[Step]:
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    steps: list[Step] = []
    if options.scale != (1.0, 1.0):
        steps.append(lambda image, mask: _scaled(image, mask, options.scale))
    if options.crop is not None:
        fill: dict[Any, int] = {tv_tensors.Image: 127, tv_tensors.Mask: IGNORED}
        steps.append(v2.RandomCrop(list(options.crop), pad_if_needed=True, fill=fill))
    if options.horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(p=0.5))
    if options.colour or options.hue:
        amount = options.colour
        steps.append(v2.ColorJitter(amount, amount, amount, options.hue))
    return steps


def _scaled(image: Any, mask: Any, bounds: tuple[float, float]) -> tuple[Any, Any]:
    """Bilinear for the image, nearest for the mask; the factor is uniform in its logarithm."""
    from torchvision.transforms.v2 import InterpolationMode, functional

    low, high = torch.tensor(bounds, dtype=torch.float64).log()
    factor = float((low + (high - low) * torch.rand((), dtype=torch.float64)).exp())
    size = [max(1, round(side * factor)) for side in image.shape[-2:]]
    mask = functional.resize(mask, size, InterpolationMode.NEAREST_EXACT)
    return functional.resize(image, size, antialias=True), mask
