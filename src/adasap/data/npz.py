"""Reads images and labels from an .npz archive."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adasap.data.images import InMemoryImages, check_labels
from adasap.errors import DataError


def read_npz(path: Path, part: slice = slice(None)) -> InMemoryImages:
    """Images of an archive of `images` uint8 [N, H, W, 3], `labels` integers [N], optionally `classes`.

    Args:
        path: The .npz file. Pickled objects in it are never loaded.
        part: Which images to keep.
    Raises:
        DataError: If the file is missing, damaged, or holds something else.
    """
    arrays = _load(path)
    images, labels = arrays["images"], arrays["labels"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise DataError(
            f"{path}: `images` is {images.dtype} {list(images.shape)}, wanted uint8 [N, H, W, 3]; "
            f"store 8-bit RGB, and repeat a grey channel three times"
        )
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(f"{path}: `labels` is {labels.dtype} {list(labels.shape)}, wanted integers [N]")
    classes = [str(name) for name in arrays["classes"].tolist()] if "classes" in arrays else None
    checked = check_labels(torch.from_numpy(labels.astype(np.int64)), len(images), classes, where=str(path))
    if classes is None and len(checked):  # a part may lack the largest label, the number of classes must not
        classes = [str(number) for number in range(int(checked.max()) + 1)]
    chosen = torch.from_numpy(images[part]).permute(0, 3, 1, 2).contiguous()
    return InMemoryImages(chosen, checked[part], classes, where=str(path))


def _load(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with open_npz(path) as archive:
        missing = [key for key in ("images", "labels") if key not in archive.files]
        if missing:
            raise DataError(
                f"{path}: no array named {' or '.join(missing)}, it holds {sorted(archive.files)}; "
                f"write it with numpy.savez(path, images=..., labels=...)"
            )
        return {key: archive[key] for key in ("images", "labels", "classes") if key in archive.files}


@contextmanager
def open_npz(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """An .npz archive while it lasts; pickled objects in it are never loaded.

    Raises:
        DataError: If the file is missing, damaged, or a single array; also for what is read from it in between.
    """
    try:
        with open(path, "rb") as file:  # NumPy leaves a file open that it opened itself and cannot read
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path} is a single array; wanted an .npz archive; write one with numpy.savez")
            yield archive
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; wanted an .npz archive") from error
    except DataError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} cannot be read as an .npz archive ({error}); it may be cut short, damaged or of another kind"
        ) from error
