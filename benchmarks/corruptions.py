"""Images per second under each corruption: adasap beside imagecorruptions-imaug, on the same cores.

    python benchmarks/corruptions.py --rounds 5 --out results/corruptions_speed.json

Both corrupt the same generated images, at 224 and 32 pixels, with the constants for 224 (the peer has no others),
once at each of the five severities per round; rounds are interleaved, in random order, and medians are reported.
adasap gets the images as one batch and as many threads as there are cores. The peer works on one image at a time, so it
gets a process per core, each with its share of the images handed over before, one thread and warm compiled code. All
processes keep their memory, as `adasap evaluate` does.

The overall ratio is the time for one image under each of the 15 benchmark corruptions at 224 pixels, the peer's over
adasap's. The script fails below a ratio of 5, or if one of the 15 is missing.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import multiprocessing
import os
import platform
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from files import write_json
from torch import Tensor

from adasap.corruptions import BENCHMARK, CORRUPTIONS, NUM_SEVERITIES, VALIDATION, corrupt
from adasap.memory import kept_memory

IMAGES = {224: 16, 32: 256}
SEVERITIES = range(1, NUM_SEVERITIES + 1)
MIN_RATIO, MIN_EACH = 5.0, 1 / 1.1
PACKAGES = ("adasap", "torch", "torchvision", "imagecorruptions-imaug", "opencv-python", "scikit-image")

Contender = Callable[[str], float]
"""Corrupts all images at all severities and gives the seconds per image and severity."""


def photos(count: int, side: int) -> Tensor:
    """Smooth colours with a little grain, uint8 [count, 3, side, side]."""
    generator = torch.Generator().manual_seed(side)
    coarse = torch.rand(count, 3, 8, 8, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic")
    grain = 0.02 * torch.randn(smooth.shape, generator=generator)
    return ((smooth + grain).clamp(0, 1) * 255).to(torch.uint8)


def batched(images: Tensor) -> Contender:
    """adasap on the whole batch."""

    def run(name: str) -> float:
        start = time.perf_counter()
        for severity in SEVERITIES:
            corrupt(images, name, severity, constants="224")
        return (time.perf_counter() - start) / len(images) / NUM_SEVERITIES

    return run


@contextmanager
def peer_processes(images: Tensor, cores: int):
    """The peer in one process per core."""
    spawn = multiprocessing.get_context("spawn")
    arrays = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
    pipes, workers = [], []
    for core in range(cores):
        ours, theirs = spawn.Pipe()
        workers.append(spawn.Process(target=peer_worker, args=(theirs, arrays[core::cores]), daemon=True))
        workers[-1].start()
        pipes.append(ours)

    def run(name: str) -> float:
        start = time.perf_counter()
        for pipe in pipes:
            pipe.send(name)
        for pipe in pipes:
            pipe.recv()
        return (time.perf_counter() - start) / len(images) / NUM_SEVERITIES

    try:
        yield run
    finally:
        for pipe in pipes:
            pipe.send(None)
        for worker in workers:
            worker.join()


def peer_worker(pipe: Connection, images: Sequence[np.ndarray]) -> None:
    """Corrupts its images under each name that it is sent, until that is None."""
    import cv2
    import imagecorruptions

    warnings.simplefilter("ignore")
    cv2.setNumThreads(1)
    with kept_memory():
        while (name := pipe.recv()) is not None:
            for severity in SEVERITIES:
                for image in images:
                    imagecorruptions.corrupt(image, severity=severity, corruption_name=name)
            pipe.send(name)


def measure(names: Sequence[str], images: Tensor, rounds: int, cores: int) -> dict[str, dict[str, float]]:
    """Medians of both per corruption, after one round to warm up."""
    rows = {}
    with peer_processes(images, cores) as peer:
        contenders = {"adasap": batched(images), "peer": peer}
        for name in names:
            seconds: dict[str, list[float]] = {contender: [] for contender in contenders}
            for number in range(rounds + 1):
                for contender in random.Random(number).sample(list(contenders), k=2):
                    taken = contenders[contender](name)
                    if number:
                        seconds[contender].append(taken)
            ours, theirs = (statistics.median(seconds[contender]) for contender in contenders)
            rows[name] = {
                "adasap_ms": round(1e3 * ours, 4),
                "peer_ms": round(1e3 * theirs, 4),
                "adasap_images_per_s": round(1 / ours, 1),
                "peer_images_per_s": round(1 / theirs, 1),
                "ratio": round(theirs / ours, 3),
            }
            print(
                f"{images.shape[-1]:4d}  {name:18s} {1 / ours:9.1f} {1 / theirs:9.1f} {theirs / ours:7.2f}", flush=True
            )
    return rows


def overall_ratio(rows: dict[str, dict[str, float]]) -> float:
    """The peer's time over adasap's for one image under each of the 15 (of those measured)."""
    measured = [rows[name] for name in BENCHMARK if name in rows]
    return sum(row["peer_ms"] for row in measured) / sum(row["adasap_ms"] for row in measured)


def verdict(by_side: dict[int, dict[str, dict[str, float]]]) -> list[str]:
    """Why the aim is missed; empty if it is met."""
    rows = by_side[224]
    ratio = overall_ratio(rows)
    print(f"overall, the 15 at 224 pixels: {ratio:.2f} times the peer's speed")
    for side, some in by_side.items():
        for name, row in some.items():
            if row["ratio"] < MIN_EACH:
                print(f"more than 10 % slower than the peer: {name} at {side} pixels, ratio {row['ratio']:.2f}")
    missing = [name for name in BENCHMARK if name not in rows]
    failures = [f"not measured: {', '.join(missing)}"] if missing else []
    return failures + ([f"{ratio:.2f} times the peer's speed; wanted {MIN_RATIO}"] if ratio < MIN_RATIO else [])


def main() -> None:
    """Measures, prints a table, writes JSON, and fails unless fast enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--images", type=int, nargs=2, default=list(IMAGES.values()), help="number at 224, at 32")
    parser.add_argument("--only", nargs="+", default=[*BENCHMARK, *VALIDATION])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    names = [name for name in options.only if name in CORRUPTIONS]
    print("side  corruption            adasap      peer   ratio   (images/s)")
    with kept_memory():
        by_side = {
            side: measure(names, photos(count, side), options.rounds, options.cores)
            for side, count in zip(IMAGES, options.images, strict=True)
        }
    failures = verdict(by_side)
    if options.out:
        write_json(options.out, report(by_side, options))
    if failures:
        sys.exit("; ".join(failures))


def report(by_side: dict[int, dict[str, dict[str, float]]], options: argparse.Namespace) -> dict[str, Any]:
    """The rows and what made them."""
    return {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": options.cores},
        "versions": {package: importlib.metadata.version(package) for package in PACKAGES},
        "rounds": options.rounds,
        "images": dict(zip(map(str, IMAGES), options.images, strict=True)),
        "overall_ratio_224": round(overall_ratio(by_side[224]), 3),
        "by_side": {str(side): rows for side, rows in by_side.items()},
    }


if __name__ == "__main__":
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"  # inherited by the peer's processes; adasap's threads are set by torch
    main()
