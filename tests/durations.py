"""How long each test keeps a processor busy, and the list of those that are long: `tests/long.txt`.

    make test-all WRITE=--write-long     # on a processor without AVX-512: measures all, and writes the list anew

A processor without AVX-512 takes two to three times as long for all of it, more than anybody waits for; there `make
test` leaves the listed tests out, and says so. `make test-all` runs them anywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LIST = Path(__file__).with_name("long.txt")
LEAST_SECONDS = 8.0
ALWAYS = ("tests/test_convolutions.py",)
"""Files about such processors themselves, never left out."""
NAME = "processor seconds"
REASON = f"over {LEAST_SECONDS:.0f} s without AVX-512, and run where the processor has it; here: make test-all"

_started: dict[str, float] = {}
_seconds: dict[str, float] = {}


def long_tests() -> frozenset[str]:
    """Node ids."""
    return frozenset(line for line in LIST.read_text().splitlines() if line and not line.startswith("#"))


def begin(item: pytest.Item) -> None:
    """A test is set up."""
    _started[item.nodeid] = _busy()


def end(item: pytest.Item) -> None:
    """It is torn down; what it took goes with its last report, also to another process."""
    item.user_properties.append((NAME, _busy() - _started.pop(item.nodeid, _busy())))


def take(report: pytest.TestReport) -> None:
    """What a report says of it."""
    seconds = dict(report.user_properties).get(NAME)
    if report.when == "teardown" and isinstance(seconds, float):
        _seconds[report.nodeid] = seconds


def write() -> None:
    """The list, of the tests that ran and, of those that did not, as it was."""
    left = {name for name in long_tests() if name not in _seconds}
    names = sorted(left | {name for name, seconds in _seconds.items() if seconds >= LEAST_SECONDS})
    names = [name for name in names if not name.startswith(ALWAYS)]
    head = f"# Tests that keep a processor without AVX-512 busy for {LEAST_SECONDS:.0f} s or more; see durations.py.\n"
    LIST.write_text(head + "".join(f"{name}\n" for name in names))


def _busy() -> float:
    """Seconds of this process and of those that it started and waited for."""
    return sum(os.times()[:4])
