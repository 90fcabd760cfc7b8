"""Forward passes of several batches that advance together, layer by layer, each batch running once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import torch

from adasap.errors import ModelError

Stop = Callable[[str], None]
"""Called from inside a pass: waits there, under this name, until all passes are as far."""


@contextmanager
def in_lockstep(passes: Sequence[Callable[[Stop], object]]) -> Generator[Generator[str]]:
    """Gives the names at which all passes stop, one after the other; between two names every pass has moved on by one.

    Each pass has a thread, of which one at a time runs, in the order given: numbers are those of passes that run
    alone. No gradients are recorded. A pass that is not needed any more ends where it stands.

    Args:
        passes: Functions of `stop`; `stop(name)` waits.
    Raises:
        ModelError: If the passes stop in different orders.
        Exception: Whatever a pass raises.
    Example:
        >>> def one(stop):
        ...     stop("first")
        ...     stop("second")
        >>> with in_lockstep([one, one]) as names:
        ...     list(names)
        ['first', 'second']
    """
    threads = [_Pass(each) for each in passes]
    for thread in threads:
        thread.start()
    try:
        yield _names(threads)
    finally:
        for thread in threads:
            thread.abandon()


def _names(threads: Sequence[_Pass]) -> Generator[str]:
    while True:
        names = [thread.advance() for thread in threads]
        if len(set(names)) > 1:
            raise ModelError(
                f"the model calls its layers in another order from batch to batch: {', '.join(map(str, names[:4]))}; "
                "give batches of one kind"
            )
        if not names or names[0] is None:
            return
        yield names[0]


class _Abandoned(BaseException):
    """Ends a pass; no forward catches it."""


class _Pass(threading.Thread):
    def __init__(self, work: Callable[[Stop], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._may_go, self._has_stopped = threading.Semaphore(0), threading.Semaphore(0)
        self._name: str | None = None
        self._error: BaseException | None = None
        self._abandoned = False

    def run(self) -> None:
        self._may_go.acquire()
        try:
            if not self._abandoned:
                with torch.no_grad():
                    self._work(self._stop_at)
        except _Abandoned:
            pass
        except BaseException as error:  # told to whoever waits
            self._error = error
        self._name = None
        self._has_stopped.release()

    def _stop_at(self, name: str) -> None:
        self._name = name
        self._has_stopped.release()
        self._may_go.acquire()
        if self._abandoned:
            raise _Abandoned

    def advance(self) -> str | None:
        """Where the pass stops next; None at its end."""
        self._may_go.release()
        self._has_stopped.acquire()
        if self._error is not None:
            raise self._error
        return self._name

    def abandon(self) -> None:
        """Ends the pass where it stands."""
        self._abandoned = True
        self._may_go.release()
        self.join()
