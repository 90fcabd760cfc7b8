"""Corrupted images that are made once and kept on disk, for many runs on the same test set."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from adasap.data import InMemoryImages
from adasap.data.arrays import mapped_images
from adasap.export import atomic_write
from adasap.robustness.suites import Cell, ImageSuite

_BATCH = 500


def kept_suite(suite: ImageSuite, folder: Path) -> ImageSuite:
    """The same suite, its corrupted images read from a folder; what is not there yet is made and kept.

    Files are bound to the images, their seeds and the version of the package, and may be shared by runs and deleted
    at any time. Suites whose images are not in memory stay as they are.

    Args:
        suite: Any.
        folder: Where the arrays lie: uint8 [N, H, W, 3], one .npy file for each cell.
    """
    cells = {
        name: _kept(cell, folder) if cell.corruption and isinstance(cell.images, InMemoryImages) else cell
        for name, cell in suite.cell_of.items()
    }
    return replace(suite, cell_of=cells)


def _kept(cell: Cell, folder: Path) -> Cell:
    images = cell.images
    assert isinstance(images, InMemoryImages)
    path = folder / _digest(images.images, cell.seeds) / f"{cell.corruption}-{cell.severity}.npy"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(path) as file:
            np.save(file, _made(cell, images.images).permute(0, 2, 3, 1).numpy())
    kept = torch.from_numpy(mapped_images(path)).permute(0, 3, 1, 2)
    return Cell(InMemoryImages(kept, images.labels, images.classes, where=str(path)))


def _made(cell: Cell, images: Tensor) -> Tensor:
    parts = torch.split(torch.arange(len(images)), _BATCH)
    return torch.cat([cell.corrupted(images[part], part) for part in parts])


def _digest(images: Tensor, seeds: Tensor | None) -> str:
    from adasap import __version__

    total = hashlib.sha256(f"{__version__} {tuple(images.shape)}".encode())
    total.update(images.contiguous().numpy().data)
    total.update(b"" if seeds is None else seeds.numpy().data)
    return total.hexdigest()[:16]
