"""Reads data sets that lie on disk as `.npy` arrays, mapped into memory and not loaded as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from adasap.data.headers import is_array, labels_of, read_header, require_memory
from adasap.data.images import InMemoryImages
from adasap.data.samples import image_levels
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
_CIFAR100 = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
CIFAR100_CLASSES = tuple(_CIFAR100.split())


def mapped_images(path: Path) -> np.ndarray[Any, Any]:
    """uint8 [N, H, W, C], also of a file [N, H, W]; pages read when they are used.

    Raises:
        DataError: If the file is missing, damaged, or holds something else.
    """
    array = _mapped(path, "uint8 [N, H, W, C]")
    if array.dtype != np.uint8:
        raise DataError(
            f"{path} is {array.dtype} {list(array.shape)}, wanted uint8 [N, H, W, C]; take the published file"
        )
    return image_levels(array, str(path))


def mapped_labels(path: Path) -> torch.Tensor:
    """int64 [N].

    Raises:
        DataError: If the file is missing, damaged, or holds something else.
    """
    array = _mapped(path, "integers [N]")
    require_memory(8 * array.size, str(path))
    return labels_of(array, str(path))


def _mapped(path: Path, wanted: str) -> np.ndarray[Any, Any]:
    try:
        with open(path, "rb") as file:
            if not is_array(file):
                raise DataError(f"{path} is not a single array; wanted a .npy file of {wanted}")
            read_header(file, path.stat().st_size, str(path))
        # copy-on-write: PyTorch wants memory that it may write to, and the file stays as it is
        array: np.ndarray[Any, Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; wanted a .npy file of {wanted}") from error
    except DataError:
        raise
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .npy file ({error}); fetch it again") from error
    return array
