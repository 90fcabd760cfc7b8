"""Reads CIFAR-10 and CIFAR-100 in their official layout, by way of torchvision."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Literal

import torch

from adasap.data.images import InMemoryImages
from adasap.errors import DataError

_FOLDERS = {
    "cifar10": ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
    "cifar100": ("cifar-100-python", "cifar-100-python.tar.gz"),
}


def read_cifar(kind: Literal["cifar10", "cifar100"], root: Path, split: Literal["train", "test"]) -> InMemoryImages:
    """CIFAR from a folder on this machine; nothing is downloaded.

    The batches are pickles; torchvision opens them only after their MD5 sums are those of the published
    files.

    Args:
        kind: Which of the two.
        root: The folder that holds `cifar-10-batches-py` or `cifar-100-python`.
        split: Which images.
    Raises:
        DataError: If the files are missing or not the published ones.
    """
    from torchvision.datasets import CIFAR10, CIFAR100

    folder, archive = _FOLDERS[kind]
    dataset = CIFAR10 if kind == "cifar10" else CIFAR100
    if not (root / folder).is_dir():
        raise DataError(
            f"{root} does not hold the folder {folder}; unpack {archive} (the Python version, "
            f"https://www.cs.toronto.edu/~kriz/{archive}) there, or correct `path`"
        )
    try:
        with warnings.catch_warnings():  # NumPy dislikes how the published pickles spell `align`
            warnings.filterwarnings("ignore", message=r"dtype\(\)")
            data = dataset(str(root), train=split == "train", download=False)
    except RuntimeError as error:
        raise DataError(
            f"{root / folder}: a file is missing or is not the published one (its MD5 sum differs); "
            f"unpack {archive} again"
        ) from error
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return InMemoryImages(images, torch.tensor(data.targets), data.classes, where=str(root / folder))
