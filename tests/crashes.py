"""Why a process of the tests died: where it stood, or, if no signal was caught, how little memory was left."""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import IO

import psutil

GROWTH = 400 << 20
"""Bytes by which a process may grow before its garbage is looked for."""

_open: list[IO[str]] = []


def place(worker: str, run: str) -> Path:
    """The file in which a worker of one run of the tests leaves where it stood."""
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"adasap-tests-{run}-{worker}.txt"


def stacks_go_to(path: Path) -> None:
    """From now on this process writes where all of its threads stand when a signal ends it."""
    _open.append(path.open("w"))
    stacks_go_there_again()


def stacks_go_there_again() -> None:
    """Ray and others, once started in this process, send them to stderr, which nobody reads."""
    if _open:
        faulthandler.enable(_open[-1])


class Memory:
    """What was free on the machine, looked at every half second, and what the largest processes were at the worst."""

    def __init__(self) -> None:
        self.least, self.largest = psutil.virtual_memory().available, "at the start"
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            time.sleep(0.5)
            available = psutil.virtual_memory().available
            if available < 0.9 * self.least:
                self.least, self.largest = available, _largest()

    def __str__(self) -> str:
        total = psutil.virtual_memory().total
        return f"at the worst {self.least / 1e9:.1f} of {total / 1e9:.1f} GB were free ({self.largest})"


def _largest() -> str:
    found = []
    for process in psutil.process_iter(["memory_info", "cmdline"]):
        if process.info["memory_info"]:
            words = " ".join(process.info["cmdline"] or ["?"])
            found.append((process.info["memory_info"].rss, words[-60:]))
    return "; ".join(f"{size / 1e9:.1f} GB {words!r}" for size, words in sorted(found, reverse=True)[:6])


class Slim:
    """Gives back what finished tests held: exported graphs refer to themselves and to their weights."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.size = self.process.memory_info().rss

    def __call__(self) -> None:
        if self.process.memory_info().rss < self.size + GROWTH:
            return
        gc.collect()
        if sys.platform == "linux":
            trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
            if trim is not None:
                trim(0)
        self.size = self.process.memory_info().rss
