"""Layers and models timed in onnxruntime, on the CPU."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adasap.export.onnx_layers import PRELUDE, LayerFile
from adasap.export.runtime_engine import Profiled, RuntimeEngine
from adasap.export.targets import Onnx, Target

CONVERSIONS = {"ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear", "Transpose"}
"""Kernels on the way into a layer and out of it, which its neighbours in a network spare it."""


class OnnxRuntimeEngine(RuntimeEngine):
    """ONNX files in onnxruntime; convolutions of blocks of channels take numbers of them that 4 divides."""

    step = 4
    name = "onnxruntime"
    packages = ("onnx", "onnxscript", "onnxruntime")
    extras = "onnx"

    def describe(self) -> dict[str, Any]:
        return {"engine_version": version("onnxruntime")}

    def target(self) -> Target:
        return Onnx()

    def opened(self, path: Path) -> Callable[[list[np.ndarray[Any, Any]]], Any]:
        session = self._session(str(path))
        names = [entry.name for entry in session.get_inputs()]
        return lambda arrays: session.run(None, dict(zip(names, arrays, strict=True)))

    def profiled(self, file: LayerFile) -> Profiled:
        def run(count: int) -> tuple[list[float], tuple[int, ...]]:
            with tempfile.TemporaryDirectory() as folder:
                session = self._session(file.content, profile=f"{folder}/layer")
                for _ in range(count + 1):
                    first, *_ = session.run(None, file.inputs)
                events = json.loads(Path(session.end_profiling()).read_text())
            kernels = [event for event in events if str(event.get("name", "")).endswith("_kernel_time")]
            per_run = len(kernels) // (count + 1)
            runs = [kernels[start : start + per_run] for start in range(per_run, len(kernels), per_run)]
            return [sum(map(_own_ms, kernels)) for kernels in runs] or [0.0] * count, tuple(first.shape)

        return run

    def _session(self, content: str | bytes, *, profile: str = "") -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.force_spinning_stop", "1")  # threads of one would disturb the next
        if profile:
            options.enable_profiling, options.profile_file_prefix = True, profile
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _own_ms(event: dict[str, Any]) -> float:
    is_other = event["args"].get("op_name") in CONVERSIONS or PRELUDE in event["name"]
    return 0.0 if is_other else event["dur"] / 1e3
