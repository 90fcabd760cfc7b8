"""Python in several processes through torchrun, for tests."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

TESTS = str(Path(__file__).parent)


def run_ranks(
    *arguments: str | Path, ranks: int = 2, environment: Mapping[str, str] | None = None, limit: float = 300
) -> str:
    """What `python ARGUMENTS` prints in `ranks` processes (one is started without torchrun), which all must end well.

    Past `limit` seconds every one of them prints where each of its threads stands and is killed, the workers too:
    killing torchrun alone, as `subprocess.run(timeout=)` does, leaves them (sessions of their own) with the pipes open,
    and whoever reads those waits for ever.
    """
    torchrun = ["-m", "torch.distributed.run", f"--nproc-per-node={ranks}", "--standalone"]  # a free port by itself
    command = [sys.executable, *(torchrun if ranks > 1 else []), *map(str, arguments)]
    paths = os.pathsep.join([TESTS, *filter(None, [os.environ.get("PYTHONPATH")])])
    settings = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": paths}
    process = subprocess.Popen(
        command,
        env=os.environ | settings | dict(environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        printed, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        started = [*psutil.Process(process.pid).children(recursive=True), process]
        for one in started:
            one.send_signal(signal.SIGABRT)  # the fault handler prints the stacks
        psutil.wait_procs(started[:-1], timeout=10)
        for one in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        printed, errors = process.communicate()
        raise AssertionError(f"{' '.join(command)} did not end in {limit:g} s:\n{errors[-6000:]}") from None
    assert process.returncode == 0, errors[-3000:]
    return printed
