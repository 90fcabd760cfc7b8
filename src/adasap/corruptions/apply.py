"""One corruption on a batch of 8-bit images."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from adasap.corruptions.checking import checked_seeds, require_images
from adasap.corruptions.chunks import for_each_chunk
from adasap.corruptions.protocol import NUM_SEVERITIES, Constants, constants_for, is_on_levels
from adasap.corruptions.registry import CORRUPTIONS, require_channels
from adasap.errors import DataError


def corrupt(
    images: Tensor, name: str, severity: int, *, seeds: Tensor | None = None, constants: Constants | None = None
) -> Tensor:
    """Corrupts a batch of 8-bit images.

    Grey images (one channel) are corrupted as the benchmark's code treats grey: noise on the one channel, the luma of
    what has a colour of its own (ice, water, mud). With other numbers of channels each is corrupted by itself, except
    by what is defined by colour.

    Args:
        images: uint8 [N, C, H, W].
        severity: 1 (mild) to 5.
        seeds: int64 [N]; default 0 to N-1. Pass the index in the data set, so that batches do not matter.
        constants: Severity constants; default by image size.

    Returns:
        uint8 [N, C, H, W], cut off (not rounded) to whole numbers as the benchmark does.

    Raises:
        DataError: For an unknown corruption, a severity outside 1 to 5, images that are not a batch of 8-bit images
            with the channels second, channels that it is not defined for, seeds that are not one whole number per
            image, or a corruption that gives something else than images of the same shape.

    Example:
        >>> corrupt(torch.full((1, 3, 32, 32), 128, dtype=torch.uint8), "contrast", 5).unique()
        tensor([128], dtype=torch.uint8)
    """
    corruption = CORRUPTIONS.get(name)
    if not isinstance(severity, int) or isinstance(severity, bool) or not 1 <= severity <= NUM_SEVERITIES:
        raise DataError(f"severity {severity!r} of {name} does not exist; give a whole number from 1 to 5")
    require_images(images)
    require_channels([name], images.shape[1])
    seeds = torch.arange(len(images)) if seeds is None else checked_seeds(seeds, len(images))
    constants = constants_for(*images.shape[-2:]) if constants is None else constants
    if constants not in get_args(Constants):
        raise DataError(f"constants are {constants!r}; give one of {', '.join(get_args(Constants))}, or leave them out")
    if not len(images):
        return images.clone()
    on_levels = is_on_levels(corruption)
    seeds, corrupted = seeds.to(images.device), torch.empty_like(images, memory_format=torch.contiguous_format)

    def work(chunk: slice) -> None:
        values = images[chunk].contiguous()
        values = values if on_levels else values.float().div_(255)
        values = _checked(name, corruption(values, severity, seeds[chunk], constants), values)
        if on_levels:
            corrupted[chunk] = values
            return
        # One part in 1e6 of slack: 128 / 255 * 255 must stay 128 when it is cut off.
        corrupted[chunk] = values.mul(255).add_(1e-4).clamp_(0, 255)

    if images.device.type == "cpu":
        for_each_chunk(work, len(images), images[:1].numel())
    else:
        work(slice(None))
    return corrupted


def _checked(name: str, found: object, given: Tensor) -> Tensor:
    """What a corruption gave; a user's own may give anything."""
    if not isinstance(found, Tensor) or found.shape != given.shape or found.dtype != given.dtype:
        what = f"{found.dtype} {list(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise DataError(f"corruption {name!r} gave {what} for {given.dtype} {list(given.shape)}; return what is alike")
    return found
