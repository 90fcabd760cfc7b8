"""Common image corruptions (Hendrycks and Dietterich, 2019, arXiv:1903.12261) as batched tensor code.

The 15 that are reported and the four on which choices may be made, behind one protocol.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adasap.corruptions.blur import defocus_blur, gaussian_blur
from adasap.corruptions.chunks import for_each_chunk
from adasap.corruptions.digital import brightness, contrast, jpeg_compression, pixelate, saturate
from adasap.corruptions.elastic import elastic_transform
from adasap.corruptions.glass import glass_blur
from adasap.corruptions.liquid import spatter
from adasap.corruptions.motion import motion_blur
from adasap.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from adasap.corruptions.protocol import NUM_SEVERITIES, Constants, Corruption, constants_for
from adasap.corruptions.weather import fog, frost, snow
from adasap.corruptions.zoom import zoom_blur
from adasap.errors import DataError, suggestion

__all__ = ["BENCHMARK", "NUM_SEVERITIES", "VALIDATION", "Corruption", "constants_for", "corrupt", "corruption_names"]

BENCHMARK = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The 15 corruptions that are reported."""

VALIDATION = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""The four kept apart, on which choices may be made."""

_REGISTRY: dict[str, Corruption] = {
    "gaussian_noise": gaussian_noise,
    "shot_noise": shot_noise,
    "impulse_noise": impulse_noise,
    "speckle_noise": speckle_noise,
    "defocus_blur": defocus_blur,
    "glass_blur": glass_blur,
    "motion_blur": motion_blur,
    "zoom_blur": zoom_blur,
    "gaussian_blur": gaussian_blur,
    "contrast": contrast,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "spatter": spatter,
    "brightness": brightness,
    "elastic_transform": elastic_transform,
    "pixelate": pixelate,
    "jpeg_compression": jpeg_compression,
    "saturate": saturate,
}

_ON_LEVELS = frozenset({"pixelate", "jpeg_compression"})
"""Given uint8 and giving it: they deal in whole numbers, and conversions would take as long as their own steps."""


def corruption_names() -> tuple[str, ...]:
    """The corruptions that can be computed."""
    return tuple(_REGISTRY)


def corrupt(
    images: Tensor, name: str, severity: int, *, seeds: Tensor | None = None, constants: Constants | None = None
) -> Tensor:
    """Corrupts a batch of 8-bit images.

    Args:
        images: uint8 [N, 3, H, W].
        severity: 1 (mild) to 5.
        seeds: int64 [N]; default 0 to N-1. Pass the index in the data set, so that batches do not matter.
        constants: Severity constants; default by image size.

    Returns:
        uint8 [N, 3, H, W], cut off (not rounded) to whole numbers as the benchmark does.

    Raises:
        DataError: For an unknown corruption or a severity outside 1 to 5.

    Example:
        >>> corrupt(torch.full((1, 3, 32, 32), 128, dtype=torch.uint8), "contrast", 5).unique()
        tensor([128], dtype=torch.uint8)
    """
    if name not in _REGISTRY:
        raise DataError(f"no corruption is called {name!r}; {suggestion(name, _REGISTRY)}")
    if not 1 <= severity <= NUM_SEVERITIES:
        raise DataError(f"severity {severity} of {name} does not exist; give a whole number from 1 to 5")
    seeds = torch.arange(len(images)) if seeds is None else seeds
    constants = constants or constants_for(*images.shape[-2:])
    seeds, corrupted = seeds.to(images.device), torch.empty_like(images, memory_format=torch.contiguous_format)

    def work(chunk: slice) -> None:
        values = images[chunk].contiguous()
        if name in _ON_LEVELS:
            corrupted[chunk] = _REGISTRY[name](values, severity, seeds[chunk], constants)
            return
        values = _REGISTRY[name](values.float().div_(255), severity, seeds[chunk], constants)
        # One part in 1e6 of slack: 128 / 255 * 255 must stay 128 when it is cut off.
        corrupted[chunk] = values.mul(255).add_(1e-4).clamp_(0, 255)

    if images.device.type == "cpu":
        for_each_chunk(work, len(images), images[:1].numel())
    else:
        work(slice(None))
    return corrupted
