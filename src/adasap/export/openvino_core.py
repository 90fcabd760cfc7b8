"""OpenVINO's package and its core, of which there is one, since a second one can end the process."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def imported_openvino() -> Any:
    """The package, without its telemetry, which is on unless a user opts out of it (`opt_in_out --opt_out`)."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # its importers go on without it
    import openvino

    return openvino


@functools.cache
def openvino_core() -> Any:
    """OpenVINO's `Core`, always the same one, with its plugin for the CPU loaded."""
    with signal_stack_kept():
        core = imported_openvino().Core()
        core.get_property("CPU", "FULL_DEVICE_NAME")
    return core


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Afterwards this thread handles signals on the stack on which it did before.

    Each `Core` gives the thread a stack of its own for signals (`sigaltstack`), and when it is gone the one that was
    there before it: of two cores whose first goes first, the second one brings back memory that is gone. The next
    signal that Python handles, Ctrl-C or the end of a reader process, then ends the process without a word (seen with
    OpenVINO 2026.4).

    Example:
        >>> with signal_stack_kept():
        ...     pass
    """
    if sys.platform != "linux":
        yield
        return
    change = ctypes.CDLL(None).sigaltstack
    before = _SignalStack()
    change(None, ctypes.byref(before))
    try:
        yield
    finally:
        change(ctypes.byref(before), None)


class _SignalStack(ctypes.Structure):
    """`stack_t` of Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))
