"""What glibc's defaults cost an eager forward pass: it unmaps large activations after every operator.

    python benchmarks/kept_memory.py            # MobileNet-V2 at batch 16, each setting in a process of its own, twice

Median milliseconds of twelve passes with the defaults, and with memory kept by the process.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

import torch
import torchvision

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}


def main() -> None:
    if "--pass" in sys.argv:
        print(f"{median_ms():.0f}")
        return
    for _ in range(2):
        for title, settings in (("defaults", {}), ("memory kept", KEPT)):
            command = [sys.executable, __file__, "--pass"]
            done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=True)
            print(f"{title:12} {done.stdout.strip():>5} ms", flush=True)


def median_ms() -> float:
    model = torchvision.models.mobilenet_v2().eval().to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    seconds = []
    with torch.inference_mode():
        for _ in range(15):
            started = time.perf_counter()
            model(images)
            seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[3:])


if __name__ == "__main__":
    main()
