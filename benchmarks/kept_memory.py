"""What glibc's defaults cost: large activations go back to the system after every operator, and come as fresh pages.

    python benchmarks/kept_memory.py

MobileNet-V2 at batch 16, passes and training steps of ResNet-20 at batch 128: median milliseconds of twelve, with the
defaults and with memory kept by the process as the command line does, each in a process of its own, twice.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import torchvision
from torch.nn import functional as F

from adasap.memory import kept_memory
from adasap.models.cifar_resnet import cifar_resnet20


def main() -> None:
    if len(sys.argv) > 1:
        with kept_memory() if sys.argv[1] == "kept" else nullcontext():
            print(*(f"{name} {median_ms(make()):.0f} ms" for name, make in CASES.items()), sep=", ")
        return
    for _ in range(2):
        for setting in ("defaults", "kept"):
            command = [sys.executable, __file__, setting]
            print(f"{setting:8} {subprocess.run(command, capture_output=True, text=True, check=True).stdout}", end="")


def mobilenet_pass() -> Callable[[], object]:
    model = torchvision.models.mobilenet_v2().eval().to(memory_format=torch.channels_last)
    images = torch.randn(16, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    return torch.inference_mode()(lambda: model(images))


def resnet_pass() -> Callable[[], object]:
    model, images = cifar_resnet20().eval(), torch.randn(128, 3, 32, 32)
    return torch.inference_mode()(lambda: model(images))


def resnet_step() -> Callable[[], object]:
    model, images, labels = cifar_resnet20(), torch.randn(128, 3, 32, 32), torch.arange(128) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()

    return step


CASES = {"MobileNet-V2 pass": mobilenet_pass, "ResNet-20 pass": resnet_pass, "ResNet-20 step": resnet_step}


def median_ms(run: Callable[[], object]) -> float:
    seconds = []
    for _ in range(15):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return 1e3 * statistics.median(seconds[3:])


if __name__ == "__main__":
    main()
