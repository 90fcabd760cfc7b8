"""Measuring layers one by one, to fill a latency table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from adasap.pruning.latency import LatencyTable
from adasap.pruning.layers import LayerCall

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

CACHE_BYTES = 64_000_000
"""Weights of one layer that are cycled through, so that none of them is still in the cache."""


@dataclass(frozen=True)
class TimingOptions:
    """How long to measure.

    Attributes:
        precision: Number type of weights and activations.
        repeats: Runs of one layer at least; the median counts.
        milliseconds: Time spent on one layer at least.
    """

    precision: Literal["float32", "bf16", "fp16"] = "float32"
    repeats: int = 7
    milliseconds: float = 15.0


def measure_layers_(
    table: LatencyTable,
    calls: Sequence[LayerCall],
    device: torch.device,
    options: TimingOptions,
    done: Callable[[int, int], None],
) -> None:
    """Fills the table with what it lacks; `done(measured, wanted)` is called after every point, so that it can save."""
    todo = table.missing(calls)
    for number, (call, point) in enumerate(todo, start=1):
        table.points.setdefault(call.key, {})[point] = time_layer_ms(call, point, device, options)
        done(number, len(todo))


def time_layer_ms(call: LayerCall, at: Sequence[float], device: torch.device, options: TimingOptions) -> float:
    """Median milliseconds of one call at these widths."""
    with torch.inference_mode():
        runners = call.runners(at, device, DTYPES[options.precision], weight_bytes=CACHE_BYTES)
        for runner in runners[:3]:
            runner()
        times: list[float] = []
        while len(times) < options.repeats or (sum(times) < options.milliseconds and len(times) < 300):
            times.append(_timed_ms(runners[len(times) % len(runners)], device))
    return statistics.median(times)


def _timed_ms(run: Callable[[], Any], device: torch.device) -> float:
    _synchronize(device)
    started = time.perf_counter()
    run()
    _synchronize(device)
    return (time.perf_counter() - started) * 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
