"""Measuring: single layers, to fill a latency table, and whole models that take turns."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adasap.checks import require_declared
from adasap.errors import ArgumentError
from adasap.groups.bare import workable
from adasap.groups.fake_model import copied
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.memory import kept_memory
from adasap.processor import DTYPES, Precision
from adasap.profiling.engines import ENGINES, Engine
from adasap.profiling.layers import LayerCall
from adasap.profiling.table import LatencyTable


@dataclass(frozen=True)
class Setting:
    """Under what a model is timed.

    Attributes:
        device: Such as "cpu" or "cuda:0".
        threads: Of the CPU; None leaves them as they are.
        precision: Number type of weights and activations.
        channels_last: Memory format of images and convolutions.
        compiled: Through `torch.compile`.
        engine: What runs it, by its name in `adasap.profiling.ENGINES`: `torch`, or a runtime on the CPU,
            `onnxruntime` or `openvino`, for which models are exported.
        int8: Models are quantised for the runtime, by random images: their speed is that of any INT8 file.
    """

    device: str = "cpu"
    threads: int | None = None
    precision: Precision = "float32"
    channels_last: bool = True
    compiled: bool = False
    engine: str = "torch"
    int8: bool = False

    def __post_init__(self) -> None:
        require_declared(self, ArgumentError)
        if self.engine == "torch":
            return
        asked = {
            f"device {self.device!r}": self.device != "cpu",
            f"precision {self.precision}": self.precision != "float32",
            "torch.compile": self.compiled,
        }
        if wrong := [what for what, given in asked.items() if given]:
            raise ArgumentError(
                f"engine {self.engine} runs float32 or INT8 files on the CPU, and {wrong[0]} is asked for; leave it "
                "out, or time PyTorch (engine torch)"
            )

    @property
    def dtype(self) -> torch.dtype:
        """The number type itself."""
        return DTYPES[self.precision]

    def opened_engine(self) -> Engine:
        """What runs models under this setting.

        Raises:
            ArgumentError: If there is no such engine, or it is not installed.
        """
        engine = ENGINES.get(self.engine)(self)
        engine.require()
        return engine

    def ready(self, model: nn.Module, example_inputs: ExampleInputs) -> Callable[..., Any]:
        """A copy of the model in its engine, to be timed on a batch of this size that `batch` placed."""
        return self.opened_engine().ready(model, as_arguments(example_inputs))

    def place(self, model: nn.Module) -> nn.Module:
        """A copy for PyTorch, in evaluation mode, on the device, of the number type, compiled if that is asked."""
        model = copied(workable(model)).eval().to(self.device, self.dtype)
        placed: nn.Module = self.compile(model.to(memory_format=self._memory_format))
        return placed

    def batch(self, example_inputs: ExampleInputs, size: int) -> Arguments:
        """The first example so many times, on the device and of the number type."""

        def placed(tensor: Tensor) -> Tensor:
            tensor = tensor.to(self.device, self.dtype) if tensor.is_floating_point() else tensor.to(self.device)
            return tensor.contiguous(memory_format=self._memory_format) if tensor.ndim == 4 else tensor

        return as_arguments(example_inputs).rows(1).rows(size).map(placed)

    def compile(self, run: Any) -> Any:
        """The module or function, compiled for its very shapes if the setting says so."""
        return torch.compile(run, dynamic=False) if self.compiled else run

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, no gradients are kept, the CPU has its threads, and memory stays with the process.

        glibc gives large buffers back after every operator, and the next one waits for fresh pages, in one process more
        than in another (benchmarks/kept_memory.py). Serving processes keep them.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads or before)
        limits = torch._dynamo.config.patch(recompile_limit=1024, accumulated_recompile_limit=65536)
        try:
            with torch.inference_mode(), limits, kept_memory():
                yield
        finally:
            torch.set_num_threads(before)

    def describe(self) -> dict[str, Any]:
        """The setting and the machine, without its name; ready for JSON."""
        return {
            "device": torch.device(self.device).type,
            "processor": self.processor,
            "threads": self.threads or torch.get_num_threads(),
            "precision": self.precision,
            "channels_last": self.channels_last,
            "compiled": self.compiled,
            "torch": torch.__version__,
            **({} if self.engine == "torch" else self._engine()),
        }

    def _engine(self) -> dict[str, Any]:
        return {"engine": self.engine, "int8": self.int8, **self.opened_engine().describe()}

    @property
    def processor(self) -> str:
        """Name of the device's processor."""
        on_gpu = torch.device(self.device).type == "cuda"
        return torch.cuda.get_device_name(self.device) if on_gpu else _processor()

    @property
    def _memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format


@dataclass(frozen=True)
class TimingOptions:
    """How long to measure.

    Attributes:
        repeats: Runs of one layer at least; the median counts.
        milliseconds: Time spent on one layer at least.
        rounds: Turns of each whole model at least.
        seconds: Time spent on a comparison of whole models at least.
    """

    repeats: int = 7
    milliseconds: float = 15.0
    rounds: int = 15
    seconds: float = 10.0

    def __post_init__(self) -> None:
        require_declared(self, ArgumentError)


def measure_layers_(
    table: LatencyTable,
    calls: Sequence[LayerCall],
    setting: Setting,
    options: TimingOptions,
    done: Callable[[int, int], None],
    *,
    weight_bytes: int = 64_000_000,
) -> None:
    """Fills the table with what it lacks.

    Args:
        table: Changed in place.
        calls: Of the model, see `adasap.profiling.layers`.
        setting: Under which the layers are timed.
        options: How long.
        done: Called after every point with the number of measured and of wanted points, so that it can save.
        weight_bytes: What lies between two uses of a layer's weights in the network, that is the size of all its
            weights; so much is cycled through, so that a layer's weights are in the cache only if they are there in
            the network.
    """
    todo = table.missing(calls)
    with setting.applied():
        wanted = list({call.key: call for call, _ in todo}.values())
        time_ms = setting.opened_engine().layer_timer(wanted, options, weight_bytes=weight_bytes)
        for number, (call, point) in enumerate(todo, start=1):
            table.points.setdefault(call.key, {})[point] = time_ms(call, point)
            done(number, len(todo))


def time_models_ms(
    models: Mapping[str, Callable[..., Any]], batch: ExampleInputs, *, rounds: int = 10, seconds: float = 2.0
) -> dict[str, list[float]]:
    """Milliseconds of each forward pass; models take turns, so that a busy machine is unfair to none.

    At its turn a model runs twice and the second pass counts: after the others its weights have left the cache.
    Call it inside `Setting.applied`, with models that it made ready and a batch that it placed.
    """
    inputs = as_arguments(batch)
    device = inputs.tensors[0].device
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(3):
        for model in models.values():
            inputs.call(model)
    started = time.perf_counter()
    while min(map(len, times.values())) < rounds or time.perf_counter() - started < seconds:
        for name, model in models.items():
            inputs.call(model)
            times[name].append(timed_ms(lambda run=model: inputs.call(run), device))  # type: ignore[misc]
    return times


def timed_ms(run: Callable[[], Any], device: torch.device) -> float:
    """Milliseconds of one call, the device's work included."""
    _synchronize(device)
    started = time.perf_counter()
    run()
    _synchronize(device)
    return (time.perf_counter() - started) * 1e3


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
