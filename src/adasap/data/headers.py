"""Headers of NumPy's arrays, read with suspicion: nothing is allocated before its size is known to be right."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from adasap.data.images import MOST_CLASSES
from adasap.errors import DataError
from adasap.machine_memory import total_bytes

MOST_OF_MEMORY = 0.5
"""Share of the machine's memory that one array may take."""
_MAGIC = b"\x93NUMPY"


@dataclass(frozen=True)
class ArrayHeader:
    """What an array is: its shape, its type, and where its numbers begin in the file, in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int

    @property
    def num_bytes(self) -> int:
        """Bytes of all numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"[:200]


def read_header(file: IO[bytes], num_bytes: int, where: str) -> ArrayHeader:
    """The header at the beginning of a `.npy` file or a member of an archive.

    Args:
        file: Stands at the beginning, and after the header afterwards.
        num_bytes: Length of all that the file holds.
        where: What messages call it.
    Raises:
        DataError: If it is no header, describes Python objects, or another number of bytes than there are.
    """
    try:
        with warnings.catch_warnings():  # of headers that Python 2 wrote
            warnings.simplefilter("ignore")
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
    except Exception as error:  # the parser of Python literals behind it raises nearly everything, TokenError too
        raise DataError(f"{where} cannot be read as an array ({str(error)[:200]}); write it again") from error
    if dtype.hasobject or not dtype.itemsize:
        raise DataError(f"{where} holds {dtype}, which cannot be read safely; store numbers, and texts as NumPy's own")
    header = ArrayHeader(tuple(int(length) for length in shape), dtype, file.tell())
    if min(header.shape, default=0) < 0 or max(header.shape, default=0) > num_bytes:
        raise DataError(f"{where} says {header}, which is no shape of {num_bytes:,} bytes; write it again")
    if header.start + header.num_bytes != num_bytes:
        raise DataError(
            f"{where} says {header}, {header.num_bytes:,} bytes, and {num_bytes - header.start:,} follow; the file is "
            "cut short or altered"
        )
    return header


def require_memory(num_bytes: int, where: str) -> None:
    """Refuses an array that would take over half of the machine's memory.

    Raises:
        DataError: Before anything is allocated.
    """
    most = int(total_bytes() * MOST_OF_MEMORY)
    if num_bytes > most:
        raise DataError(
            f"{where} would take {num_bytes / 2**30:,.1f} GiB, more than half of the memory ({most / 2**30:,.1f} GiB); "
            "store the images as files in folders, which are read one by one"
        )


def labels_of(array: np.ndarray[Any, Any], where: str) -> Tensor:
    """Labels int64 [N] of an array of whole numbers.

    Raises:
        DataError: For another shape or type, or a number that no class can have.
    """
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise DataError(
            f"{where}: `labels` is {array.dtype} {list(array.shape)}, wanted integers [N]: one class number per image"
            f"{_labels_move(array)}"
        )
    wrong = np.flatnonzero((array < 0) | (array >= MOST_CLASSES))
    if len(wrong):
        raise DataError(
            f"{where}: label {int(array[wrong[0]])} of image {wrong[0]} is out of range: classes are numbered from 0, "
            f"and at most {MOST_CLASSES:,} are read; correct the labels or the list of classes"
        )
    return torch.from_numpy(array.astype(np.int64))


def _labels_move(array: np.ndarray[Any, Any]) -> str:
    if array.dtype.kind in "US" and array.ndim == 1:
        return ", their names in `classes`: classes, labels = numpy.unique(names, return_inverse=True)"
    if array.dtype.kind in "iu" and array.ndim == 2:
        return ": labels.reshape(-1)" if array.shape[1] == 1 else ": labels.argmax(1), if each row marks one class"
    return "; convert them"


def is_array(file: IO[bytes]) -> bool:
    """Whether a file is a single array; it stands at its beginning before and afterwards."""
    begins = file.read(len(_MAGIC)) == _MAGIC
    file.seek(0)
    return begins
