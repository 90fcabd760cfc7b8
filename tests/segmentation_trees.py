"""Folders of images and masks in the layouts that are read, made small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (6, 8)
"""Height and width."""


def write_image(path: Path, size: tuple[int, int] = SIZE, *, orientation: int = 1, seed: int = 0) -> None:
    """A random colour image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(pixels).save(path, exif=exif)


def write_mask(path: Path, numbers: np.ndarray | list[list[int]], *, palette: bool = False) -> None:
    """A mask of one channel, with `palette` as a palette image whose colours are VOC's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(numbers, dtype=np.uint8))
    if palette:
        image = image.convert("P")
        image.putdata(np.asarray(numbers, dtype=np.uint8).flatten().tolist())
        image.putpalette([value for index in range(256) for value in ((index * 37) % 256, (index * 91) % 256, index)])
    image.save(path)


def ramp(size: tuple[int, int] = SIZE, num_classes: int = 3) -> np.ndarray:
    """A mask with all classes, no two corners alike, and an ignored pixel."""
    mask = (np.arange(size[0] * size[1]).reshape(size) // 7) % num_classes
    mask[0, -1] = 255
    return mask.astype(np.uint8)
