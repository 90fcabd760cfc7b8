"""Convolutions of small shapes against the reference without oneDNN: outputs, input gradients and weight gradients.

    python tests/convolution_scan.py             with the guard of `adasap.guard_convolutions`
    python tests/convolution_scan.py --unguarded as torch computes them
    python tests/convolution_scan.py --all       many more shapes (minutes); `--first-wrong` stops early

Every shape runs in a worker process; one that dies or hangs is replaced, and the shape that did it is reported.
`ONEDNN_MAX_CPU_ISA=AVX2` shows a processor without AVX-512, `OMP_NUM_THREADS` chooses the threads. Exits with 1 if any
shape is wrong.
"""

from __future__ import annotations

import argparse
import ctypes.util
import itertools
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import adasap

CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")  # torch is imported once

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
SECONDS = 60.0  # in which one shape answers; a hang never does
REPEATS = 2


@dataclass(frozen=True)
class Case:
    """One convolution; `layout` is that of images and weights, or `mixed`: weights alone channels last."""

    ins: int
    outs: int
    kernel: int = 1
    stride: tuple[int, ...] = (2, 2)
    size: tuple[int, ...] = (12, 12)
    batch: int = 16
    groups: int = 1
    layout: str = "channels_last"
    dtype: str = "float32"
    transposed: bool = False
    output_padding: int = 0
    padding: int | None = None
    dilation: int = 1


CHANNELS = (*range(1, 10), 12, 15, 16)
LARGE = tuple(
    Case(ins, 16, size=(64, 64), batch=8) for ins in (*CHANNELS, 17, 24, 31)
)  # AVX-512 breaks on large images


def cases(everything: bool) -> Iterator[Case]:
    """The shapes of the scan: all widths of the known fault, and its neighbours."""
    layouts = ("channels_last", "contiguous", "mixed")
    ins, outs = (CHANNELS, CHANNELS) if everything else ((1, 2, 3, 4, 7, 8, 15, 16), (1, 9))
    strides = tuple(itertools.product((1, 2, 3), repeat=2)) if everything else ((2, 2), (3, 3), (1, 2))
    batches = (1, 2, 16, 33) if everything else (16,)
    yield from LARGE
    for i, o, stride, layout, batch in itertools.product(ins, outs, strides, layouts, batches):
        yield Case(i, o, stride=stride, layout=layout, batch=batch)
    few = CHANNELS if everything else (2, 7)
    both = ("channels_last", "contiguous")
    sizes: tuple[tuple[int, ...], ...] = ((12, 12), (13, 11), (4, 4), (2, 2), (24, 1), (1, 24))
    for i, o, size, layout in itertools.product(few, (1, 8), sizes, both):  # odd, tiny and thin images
        yield Case(i, o, size=size, layout=layout, batch=32)
    for i, o, k, s, layout in itertools.product(few, few, (1, 2, 3), (1, 2, 3), both):
        yield Case(i, o, k, (s, s), layout=layout)
    for i, k, s, layout in itertools.product(few, (1, 3), (1, 2), both):
        yield Case(2 * i, 16, k, (s, s), groups=2, layout=layout)
        yield Case(i, i, k, (s, s), groups=i, layout=layout)
        yield Case(i, 8, k, (s, s), layout=layout, dtype="bfloat16")
        yield Case(8, i, k, (s, s), layout=layout, transposed=True, output_padding=s - 1)
        yield Case(i, 8, k, (s, s), layout=layout, transposed=True, output_padding=s - 1)
        yield Case(i, 8, k, (s,), (1024,), batch=4, layout=layout)
        yield Case(i, 8, k, (s, s, s), (6, 6, 6), layout=layout)
    yield from padded_and_grouped(range(1, 17) if everything else (3, 7))
    yield from on_large_images() if everything else ()


def padded_and_grouped(per_group: Iterable[int]) -> Iterator[Case]:
    """1x1 convolutions of stride 2 and 3 with padding, dilation and groups, so many inputs a group."""
    kinds = itertools.product((2, 3), ("channels_last", "contiguous"), ("float32", "bfloat16"))
    for (s, layout, dtype), i in itertools.product(kinds, per_group):
        common: dict[str, Any] = {"stride": (s, s), "layout": layout, "dtype": dtype}
        for padding, dilation, size in itertools.product((0, 1, 2), (1, 2), ((12, 12), (13, 11))):
            yield Case(i, 8, padding=padding, dilation=dilation, size=size, **common)
        for groups, outs in itertools.product((2, 3, 8), (1, 4, 8, 16)):
            yield Case(i * groups, outs * groups, groups=groups, **common)
            yield Case(i * groups, outs * groups, groups=groups, padding=1, **common)
        yield Case(8, i, padding=1, transposed=True, output_padding=s - 1, **common)


def on_large_images() -> Iterator[Case]:
    """The neighbours of the fault on images of the size that AVX-512 breaks on."""
    layouts, dtypes = ("channels_last", "contiguous", "mixed"), ("float32", "bfloat16")
    for i, layout, dtype in itertools.product((2, 5, 7, 12, 15), layouts, dtypes):
        common: dict[str, Any] = {"batch": 8, "layout": layout, "dtype": dtype}
        for stride, size in itertools.product(((2, 2), (3, 3), (1, 2)), ((64, 64), (63, 65))):
            yield Case(i, 16, stride=stride, size=size, **common)
        for padding, dilation, outs in itertools.product((0, 1, 2), (1, 2), (3, 64)):
            yield Case(i, outs, size=(64, 64), padding=padding, dilation=dilation, **common)
        for groups, padding in itertools.product((2, 3, 16), (0, 1)):
            yield Case(i * groups, 16 * groups, size=(64, 64), groups=groups, padding=padding, **common)
        for padding in (0, 1):
            yield Case(16, i, size=(48, 48), padding=padding, transposed=True, output_padding=1, **common)
        yield Case(i, 16, stride=(2,), size=(4096,), **common)
        yield Case(i, 16, stride=(2, 2, 2), size=(16, 16, 16), **common)


def inputs(case: Case) -> tuple[Tensor, Tensor]:
    """Images and weights of one case, the same numbers every time, in its layout."""
    dims = len(case.size)
    torch.manual_seed(0)
    dtype = getattr(torch, case.dtype)
    images = torch.randn(case.batch, case.ins, *case.size).to(dtype)
    channels = (case.ins, case.outs // case.groups) if case.transposed else (case.outs, case.ins // case.groups)
    weight = torch.randn(*channels, *(case.kernel,) * dims).to(dtype)

    def last(tensor: Tensor) -> Tensor:
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)

    images = last(images) if case.layout == "channels_last" else images
    weight = weight if case.layout == "contiguous" else last(weight)
    return images.requires_grad_(), weight.requires_grad_()


def results(case: Case, images: Tensor, weight: Tensor) -> list[Tensor]:
    """Output, input gradient and weight gradient in float32."""
    dims = len(case.size)
    name = f"conv_transpose{dims}d" if case.transposed else f"conv{dims}d"
    more = {"output_padding": case.output_padding} if case.transposed else {}
    more |= {"padding": case.kernel // 2 if case.padding is None else case.padding, "dilation": case.dilation}
    output = getattr(functional, name)(images, weight, stride=case.stride, groups=case.groups, **more)
    slope = torch.cos(torch.arange(output.numel(), dtype=torch.float32)).view(output.shape).to(output.dtype)
    return [t.float() for t in (output, *torch.autograd.grad(output, (images, weight), slope))]


def error(case: Case) -> float:
    """The largest difference to the reference, relative to the largest value of the same tensor; over `REPEATS`."""
    images, weight = inputs(case)
    plain = [t.detach().float().contiguous().requires_grad_() for t in (images, weight)]
    with torch.backends.mkldnn.flags(enabled=False):
        right = results(case, *plain)
    worst = 0.0
    for _ in range(REPEATS):
        for got, wanted in zip(results(case, images, weight), right, strict=True):
            difference = float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))
            worst = max(worst, difference if difference == difference else float("inf"))
    return worst


def work(cases: Connection, guarded: bool) -> None:
    """The worker: a case in, its error out."""
    warnings.simplefilter("ignore")
    if guarded:
        adasap.guard_convolutions()
    while True:
        cases.send(error(cases.recv()))


class Worker:
    """A process that answers one case at a time."""

    def __init__(self, guarded: bool) -> None:
        self.cases, other = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=work, args=(other, guarded), daemon=True)
        self.process.start()
        other.close()

    def ask(self, case: Case) -> float | str:
        """The error, or how the process ended."""
        try:
            self.cases.send(case)
            if not self.cases.poll(SECONDS):
                self.end()
                return "hangs"
            answer: float = self.cases.recv()
        except (EOFError, OSError):
            self.process.join()
            return f"dies with {self.process.exitcode}"
        return answer

    def end(self) -> None:
        self.process.kill()
        self.process.join()


def scan(shapes: list[Case], *, guarded: bool, stop: bool = False) -> dict[Case, float | str]:
    """The shapes that are wrong: by how much, or how the process ended."""
    wrong: dict[Case, float | str] = {}
    worker = Worker(guarded)
    for case in shapes:
        answer = worker.ask(case)
        if isinstance(answer, str):
            worker.end()
            worker = Worker(guarded)
        if isinstance(answer, str) or answer > TOLERANCE[case.dtype]:
            wrong[case] = answer
            print(f"{answer if isinstance(answer, str) else f'off by {answer:.1e}'}: {case}", flush=True)
            if stop:
                break
    worker.end()
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unguarded", action="store_true", help="without adasap's guard")
    parser.add_argument("--all", action="store_true", help="many more shapes")
    parser.add_argument("--first-wrong", action="store_true", help="stop at the first shape that is wrong")
    arguments = parser.parse_args()
    shapes = list(dict.fromkeys(cases(arguments.all)))
    wrong = scan(shapes, guarded=not arguments.unguarded, stop=arguments.first_wrong)
    print(f"{len(shapes)} shapes, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    if sys.platform == "linux" and "MALLOC_CHECK_" not in os.environ:  # read when a process starts
        checks = {"MALLOC_CHECK_": "3", "LD_PRELOAD": ctypes.util.find_library("c_malloc_debug") or ""}
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | checks)
    sys.exit(main())
