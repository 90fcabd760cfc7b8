"""How images are prepared for the published weights of a model: size, crop, mean and std, without any download."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from adasap.models.inputs import Size, default_input_size
from adasap.models.open import IMAGENET_MEAN, IMAGENET_STD, ModelSpec, timm_config, timm_mean_std

Interpolation = Literal["bilinear", "bicubic"]
_DETECTORS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "ssd300_vgg16": ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3),
    "ssdlite320_mobilenet_v3_large": ((0.5,) * 3, (0.5,) * 3),
}
"""Mean and std of torchvision's detectors whose own are not ImageNet's (docs/detectors.md)."""
_CROPPED = 0.875
"""Of the shorter side, where nothing says it: the 224 of 256 of ImageNet's usual preparation."""


@dataclass(frozen=True)
class Preparation:
    """What brings an image to a model.

    Attributes:
        size: Channels, height, width; None where nothing says it.
        resize: Length that the shorter side is brought to before the central crop, in pixels.
        interpolation: How that computes pixels.
        mean, std: Per channel: (x / 255 - mean) / std.
        said_by: Who says so, for people; empty where these are the defaults.
    """

    size: Size | None
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    said_by: str = ""


def preparation_of(spec: ModelSpec) -> Preparation:
    """What torchvision's weights or timm's configuration say; elsewhere the spec's own numbers.

    Example:
        >>> found = preparation_of(ModelSpec("torchvision:resnet18"))
        >>> found.size, found.resize, found.said_by
        ((3, 224, 224), 256, 'torchvision IMAGENET1K_V1')
        >>> preparation_of(ModelSpec("timm:vit_tiny_patch16_224")).mean
        (0.5, 0.5, 0.5)
    """
    size, name = default_input_size(spec), spec.builder.partition(":")[2]
    found = None
    if spec.builder.startswith("torchvision:"):
        found = _of_torchvision(name, size)
    elif spec.builder.startswith("timm:"):
        found = _of_timm(name, size)
    if found is None or (size is not None and len(found.mean) != size[0]):
        resize = None if size is None else round(size[-1] / _CROPPED)
        return Preparation(size, resize, mean=spec.mean, std=spec.std)
    return found


def carried_mean_std(model: nn.Module, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """What a model of timm's kind carries with it; None if nothing.

    Example:
        >>> model = nn.Conv2d(3, 4, 3)
        >>> model.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
        >>> carried_mean_std(model, 3)
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    """
    return timm_mean_std(getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None), channels)


def _of_torchvision(name: str, size: Size | None) -> Preparation | None:
    from torchvision import models

    weights = list(models.get_model_weights(name)) if name in models.list_models() else []
    if not weights:
        return None
    transforms = weights[0].transforms()
    mean, std = getattr(transforms, "mean", None), getattr(transforms, "std", None)
    if mean is None or std is None:  # of a detector, which normalises by itself there
        mean, std = _DETECTORS.get(name, (IMAGENET_MEAN, IMAGENET_STD))
        return Preparation(size, None, mean=mean, std=std, said_by=f"torchvision {weights[0].name}")
    resize = getattr(transforms, "resize_size", None)
    resize = resize[0] if isinstance(resize, list) else resize
    mode = getattr(getattr(transforms, "interpolation", None), "value", "")
    return Preparation(size, resize, _interpolation(mode), tuple(mean), tuple(std), f"torchvision {weights[0].name}")


def _of_timm(name: str, size: Size | None) -> Preparation | None:
    known = timm_config(name)
    if known is None or size is None:
        return None
    resize = int(size[-1] / (known.crop_pct or _CROPPED))
    mode = _interpolation(known.interpolation)
    return Preparation(size, resize, mode, tuple(known.mean), tuple(known.std), f"timm's configuration of {name}")


def _interpolation(mode: Any) -> Interpolation:
    return "bicubic" if mode == "bicubic" else "bilinear"
