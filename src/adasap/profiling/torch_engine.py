"""Layers and models timed in PyTorch, eager or compiled."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from adasap.errors import ArgumentError
from adasap.groups.inputs import Arguments
from adasap.profiling.layers import LayerCall
from adasap.profiling.timing import Setting, TimingOptions, timed_ms


class TorchEngine:
    """PyTorch itself; every operator is a layer."""

    fuses = False
    step = 1

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def require(self) -> None:
        if self.setting.int8:
            raise ArgumentError("INT8 is timed in a runtime, not in PyTorch; give --engine onnxruntime or openvino")

    def describe(self) -> dict[str, Any]:
        return {}

    def ready(self, model: nn.Module, inputs: Arguments) -> Callable[..., Any]:
        return self.setting.place(model)

    def layer_timer(
        self, calls: Sequence[LayerCall], options: TimingOptions, *, weight_bytes: int
    ) -> Callable[[LayerCall, Sequence[float]], float]:
        return lambda call, at: time_layer_ms(call, at, self.setting, options, weight_bytes=weight_bytes)


def time_layer_ms(
    call: LayerCall, at: Sequence[float], setting: Setting, options: TimingOptions, *, weight_bytes: int
) -> float:
    """Median milliseconds of one call at these widths."""
    device = torch.device(setting.device)
    if setting.compiled:
        torch._dynamo.reset()  # else every shape looks through those before it
        weight_bytes = 0  # one set of weights, one compilation
    drawn = call.runners(at, device, setting.dtype, weight_bytes=weight_bytes, channels_last=setting.channels_last)
    runners = [setting.compile(runner) for runner in drawn]
    for runner in runners[:3]:
        runner()
    times: list[float] = []
    while len(times) < options.repeats or (sum(times) < options.milliseconds and len(times) < 300):
        times.append(timed_ms(runners[len(times) % len(runners)], device))
    return statistics.median(times)
