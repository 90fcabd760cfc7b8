"""Layers and models timed in OpenVINO, on the CPU."""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adasap.export.onnx_layers import PRELUDE, LayerFile
from adasap.export.openvino_core import openvino_core
from adasap.export.runtime_engine import Profiled, RuntimeEngine
from adasap.export.targets import OpenVino, Target

CONVERSIONS = {"Reorder", "Convert", "FakeQuantize", "Input", "Output"}
"""Kernels on the way into a layer and out of it, which its neighbours in a network spare it."""


class OpenVinoEngine(RuntimeEngine):
    """OpenVINO on the CPU; single layers come by ONNX, whole models as `adasap export` writes them.

    Numbers of input channels that 8, a vector of AVX2, does not divide have times of their own: in MobileNet-V2 most
    are 0.8 to 1.3 times those of the next multiple.
    """

    step = 8
    name = "openvino"
    packages = ("openvino", "onnx", "onnxscript")
    extras = "openvino,onnx"

    def require(self) -> None:
        self.packages = (*type(self).packages, *(("nncf", "onnxruntime") if self.setting.int8 else ()))
        super().require()

    def describe(self) -> dict[str, Any]:
        return {"engine_version": version("openvino")}

    def target(self) -> Target:
        return OpenVino()

    def opened(self, path: Path) -> Callable[[list[np.ndarray[Any, Any]]], Any]:
        request = self._compiled(path).create_infer_request()
        return lambda arrays: request.infer(arrays, share_inputs=True)

    def profiled(self, file: LayerFile) -> Profiled:
        compiled = self._compiled(file.content, PERF_COUNT=True)
        request, arrays = compiled.create_infer_request(), list(file.inputs.values())

        def run(count: int) -> tuple[list[float], tuple[int, ...]]:
            times = []
            for _ in range(count + 1):
                request.infer(arrays, share_inputs=True)
                times.append(sum(map(_own_ms, request.get_profiling_info())))
            return times[1:], tuple(request.get_output_tensor(0).shape)

        return run

    def _compiled(self, source: Path | bytes, **more: Any) -> Any:
        core = openvino_core()
        setting = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        model = core.read_model(io.BytesIO(source) if isinstance(source, bytes) else source)
        return core.compile_model(model, "CPU", {**setting, "PERFORMANCE_HINT": "LATENCY", **more})


def _own_ms(node: Any) -> float:
    is_other = node.node_type in CONVERSIONS or PRELUDE in node.node_name
    return 0.0 if is_other else node.real_time.total_seconds() * 1e3
