"""Samples of more than 8 bits: which value is white, and how they become 8 bits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from adasap.errors import DataError

_BLOCK = 256  # rows at a time, so that no wide copy of a large image is made


def scaled_samples(samples: np.ndarray[Any, Any], white: float, where: str) -> np.ndarray[Any, Any]:
    """Samples from 0 to `white` as uint8 from 0 to 255, rounded; nothing is clipped.

    Args:
        samples: Of any shape and type.
        white: What becomes 255.
        where: What error messages call the source.
    Raises:
        DataError: If a sample is no number, below 0, or above white.

    Example:
        >>> scaled_samples(np.array([0, 2048, 4095], dtype=np.uint16), 4095, "scan.tif")
        array([  0, 128, 255], dtype=uint8)
    """
    low, high = samples.min(initial=0), samples.max(initial=0)
    if not (low >= 0 and high <= white):  # also where a sample is NaN
        raise DataError(
            f"{where}: samples run from {low:g} to {high:g}, wanted 0 to {white:g}, its white; give a `white` of the "
            "data source that no sample exceeds, or convert the images to 8 bits"
        )
    levels = np.empty(samples.shape, dtype=np.uint8)
    for start in range(0, len(samples), _BLOCK):
        part = slice(start, start + _BLOCK)
        levels[part] = np.rint(samples[part].astype(np.float64) * (255 / white))
    return levels


def image_levels(images: np.ndarray[Any, Any], where: str, white: float | None = None) -> np.ndarray[Any, Any]:
    """Images of an array file as uint8 [N, H, W, C].

    Args:
        images: [N, H, W] (grey) or [N, H, W, C]; uint8 or booleans, or any numbers if `white` is given.
        where: What error messages call the source.
        white: The sample value that is white, where samples have more than 8 bits.
    Raises:
        DataError: For another shape or type.

    Example:
        >>> image_levels(np.ones((2, 4, 4), dtype=bool), "digits.npz").shape
        (2, 4, 4, 1)
    """
    if images.ndim not in (3, 4) or images.dtype.kind not in "buif":
        raise DataError(f"{where} is {images.dtype} {list(images.shape)}, wanted uint8 [N, H, W, C] or [N, H, W]")
    images = images[..., None] if images.ndim == 3 else images
    rows, columns, channels = images.shape[1:]
    if rows <= 4 < channels or (rows < columns == channels and channels > 4) or channels < 1:
        raise DataError(
            f"{where} is {list(images.shape)}, which looks like [N, C, H, W]; wanted [N, H, W, C]: "
            "numpy.transpose(images, (0, 2, 3, 1))"
        )
    if images.dtype == np.uint8:
        return images
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    if white is None:
        raise DataError(
            f"{where} is {images.dtype} {list(images.shape)}, wanted uint8 [N, H, W, C], and nothing says which value "
            "is white; give `white` of the data source (4095 for 12 bits, 65535 for 16, 1.0 for fractions), or store "
            "8-bit images"
        )
    return scaled_samples(images, white, where)


def grey_white(
    samples: np.ndarray[Any, Any], kind: str, tags: Mapping[int, Any], significant: bytes | None, where: str
) -> float:
    """The value that is white, as far as an image file says it.

    PNG and 16-bit TIFF reach 65,535 by their standards. Cameras of 10, 12 or 14 bits often leave the upper bits empty
    without saying so: an image that stays in the lowest quarter is therefore refused.

    Args:
        samples: All samples.
        kind: Pillow's name of the format.
        tags: Of a TIFF.
        significant: Content of a PNG's chunk sBIT.
    Raises:
        DataError: If it is not known.
    """
    stated = [_number(tags.get(tag)) for tag in (341, 281)]  # SMaxSampleValue, MaxSampleValue
    declared = [value for value in stated if value and value.is_integer() and _is_full(int(value))]
    if declared:
        return declared[0]
    bits = _number(tags.get(258))
    if bits is not None and 8 < bits < 16:
        return float(2**bits - 1)
    if kind == "PPM" and samples.dtype.kind != "f":
        return 65535.0  # scaled by the header's own maximum already
    if kind == "PNG" and significant and 8 < (depth := max(significant)) < 16 and _is_right_aligned(samples, depth):
        return float(2**depth - 1)
    high = samples.max(initial=0)
    if samples.dtype.itemsize == 2 and samples.dtype.kind == "u" and (high == 0 or high > 65535 // 4 or significant):
        return 65535.0
    kinds = {"u": "unsigned", "i": "signed", "f": "floating-point"}
    raise DataError(
        f"{where}: its {8 * samples.dtype.itemsize}-bit {kinds.get(samples.dtype.kind, 'unknown')} samples run from "
        f"{samples.min(initial=0):g} to {high:g}, and nothing says which value is white; give `white` of the data "
        "source (4095 for 12 bits, 65535 for 16, 1.0 for fractions), or convert the images to 8 bits"
    )


def _number(value: Any) -> float | None:
    """A tag's value; the first of several."""
    if isinstance(value, tuple):
        value = value[0] if value else None
    return None if value is None else float(value)


def _is_full(value: int) -> bool:
    """Whether all bits of a number are ones: a range, and no statistic of this image."""
    return value > 0 and value & (value + 1) == 0


def _is_right_aligned(samples: np.ndarray[Any, Any], bits: int) -> bool:
    """Whether 16-bit samples of so many significant bits stand in the low bits; the standard wants them in the high."""
    return bool(samples.max(initial=0) < 2**bits and (samples % 2 ** (16 - bits)).any())
