"""Memory that the process keeps: glibc's defaults give large activations back to the system after every operator."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_open = 0


@contextmanager
def kept_memory() -> Iterator[None]:
    """Inside, glibc neither maps nor trims; afterwards it does both, at its largest limits. Without glibc, nothing.

    A pass of MobileNet-V2 on two cores takes half the time, one of ResNet-20 15 % less (`benchmarks/kept_memory.py`).
    The process holds what it once needed. May be nested.

    Example:
        >>> with kept_memory():
        ...     pass
    """
    global _open
    _open += 1
    if _open == 1:
        _set(mappings=0, trim_bytes=2**31 - 1)
    try:
        yield
    finally:
        _open -= 1
        if _open == 0:
            _set(mappings=65536, trim_bytes=1 << 26)


def _set(*, mappings: int, trim_bytes: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if platform.system() == "Linux" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, mappings)
        mallopt(_TRIM_THRESHOLD, trim_bytes)
