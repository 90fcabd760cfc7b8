"""What a model needs: parameters, MACs, peak memory, and latency measured beside another model's."""

from __future__ import annotations

import copy
import statistics
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adasap.groups import evaluating
from adasap.pruning import MACs


@dataclass(frozen=True)
class Latency:
    """Time of one forward pass over a batch, in milliseconds."""

    batch_size: int
    p50_ms: float
    p95_ms: float


@dataclass(frozen=True)
class Profile:
    """What a model needs.

    Attributes:
        parameters: Number of parameters.
        macs: Multiply-accumulates of one image.
        peak_memory_mb: Parameters, buffers and the largest sum of live activations at the larger batch, in MB (1e6).
        latency: One entry per batch size.
        uncounted: Operators whose MACs could not be counted.
    """

    parameters: int
    macs: int
    peak_memory_mb: float
    latency: tuple[Latency, ...]
    uncounted: tuple[str, ...] = ()


def profile_models(
    models: Mapping[str, nn.Module],
    example_inputs: Tensor,
    *,
    batch_sizes: tuple[int, ...] = (1, 16),
    seconds: float = 2.0,
    device: torch.device | None = None,
) -> dict[str, Profile]:
    """Profiles models side by side: their forward passes take turns, so that a busy machine is unfair to none.

    Args:
        models: Name -> model with the same inputs.
        example_inputs: One image, float [1, C, H, W].
        batch_sizes: Batches whose latency is measured.
        seconds: Time spent on each batch size, all models together.
        device: Where; default the CPU.
    """
    device = device or torch.device("cpu")
    placed = {name: _placed_copy(model, device) for name, model in models.items()}
    batches = [example_inputs.to(device).repeat(n, 1, 1, 1) for n in batch_sizes]
    timings = [measure_latency(placed, batch, seconds=seconds) for batch in batches]
    profiles = {}
    for name, model in placed.items():
        cost = MACs(model, (), example_inputs.to(device))
        profiles[name] = Profile(
            parameters=sum(p.numel() for p in model.parameters()),
            macs=int(cost.dense),
            peak_memory_mb=peak_memory_bytes(model, batches[-1]) / 1e6,
            latency=tuple(timing[name] for timing in timings),
            uncounted=tuple(cost.uncounted),
        )
    return profiles


def _placed_copy(model: nn.Module, device: torch.device) -> nn.Module:
    model = copy.deepcopy(model).eval().to(device)
    return model.to(memory_format=torch.channels_last)


def measure_latency(
    models: Mapping[str, nn.Module], batch: Tensor, *, seconds: float = 2.0, warm_up: int = 3, at_least: int = 10
) -> dict[str, Latency]:
    """Median and 95th percentile of interleaved forward passes; set modes and layout before."""
    batch = batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        started = time.perf_counter()
        while min(map(len, times.values())) < at_least + warm_up or time.perf_counter() - started < seconds:
            for name, model in models.items():
                times[name].append(_timed_ms(model, batch))
    return {name: _latency(len(batch), values[warm_up:]) for name, values in times.items()}


def _timed_ms(model: nn.Module, batch: Tensor) -> float:
    _synchronize(batch.device)
    started = time.perf_counter()
    model(batch)
    _synchronize(batch.device)
    return (time.perf_counter() - started) * 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _latency(batch_size: int, values: list[float]) -> Latency:
    return Latency(batch_size, statistics.median(values), statistics.quantiles(values, n=20)[-1])


def peak_memory_bytes(model: nn.Module, batch: Tensor) -> int:
    """Bytes of parameters and buffers plus the most activation bytes alive at once in one forward pass."""
    own = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    with evaluating(model), torch.no_grad(), _LiveBytes() as live:
        model(batch)
    return int(own + live.peak)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operators allocate until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._follow(tensor, inputs)
        return out

    def _follow(self, tensor: Tensor, inputs: set[int]) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in inputs or key in self._seen:
            return
        self._seen[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._free, key)

    def _free(self, key: int) -> None:
        self.now -= self._seen.pop(key, 0)
