"""Python code that a stranger's numbers keep busy is ended after a time."""

from __future__ import annotations

import ctypes
import gc
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_POLL_SECONDS = 0.1
_AGAIN_SECONDS = 1.0
"""Of processor time: more than the error needs on its way out."""


class TooSlowError(BaseException):
    """Raised within the code that took too long; no `except Exception` on the way stops it."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ends the code inside after so many seconds of its thread's processor time, however busy the machine is.

    Code in C is ended when it comes back to Python. Code that swallows the error and goes on gets it again. Garbage is
    not collected meanwhile, since the finalisers of others, run at a random place, would swallow it, too.

    Raises:
        TooSlowError: At the place that was reached.
    Example:
        >>> with deadline(0.2):
        ...     while True:
        ...         pass
        Traceback (most recent call last):
        adasap.models.deadline.TooSlowError
    """
    thread, spent, done = threading.get_ident(), _thread_clock(), threading.Event()
    lock = threading.Lock()
    end = spent() + seconds

    def watch() -> None:
        limit = end
        while not done.wait(_POLL_SECONDS):
            with lock:
                if not done.is_set() and spent() > limit:
                    _raise_in(thread, TooSlowError)
                    limit = spent() + _AGAIN_SECONDS

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    collected = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        while not done.is_set():
            try:
                with lock:
                    done.set()
                    _raise_in(thread, None)  # what was raised in the last moment has no place to go to
            except TooSlowError:
                continue
        if collected:
            gc.enable()


def _thread_clock() -> Callable[[], float]:
    """Seconds that this thread has computed, readable from another; seconds that pass where the system has no such."""
    if not hasattr(time, "pthread_getcpuclockid"):
        return time.monotonic
    clock = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(clock)


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    raised = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)
