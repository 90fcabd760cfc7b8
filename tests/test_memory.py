"""Memory that the process keeps between operators."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

SCRIPT = """
import resource
from adasap.memory import kept_memory

def pages_faulted():
    for _ in range(30):
        bytearray(40 * 2**20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        bytearray(40 * 2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

outside = pages_faulted()
with kept_memory():
    with kept_memory():
        pass
    print(outside, pages_faulted())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told")
def test_memory_is_kept_inside() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    outside, inside = map(int, done.stdout.split())
    assert inside < 1000 < outside
