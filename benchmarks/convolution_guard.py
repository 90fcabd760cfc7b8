"""What the guard of narrow convolutions costs: a ResNet-20 step with and without it.

    python benchmarks/convolution_guard.py                             as it is
    ONEDNN_MAX_CPU_ISA=AVX python benchmarks/convolution_guard.py      the other way out

Widths are those of ResNet-20 on CIFAR-10 (16, 32, 64), and cut ones; the narrow ones, whose shortcuts the guard
reroutes, crash or compute nonsense without it, so there the step is timed with it only. Steps of both kinds take turns;
the fastest of each counts.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adasap.convolutions import fewest_channels, library_of


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the size changes."""

    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(ins, outs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outs),
            nn.ReLU(),
            nn.Conv2d(outs, outs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outs),
        )
        self.shortcut = nn.Conv2d(ins, outs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.body(images) + self.shortcut(images))


def resnet20(widths: tuple[int, int, int]) -> nn.Sequential:
    """ResNet-20 for 32 x 32 images with 1x1 shortcuts, of these widths."""
    blocks, ins = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()], widths[0]
    for stage, outs in enumerate(widths):
        for number in range(3):
            blocks.append(Block(ins, outs, 2 if stage and not number else 1))
            ins = outs
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ins, 10))


@contextmanager
def guard(on: bool) -> Iterator[None]:
    """The guard of this processor for a while, or none."""
    library = library_of(fewest_channels()) if on else None
    try:
        yield
    finally:
        if library is not None:
            library._destroy()


def step_seconds(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Processor seconds of one forward and backward pass; other work on the machine hardly changes them."""
    model.zero_grad()
    started = time.process_time()
    nn.functional.cross_entropy(model(images), labels).backward()
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=15)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(arguments.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (arguments.batch,))
    print(f"batch {arguments.batch}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    for widths in ((16, 32, 64), (8, 16, 32), (5, 12, 24), (4, 6, 12)):
        model = resnet20(widths).to(memory_format=torch.channels_last)
        narrow = min(widths[:2]) < fewest_channels()
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(arguments.steps):
            for on in (True,) if narrow else (True, False):
                with guard(on):
                    seconds[on].append(step_seconds(model, images, labels))
        with_it = 1e3 * min(seconds[True])
        without = "crashes" if narrow else f"{1e3 * min(seconds[False]):.1f} ms"
        print(f"widths {widths}: {with_it:.1f} ms with the guard, without {without}", flush=True)


if __name__ == "__main__":
    main()
