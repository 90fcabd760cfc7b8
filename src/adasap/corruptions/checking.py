"""What `corrupt` is given, checked with a sentence that says how to mend it."""

from __future__ import annotations

import torch
from torch import Tensor

from adasap.errors import DataError

_COLOURS = (1, 3)


def require_images(images: Tensor) -> None:
    """Raises DataError unless these are 8-bit images with colours first, uint8 [N, C, H, W].

    Example:
        >>> require_images(torch.rand(2, 3, 8, 8))
        Traceback (most recent call last):
        adasap.errors.DataError: images are float32 from 0 to 1, and corruptions are defined on 8-bit images; give
        (images * 255).round().to(torch.uint8)
    """
    if not isinstance(images, Tensor):
        move = "torch.from_numpy(images)" if type(images).__module__ == "numpy" else "torch.stack(list of images)"
        raise DataError(f"images are a {type(images).__name__}; give a tensor uint8 [N, 3, H, W], such as {move}")
    _require_numbers(images, "images")
    if images.dtype != torch.uint8:
        raise DataError(f"images are {_conversion(images)}")
    shape = tuple(images.shape)
    if images.ndim == 3:
        raise DataError(f"images have shape {shape}; give a batch: images.unsqueeze(0) of one image [3, H, W]")
    if images.ndim != 4:
        raise DataError(f"images have shape {shape}; give a batch [N, 3, H, W]")
    if shape[1] not in _COLOURS and shape[3] in _COLOURS:
        raise DataError(f"images have shape {shape}, with the colours last; give images.permute(0, 3, 1, 2)")
    if 0 in shape[1:]:
        raise DataError(f"images have shape {shape}, which holds no pixel; give images of at least 1 x 1")


def _require_numbers(tensor: Tensor, name: str) -> None:
    if tensor.layout != torch.strided:
        raise DataError(f"{name} are {str(tensor.layout).removeprefix('torch.')}; give {name}.to_dense()")
    if tensor.is_meta:
        raise DataError(f"{name} are on the meta device, which has shapes and no numbers; give them on another")


def _conversion(images: Tensor) -> str:
    kind = str(images.dtype).removeprefix("torch.")
    if not images.numel() or images.is_complex():
        return f"{kind}; give uint8 [N, 3, H, W]"
    low, high = images.min().item(), images.max().item()
    if images.is_floating_point() and not 0 <= low <= high <= 255:
        return (
            f"{kind} from {low:.3g} to {high:.3g}, as after a model's preprocessing; corruptions come before it: give "
            "the 8-bit images themselves"
        )
    span = f"{kind} from {low:.3g} to {high:.3g}"
    if images.dtype == torch.bool or (images.is_floating_point() and high <= 1):
        span, move = f"{kind} from {low:g} to {high:g}", "(images * 255).round().to(torch.uint8)"
        if images.is_floating_point():
            span = f"{kind} from 0 to 1"
    elif low >= 0 and high <= 255:
        move = "images.round().to(torch.uint8)" if images.is_floating_point() else "images.to(torch.uint8)"
    else:
        move = "(images / 257).round().to(torch.uint8) if they have 16 bits"
    return f"{span}, and corruptions are defined on 8-bit images; give {move}"


def checked_seeds(seeds: Tensor, count: int) -> Tensor:
    """The seeds, int64 [count].

    Raises:
        DataError: Unless there is one whole number for each image.
    Example:
        >>> checked_seeds(torch.arange(3), 2)
        Traceback (most recent call last):
        adasap.errors.DataError: seeds have shape (3,) and there are 2 images; give one whole number for each image
    """
    if not isinstance(seeds, Tensor):
        raise DataError(f"seeds are a {type(seeds).__name__}; give torch.tensor([...]) with a whole number per image")
    _require_numbers(seeds, "seeds")
    if seeds.is_floating_point() or seeds.is_complex() or seeds.dtype == torch.bool:
        raise DataError(
            f"seeds are {str(seeds.dtype).removeprefix('torch.')}; give whole numbers: seeds.to(torch.int64)"
        )
    if tuple(seeds.shape) != (count,):
        raise DataError(
            f"seeds have shape {tuple(seeds.shape)} and there are {count} images; give one whole number for each image"
        )
    return seeds.to(torch.int64)
