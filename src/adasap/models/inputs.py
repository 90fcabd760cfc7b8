"""The size of the images that a model takes, where nobody said it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from adasap.errors import ModelError
from adasap.models.open import ModelSpec

Size = tuple[int, int, int]

_OWN_SIDES = {"digits": 32, "cifar": 32, "mobilenet": 224}


def default_input_size(spec: ModelSpec) -> Size | None:
    """Channels, height and width that a kind of model is made for; None for code that says nothing of it.

    Of torchvision's and timm's models those of their published weights, of CIFAR's and the digits' 32 x 32.

    Example:
        >>> default_input_size(ModelSpec("torchvision:inception_v3")), default_input_size(ModelSpec("mine:net"))
        ((3, 299, 299), None)
    """
    source, _, name = spec.builder.partition(":")
    given = spec.options.get("in_chans", spec.options.get("in_channels"))
    channels = given if isinstance(given, int) else 3
    if spec.input_size is not None:
        return spec.input_size
    if isinstance(side := spec.options.get("image_size"), int) and source in ("adasap", "torchvision"):
        return channels, side, side
    if source == "adasap":
        return _own(name, channels)
    if source == "torchvision":
        return _torchvision(name)
    if source == "timm":
        return _timm(name, spec.options, channels)
    return None


def input_size_of(spec: ModelSpec) -> Size:
    """Channels, height and width that the spec says, or that its kind of model is made for.

    Raises:
        ModelError: If neither is known.
    """
    size = default_input_size(spec)
    if size is None:
        raise ModelError(
            f"the size of the images that {spec.builder} takes is not known; give it (`--size` on the command line, "
            "`input_size: [3, 224, 224]` below `model:` in a recipe, ModelSpec(..., input_size=...) in Python)"
        )
    return size


def _own(name: str, channels: int) -> Size | None:
    from adasap.models.builders import resolve_builder

    side = next((side for word, side in _OWN_SIDES.items() if name.startswith(word)), 0)
    if not side:
        parameter = inspect.signature(resolve_builder(f"adasap:{name}")).parameters.get("image_size")
        side = parameter.default if parameter is not None and isinstance(parameter.default, int) else 0
    return (channels, side, side) if side else None


def _torchvision(name: str) -> Size | None:
    from torchvision import models

    if name in models.list_models(module=models.detection):
        side = next((int(digits) for digits in re.findall(r"^ssd(?:lite)?(\d+)_", name)), 0)
        return (3, side, side) if side else None
    weights = list(models.get_model_weights(name)) if name in models.list_models() else []
    crop = weights[0].transforms.keywords.get("crop_size") if weights else None
    side = crop if isinstance(crop, int) else 224
    return 3, side, side


def _timm(name: str, options: Mapping[str, Any], channels: int) -> Size:
    import timm

    known = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    size = known.input_size if known is not None else (3, 224, 224)
    height, width = (options["img_size"],) * 2 if isinstance(options.get("img_size"), int) else size[-2:]
    return channels, int(height), int(width)
