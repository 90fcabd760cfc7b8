"""How training images are varied: torchvision's transforms per image, crop and flip by the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from adasap.checks import MOST_PIXELS, require_declared, require_within
from adasap.data.draws import generator_seeds, kept_random_state, random_integers
from adasap.data.images import ImageSet, ImagesOf, InMemoryImages
from adasap.errors import DataError, RecipeError, suggestion

Transform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Resizing:
    """Brings an image to the model's size; the same before training and before evaluation.

    Attributes:
        resize: Length of the shorter side, in pixels.
        center_crop: Side of the central square that is kept, in pixels.
        interpolation: How `resize` computes pixels; always antialiased.

    Example:
        >>> Resizing(resize=8, center_crop=6)(torch.zeros(3, 16, 32, dtype=torch.uint8)).shape
        torch.Size([3, 6, 6])
    """

    resize: int | None = None
    center_crop: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        for name in ("resize", "center_crop"):
            _check_length(name, getattr(self, name))

    def __bool__(self) -> bool:
        return self.resize is not None or self.center_crop is not None

    def __call__(self, image: Tensor) -> Tensor:
        """Image uint8 [C, H, W] to uint8 [C, H', W']."""
        from torchvision.transforms.v2 import InterpolationMode, functional

        if self.resize is not None:
            image = functional.resize(image, [self.resize], InterpolationMode(self.interpolation), antialias=True)
        if self.center_crop is not None:
            image = functional.center_crop(image, [self.center_crop])
        return image


class ResizedImages(ImagesOf):
    """Images that are brought to one size when they are asked for.

    Args:
        images: Images of any sizes.
        resizing: What is done to each.
    """

    def __init__(self, images: ImageSet, resizing: Resizing) -> None:
        super().__init__(images)
        self.resizing = resizing

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.resizing(self.images_before[index][0]), int(self.labels[index])


@dataclass(frozen=True)
class ExtraTransform:
    """One more transform, by the name of its class in `torchvision.transforms.v2`.

    Attributes:
        name: Such as `TrivialAugmentWide`, `RandAugment`, `RandomErasing` or `ColorJitter`.
        options: Its keyword arguments.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for option, value in self.options.items():
            values = value if isinstance(value, list | tuple) else [value]
            numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
            require_within(RecipeError, -4096, 4096, **{option: numbers})

    def build(self) -> Transform:
        """The transform.

        Raises:
            RecipeError: If there is no such transform, or it takes other options.
        """
        from torchvision.transforms import v2

        known = _transform_names(v2)
        if self.name not in known:
            raise RecipeError(
                f"torchvision.transforms.v2 has no transform {self.name!r}; {suggestion(self.name, known)}"
            )
        try:
            transform: Transform = getattr(v2, self.name)(**self.options)
        except (TypeError, ValueError) as error:
            raise RecipeError(
                f"{self.name} does not take the options {self.options} ({error}); "
                f"see torchvision.transforms.v2.{self.name}"
            ) from error
        return transform


@dataclass(frozen=True)
class Augmentation:
    """What is done to each training image, in this order.

    Attributes:
        random_resized_crop: Side, in pixels, of a crop of random area (8 to 100 %) and aspect (3:4 to 4:3),
            as for ImageNet. A fixed size is the data source's `resize` and `center_crop`.
        random_crop_padding: Zeros added on all sides, in pixels, before a random crop of the former size, as
            for CIFAR.
        horizontal_flip: Mirror half of the images.
        extra: More torchvision transforms that take and give 8-bit images of one size.
    """

    random_resized_crop: int | None = None
    random_crop_padding: int = 0
    horizontal_flip: bool = False
    extra: tuple[ExtraTransform, ...] = ()

    def __post_init__(self) -> None:
        _check_length("random_resized_crop", self.random_resized_crop)
        require_within(RecipeError, 0, 1024, random_crop_padding=self.random_crop_padding)

    def maker(self, *, seed: int) -> Augmenter:
        """What makes the batches of images with labels in a run of that seed."""
        return Augmenter(self, seed=seed)


class Augmenter:
    """Makes batches of augmented images; every draw is a pure function of (seed, epoch, image).

    Args:
        augmentation: What to do.
        seed: Of the run.
    Raises:
        RecipeError: If an extra transform is unknown or takes other options.
    """

    def __init__(self, augmentation: Augmentation, *, seed: int) -> None:
        self.options = augmentation
        self.seed = seed
        self.extra = [transform.build() for transform in augmentation.extra]
        self.sizing = _sizing(augmentation)

    def batch(self, dataset: ImageSet, indices: Tensor, epoch: int) -> Tensor:
        """The images of one batch, uint8 [B, C, H, W]; torch's global generator is left as it was.

        Raises:
            DataError: If the images of the batch differ in size.
        """
        images = self._sized(dataset, indices, epoch)
        if self.options.random_crop_padding:
            images = self._cropped(images, indices, epoch)
        if self.options.horizontal_flip:
            flip = random_integers(self.seed, epoch, indices, "flip", 2).bool()
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        if self.extra:
            images = stack_images(
                [self._varied(image, s) for image, s in self._seeded(images, indices, epoch)], indices
            )
        return images

    def labelled(self, dataset: ImageSet, indices: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """`batch` with its labels, int64 [B]."""
        return self.batch(dataset, indices, epoch), dataset.labels[indices]

    def _sized(self, dataset: ImageSet, indices: Tensor, epoch: int) -> Tensor:
        if self.sizing is None and isinstance(dataset, InMemoryImages):
            return dataset.images[indices]
        size = self.sizing or (lambda image: image)
        seeds = generator_seeds(self.seed, epoch, indices, "size")
        with kept_random_state():
            sized = []
            for index, seed in zip(indices.tolist(), seeds, strict=True):
                image = dataset[index][0]
                torch.default_generator.manual_seed(seed)
                sized.append(size(image))
        return stack_images(sized, indices)

    def _cropped(self, images: Tensor, indices: Tensor, epoch: int) -> Tensor:
        padding, (height, width) = self.options.random_crop_padding, images.shape[-2:]
        top = random_integers(self.seed, epoch, indices, "top", 2 * padding + 1)
        left = random_integers(self.seed, epoch, indices, "left", 2 * padding + 1)
        rows = (top[:, None] + torch.arange(height))[:, None, :, None]
        columns = (left[:, None] + torch.arange(width))[:, None, None, :]
        image, channel = (
            torch.arange(len(images))[:, None, None, None],
            torch.arange(images.shape[1])[None, :, None, None],
        )
        return F.pad(images, (padding,) * 4)[image, channel, rows, columns]

    def _seeded(self, images: Tensor, indices: Tensor, epoch: int) -> zip[tuple[Tensor, int]]:
        return zip(images, generator_seeds(self.seed, epoch, indices, "extra"), strict=True)

    def _varied(self, image: Tensor, seed: int) -> Tensor:
        with kept_random_state():
            torch.default_generator.manual_seed(seed)
            for name, transform in zip(self.options.extra, self.extra, strict=True):
                image = _transformed(name, transform, image)
                if image.dtype != torch.uint8 or image.ndim != 3:
                    raise RecipeError(
                        f"{name.name} turned an 8-bit image into {image.dtype} {list(image.shape)}; use "
                        f"transforms "
                        f"that keep uint8 [C, H, W] (the model's own mean and std are applied later)"
                    )
        return image


def _transformed(name: ExtraTransform, transform: Transform, image: Tensor) -> Tensor:
    try:
        return transform(image)
    except (TypeError, ValueError, RuntimeError) as error:
        raise RecipeError(
            f"{name.name} cannot vary images of {image.shape[0]} channels ({error}); leave it out of `extra`"
        ) from error


def _sizing(options: Augmentation) -> Transform | None:
    if options.random_resized_crop is None:
        return None
    from torchvision.transforms import v2

    crop: Transform = v2.RandomResizedCrop(options.random_resized_crop, antialias=True)
    return crop


def stack_images(images: list[Tensor], indices: Tensor) -> Tensor:
    """Images of one size as a batch; `indices` name them in the error."""
    for image, index in zip(images, indices.tolist(), strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"images differ in size: image {int(indices[0])} is {list(images[0].shape)}, image {index} "
                f"is "
                f"{list(image.shape)}; set `resize` and `center_crop`, or `random_resized_crop` for training"
            )
    return torch.stack(images)


def _check_length(name: str, length: int | None) -> None:
    require_within(RecipeError, 1, MOST_PIXELS, **{name: length})


def _transform_names(module: Any) -> list[str]:
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, module.Transform) and value is not module.Transform
    ]
