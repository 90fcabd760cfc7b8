"""Sums of shifted images, and what lies beyond the border: the same arithmetic in any batch and on any device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

Offset = tuple[int, int]
"""Whole pixels down and to the right."""


def shifted_sum(images: Tensor, weights: Mapping[Offset, float], *, border: str) -> Tensor:
    """Weighted sum of shifted images: out[y, x] = sum of w image[y + down, x + right].

    Faster than a convolution for the few weights of a line or a small disk, and free of the reduced precision (TF32)
    that convolutions have on GPUs by default.

    Args:
        images: float [..., H, W].
        weights: Offset -> weight.
        border: "repeated" or "mirrored"; see `beyond_border`.

    Returns:
        float [..., H, W], contiguous.

    Example:
        >>> shifted_sum(torch.tensor([[1.0, 2.0, 4.0]]), {(0, 0): 1.0, (0, 1): 10.0}, border="repeated")
        tensor([[21., 42., 44.]])
    """
    downs, rights = [down for down, _ in weights], [right for _, right in weights]
    top, left = max(0, -min(downs)), max(0, -min(rights))
    padded = beyond_border(images, (top, max(0, *downs, 0)), (left, max(0, *rights, 0)), border=border)
    height, width = images.shape[-2:]
    total = torch.zeros(images.shape, dtype=images.dtype, device=images.device)
    for (down, right), weight in weights.items():
        rows, columns = top + down, left + right
        total.add_(padded[..., rows : rows + height, columns : columns + width], alpha=weight)
    return total


def beyond_border(images: Tensor, rows: tuple[int, int], columns: tuple[int, int], *, border: str) -> Tensor:
    """Pads [..., H, W] by so many rows before and after, and columns: any number, for any size from one pixel on.

    Args:
        border: "repeated" repeats the border pixel; "mirrored" mirrors about it, again and again if need be, and
            "reflected" about its outer edge, so that it comes twice.
    """
    height, width = images.shape[-2:]
    if border == "repeated" or (border == "mirrored" and max(rows) < height and max(columns) < width):
        mode = "replicate" if border == "repeated" else "reflect"
        padded = F.pad(images.reshape(1, -1, height, width), (*columns, *rows), mode=mode)
        return padded.view(*images.shape[:-2], *padded.shape[-2:])
    for dim, (before, after) in ((-2, rows), (-1, columns)):
        size = images.shape[dim]
        period = 2 * size if border == "reflected" else max(1, 2 * size - 2)
        last = 1 if border == "reflected" else 0  # the edge comes twice, or once
        places = torch.arange(-before, size + after, device=images.device) % period
        images = images.index_select(dim, torch.minimum(places, (period - last - places) % period))
    return images
