"""A test in a process of its own: how that process ended is told, and what other tests loaded is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

INSIDE = "ADASAP_TESTED_ALONE"


def report_of(item: pytest.Item) -> pytest.TestReport:
    """Runs a test in a fresh Python and reports what came out, with its output if it did not pass."""
    start = time.time()
    hidden = ("PYTEST_XDIST", "PYTEST_CURRENT_TEST")  # of the process that waits
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)} | {INSIDE: "1"}
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", item.nodeid]
    done = subprocess.run(command, cwd=item.config.rootpath, env=environment, capture_output=True, text=True)
    cause = None
    if done.returncode:
        cause = f"{_ending(done.returncode)}\n{done.stdout[-20_000:]}\n{done.stderr[-20_000:]}"
    stop = time.time()
    return pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        "failed" if cause else "passed",
        cause,
        "call",
        duration=stop - start,
        start=start,
        stop=stop,
    )


def _ending(code: int) -> str:
    """Of a process: what ended it."""
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
