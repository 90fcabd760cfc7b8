"""What a model needs: parameters, MACs, peak memory, and latency measured beside another model's."""

from __future__ import annotations

import statistics
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from adasap.checks import finite_number, whole_number
from adasap.groups import evaluating
from adasap.groups.bare import unwrap
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.preserving import preserved
from adasap.profiling.timing import Setting, time_models_ms
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
        latency: One entry per batch size: of the model on a batch, its traced part.
        uncounted: Operators whose MACs could not be counted.
        predictions: What else its task times -> one entry per batch size: from images of any sizes to finished answers.
    """

    parameters: int
    macs: int
    peak_memory_mb: float
    latency: tuple[Latency, ...]
    uncounted: tuple[str, ...] = ()
    predictions: dict[str, tuple[Latency, ...]] = field(default_factory=dict)

    @property
    def timed(self) -> dict[str, tuple[Latency, ...]]:
        """Everything that was timed: `latency` and the predictions, by name."""
        return {"latency": self.latency, **self.predictions}


def profile_models(
    models: Mapping[str, nn.Module],
    example_inputs: ExampleInputs,
    *,
    batch_sizes: tuple[int, ...] = (1, 16),
    seconds: float = 2.0,
    setting: Setting | None = None,
    images: Mapping[str, Sequence[Tensor]] | None = None,
) -> dict[str, Profile]:
    """Profiles models side by side: their forward passes take turns, so that a busy machine is unfair to none.

    Args:
        models: Name -> model with the same inputs; left as they are.
        example_inputs: One image, float [1, C, H, W], or what `trace_groups` takes.
        batch_sizes: Batches whose latency is measured, each at least 1.
        seconds: Time spent on each batch size, all models together.
        setting: Device, threads, precision and so on; default the CPU as it is.
        images: What else is timed -> prepared images that whole predictions are made of (`Task.timed_images`), taken
            anew if a batch wants more; real ones, for the time may depend on what they show.
    """
    setting = setting or Setting()
    for size in batch_sizes or (None,):
        whole_number(size, "batch_sizes", least=1)
    finite_number(seconds, "seconds", least=0)
    costs = {name: MACs(model, (), example_inputs) for name, model in models.items()}
    batches = [setting.batch(example_inputs, n) for n in batch_sizes]
    with setting.applied():
        timings = [measure_latency(_ready(models, setting, batch), batch, seconds=seconds) for batch in batches]
        placed = {name: setting.place(model) for name, model in models.items()} if images else {}
        predictions = {
            what: [measure_predictions(placed, _first(some, n, setting), seconds=seconds) for n in batch_sizes]
            for what, some in (images or {}).items()
        }
    profiles = {}
    for name, model in models.items():
        plain = replace(setting, compiled=False, engine="torch", int8=False).place(model)
        profiles[name] = Profile(
            parameters=sum(p.numel() for p in unwrap(model).parameters()),
            macs=int(costs[name].dense),
            peak_memory_mb=peak_memory_bytes(plain, batches[-1]) / 1e6,
            latency=tuple(timing[name] for timing in timings),
            uncounted=tuple(costs[name].uncounted),
            predictions={what: tuple(timing[name] for timing in found) for what, found in predictions.items()},
        )
    return profiles


def measure_latency(
    models: Mapping[str, Callable[..., Any]], batch: ExampleInputs, *, seconds: float = 2.0, at_least: int = 10
) -> dict[str, Latency]:
    """Median and 95th percentile of interleaved forward passes of models that a setting made ready."""
    times = time_models_ms(models, batch, rounds=at_least, seconds=seconds)
    return {name: latency_of(as_arguments(batch).batch_size, values) for name, values in times.items()}


def measure_predictions(
    models: Mapping[str, nn.Module], images: Sequence[Tensor], *, seconds: float = 2.0, at_least: int = 10
) -> dict[str, Latency]:
    """The same from images of any sizes to finished answers.

    Args:
        models: Placed, in evaluation mode, called with a list of images.
        images: Prepared, float [3, H, W] of any sizes, on the models' device.
    """
    runs: dict[str, Callable[[Tensor], Any]] = {
        name: lambda _, model=model: model(list(images))  # type: ignore[misc]
        for name, model in models.items()
    }
    times = time_models_ms(runs, images[0], rounds=at_least, seconds=seconds)
    return {name: latency_of(len(images), values) for name, values in times.items()}


def _ready(models: Mapping[str, nn.Module], setting: Setting, batch: ExampleInputs) -> dict[str, Callable[..., Any]]:
    return {name: setting.ready(model, batch) for name, model in models.items()}


def _first(images: Sequence[Tensor], count: int, setting: Setting) -> list[Tensor]:
    return [images[place % len(images)].to(setting.device, setting.dtype) for place in range(count)]


def latency_of(batch_size: int, values: list[float]) -> Latency:
    """Median and 95th percentile of times in milliseconds."""
    return Latency(batch_size, statistics.median(values), statistics.quantiles(values, n=20)[-1])


def peak_memory_bytes(model: nn.Module, batch: ExampleInputs) -> int:
    """Bytes of parameters and buffers plus the most activation bytes alive at once in one forward pass."""
    own = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    inputs = as_arguments(batch)
    with preserved(model), evaluating(model), torch.no_grad(), _LiveBytes() as live:
        inputs.call(model)
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
