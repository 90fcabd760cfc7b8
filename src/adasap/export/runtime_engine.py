"""What the engines of exported files share: how models get into them, and how layers are tried."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from adasap.errors import ArgumentError, ExportError, first_line
from adasap.export.int8 import Scaling
from adasap.export.onnx_layers import LayerFile, OnnxLayers
from adasap.export.targets import Target
from adasap.groups.bare import workable
from adasap.groups.fake_model import copied
from adasap.groups.inputs import Arguments
from adasap.profiling.layers import LayerCall
from adasap.profiling.timing import Setting, TimingOptions

MOST_RUNS = 60
CALIBRATION_IMAGES = 2
"""Of random numbers; how fast INT8 is does not depend on its scales."""

Profiled = Callable[[int], tuple[list[float], tuple[int, ...]]]
"""A number of runs -> milliseconds of the layer's copies in each, and the shape of a result."""


class RuntimeEngine:
    """An engine that runs files of a target.

    Attributes:
        packages: What must be installed, and the extras that bring it.
    """

    fuses = True
    step = 1
    name = ""
    packages: tuple[str, ...] = ()
    extras = ""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting

    def require(self) -> None:
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ArgumentError(
                f"timing in {self.name} needs {', '.join(missing)}: pip install 'adasap[{self.extras}]'"
            )

    def target(self) -> Target:
        """What writes the engine's files."""
        raise NotImplementedError

    def opened(self, path: Path) -> Callable[[list[np.ndarray[Any, Any]]], Any]:
        """A file, to be run on arrays by whole models."""
        raise NotImplementedError

    def profiled(self, file: LayerFile) -> Profiled:
        """A layer's file, to be run under the engine's own clock."""
        raise NotImplementedError

    def ready(self, model: nn.Module, inputs: Arguments) -> Callable[..., Any]:
        """See `Engine`.

        Raises:
            ExportError: If the model cannot be exported.
        """
        target, bare = self.target(), copied(workable(model)).cpu().eval()
        target.require(bare, inputs.batch_size)
        folder = tempfile.mkdtemp()
        weakref.finalize(target, shutil.rmtree, folder, ignore_errors=True)
        path = Path(folder) / f"model{getattr(target, 'suffix', '.onnx')}"
        with path.open("xb") as file:
            target.write(file, bare, inputs, fixed=True)
        if self.setting.int8:
            path = self._quantised(target, bare, path, inputs)
        run = self.opened(path)

        def call(*args: Any, kept: Any = target, **kwargs: Any) -> Any:  # with it go the files, which may be mapped
            return run([leaf.numpy() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)])

        return call

    def _quantised(self, target: Target, model: nn.Module, source: Path, inputs: Arguments) -> Path:
        shapes = [tuple(tensor.shape) for tensor in inputs.tensors]
        if len(shapes) != 1 or len(shapes[0]) != 4:
            raise ExportError(f"INT8 takes one batch of images, and the model takes {shapes}; leave int8 out")
        draw = torch.Generator().manual_seed(0)
        rows = max(CALIBRATION_IMAGES, shapes[0][0])
        scaling = Scaling(torch.randn((rows, *shapes[0][1:]), generator=draw))
        out = source.with_name(f"int8{source.suffix}")
        target.quantise(model, source, out, scaling, inputs.batch_size)  # type: ignore[attr-defined]
        return out

    def layer_timer(
        self, calls: Sequence[LayerCall], options: TimingOptions, *, weight_bytes: int
    ) -> Callable[[LayerCall, Sequence[float]], float]:
        """See `Engine`; what the engine says that a layer's kernels took, without conversions on the way in and out.

        So one call costs nothing beside them; whole models say what it does (`call_ms`).

        Raises:
            ExportError: If a layer cannot be converted.
        """
        layers = OnnxLayers(calls, int8=self.setting.int8)

        def time_ms(call: LayerCall, at: Sequence[float]) -> float:
            try:
                return self._time_ms(layers.file(call, at, weight_bytes=weight_bytes), options)
            except Exception:  # every runtime has errors of its own; a constant may hold the dense width
                file = layers.file(call, at, weight_bytes=weight_bytes, anew=True)
            try:
                return self._time_ms(file, options)
            except Exception as error:
                raise ExportError(
                    f"{self.name} does not run {call.key.partition(' ')[0]} in {call.where} at widths {list(at)}: "
                    f"{first_line(error)}"
                ) from error

        return time_ms

    def _time_ms(self, file: LayerFile, options: TimingOptions) -> float:
        run = self.profiled(file)
        first, shape = run(2)
        if shape != file.shape:
            raise ValueError(f"the result has shape {shape} instead of {file.shape}")
        wanted = options.milliseconds / max(1e-3, first[-1])
        times, _ = run(int(min(MOST_RUNS, max(options.repeats, wanted))))
        return float(np.median(times)) / file.copies
