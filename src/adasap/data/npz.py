"""Reads images and labels from an .npz archive."""

from __future__ import annotations

import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adasap.data.headers import ArrayHeader, is_array, labels_of, read_header, require_memory
from adasap.data.images import MOST_CLASSES, InMemoryImages, check_labels
from adasap.data.samples import image_levels
from adasap.errors import DataError

_LARGE = 1 << 28
_MOST_EXPANSION = 200
"""Images that compress better than this to one are none: an archive that was made to fill a memory."""


class Archive:
    """The arrays of an .npz file, each read when it is asked for, after its size is known to be right.

    Args:
        file: The open archive.
        where: What messages call it.
    """

    def __init__(self, file: zipfile.ZipFile, where: str) -> None:
        self._file, self._where = file, where
        self._members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}

    @property
    def names(self) -> list[str]:
        """Names of the arrays."""
        return list(self._members)

    def header(self, name: str) -> ArrayHeader:
        """Shape and type of an array, before it is read.

        Raises:
            DataError: If it is none, or the archive does not hold what it says.
        """
        info, where = self._members[name], f"{self._where}: `{name}`"
        with self._file.open(info) as member:
            header = read_header(member, info.file_size, where)
        if header.num_bytes > max(_LARGE, _MOST_EXPANSION * info.compress_size):
            raise DataError(
                f"{where} is {header}, {header.num_bytes:,} bytes packed into {info.compress_size:,}: no images pack "
                "so well; unpack and write the archive yourself if you trust it"
            )
        require_memory(header.num_bytes, where)
        return header

    def read(self, name: str) -> np.ndarray[Any, Any]:
        """An array; pickled objects are never loaded.

        Raises:
            DataError: As `header`.
        """
        self.header(name)
        with self._file.open(self._members[name]) as member:
            array: np.ndarray[Any, Any] = np.lib.format.read_array(member, allow_pickle=False)
        return array


def read_npz(path: Path, part: slice = slice(None), white: float | None = None) -> InMemoryImages:
    """Images of an archive of `images` uint8 [N, H, W, C] or [N, H, W], `labels` integers [N], optionally `classes`.

    Args:
        path: The .npz file. Pickled objects in it are never loaded.
        part: Which images to keep.
        white: The sample value that is white, in images of another type than uint8.
    Raises:
        DataError: If the file is missing, damaged, or holds something else.
    """
    with open_npz(path) as archive:
        missing = [key for key in ("images", "labels") if key not in archive.names]
        if missing:
            raise DataError(
                f"{path}: no array named {' or '.join(missing)}, it holds {sorted(archive.names)[:20]}; "
                f"write it with numpy.savez(path, images=..., labels=...)"
            )
        kind = archive.header("images")
        if kind.dtype.kind not in "biuf" or len(kind.shape) not in (3, 4):
            raise DataError(f"{path}: `images` is {kind}, wanted uint8 [N, H, W, C] or [N, H, W]")
        labels, classes = labels_of(archive.read("labels"), str(path)), read_classes(archive, str(path))
        checked = check_labels(labels, kind.shape[0], classes, where=str(path))
        images = archive.read("images")
    levels = image_levels(images[part], f"{path}: `images`", white)
    chosen = torch.from_numpy(levels).permute(0, 3, 1, 2).contiguous()
    # a part may lack the largest label, the number of classes must not
    numbers = [str(number) for number in range(int(checked.max()) + 1)] if len(checked) else []
    dataset = InMemoryImages(chosen, checked[part], classes or numbers, where=str(path))
    dataset.named = classes is not None
    return dataset


def read_classes(archive: Archive, where: str) -> list[str] | None:
    """The class names in an archive, or None if there is no array `classes`.

    Raises:
        DataError: If it is no list of texts.
    """
    if "classes" not in archive.names:
        return None
    kind = archive.header("classes")
    if len(kind.shape) != 1 or kind.dtype.kind not in "USiu" or kind.shape[0] > MOST_CLASSES:
        raise DataError(
            f"{where}: `classes` is {kind}, wanted at most {MOST_CLASSES:,} texts [K]; write it with numpy.array([...])"
        )
    array = archive.read("classes")
    if kind.dtype.kind == "U" and array.size:  # four bytes a letter, of which NumPy makes texts without a look
        letters = np.ascontiguousarray(array).view(np.dtype("u4").newbyteorder(array.dtype.byteorder))
        if int(letters.max()) > sys.maxunicode:
            raise DataError(f"{where}: a name in `classes` holds numbers that are no letters of Unicode; store texts")
    try:
        return [name.decode() if isinstance(name, bytes) else str(name) for name in array.tolist()]
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: a name in `classes` is not UTF-8; store texts") from error


@contextmanager
def open_npz(path: Path) -> Iterator[Archive]:
    """An .npz archive while it lasts; pickled objects in it are never loaded.

    Raises:
        DataError: If the file is missing, damaged, or a single array; also for what is read from it in between.
    """
    try:
        with open(path, "rb") as file:
            if is_array(file):
                raise DataError(f"{path} is a single array; wanted an .npz archive; write one with numpy.savez")
            with zipfile.ZipFile(file) as archive:
                yield Archive(archive, str(path))
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; wanted an .npz archive") from error
    except DataError:
        raise
    except (
        *(OSError, ValueError, TypeError, EOFError, KeyError, RuntimeError, MemoryError),  # RuntimeError: encrypted
        *(zipfile.BadZipFile, zlib.error, zipfile.LargeZipFile),
    ) as error:
        raise DataError(
            f"{path} cannot be read as an .npz archive ({error}); it may be cut short, damaged or of another kind"
        ) from error
