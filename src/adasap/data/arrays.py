"""Reads data sets that lie on disk as `.npy` arrays, mapped into memory and not loaded as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from adasap.data.images import InMemoryImages
from adasap.errors import DataError


def read_cifar10_1(root: Path, version: str) -> InMemoryImages:
    """CIFAR-10.1 (Recht et al., 2018): `cifar10.1_VERSION_data.npy` and `..._labels.npy`.

    Args:
        root: The folder of the two files.
        version: `v6` (2,000 images, class-balanced, the usual one) or `v4` (2,021).
    Raises:
        DataError: If a file is missing or does not hold what it should.
    """
    data, labels = root / f"cifar10.1_{version}_data.npy", root / f"cifar10.1_{version}_labels.npy"
    images = mapped_images(data)
    return InMemoryImages(
        torch.from_numpy(images).permute(0, 3, 1, 2), mapped_labels(labels), CIFAR10_CLASSES, where=str(data)
    )


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def mapped_images(path: Path) -> np.ndarray[Any, Any]:
    """uint8 [N, H, W, 3], pages read when they are used.

    Raises:
        DataError: If the file is missing, damaged, or holds something else.
    """
    array = _mapped(path, "uint8 [N, H, W, 3]")
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise DataError(
            f"{path} is {array.dtype} {list(array.shape)}, wanted uint8 [N, H, W, 3]; take the published file"
        )
    return array


def mapped_labels(path: Path) -> torch.Tensor:
    """int64 [N].

    Raises:
        DataError: If the file is missing, damaged, or holds something else.
    """
    array = _mapped(path, "integers [N]")
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(f"{path} is {array.dtype} {list(array.shape)}, wanted integers [N]; take the published file")
    return torch.from_numpy(array.astype(np.int64))


def _mapped(path: Path, wanted: str) -> np.ndarray[Any, Any]:
    try:
        # copy-on-write: PyTorch wants memory that it may write to, and the file stays as it is
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; wanted a .npy file of {wanted}") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .npy file ({error}); fetch it again") from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive, not a single array; wanted a .npy file of {wanted}")
    return array
