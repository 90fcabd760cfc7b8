"""INT8: what training images do in a network says by what its weights and activations are scaled to 8 bits."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import platform
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from adasap.checks import finite_number, require_declared
from adasap.errors import ExportError
from adasap.export.about import INT8
from adasap.export.int8_check import Check
from adasap.export.openvino_core import imported_openvino, openvino_core, signal_stack_kept
from adasap.processor import saturates_int8

Processor = Literal["here", "avx2", "vnni", "arm"]
ROWS = 16


@dataclass(frozen=True, eq=False)
class Scaling:
    """By what weights and activations are scaled to 8 bits.

    Attributes:
        images: Prepared as in an evaluation: float [N, C, H, W] of the size of the example inputs.
        per_channel: Weights have a scale for each output channel; else one for the whole tensor.
        reduce_range: Weights use half of the range: without VNNI an x86 processor adds pairs of 8-bit products in 16
            bits, which overflow. None decides by `processor` for onnxruntime, leaves it to NNCF for OpenVINO, which
            halves the first layers, and takes all of the range for ExecuTorch, where XNNPACK adds in 32 bits.
        processor: Which one the file is for, `--target` of the command line: `here`, `avx2` (x86 without VNNI), `vnni`,
            or `arm`.
        about: What else the file records of the images, such as data and seed; plain JSON values.
    """

    images: Tensor
    _: KW_ONLY
    per_channel: bool = True
    reduce_range: bool | None = None
    processor: Processor = "here"
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_declared(self, ExportError)
        if self.images.ndim != 4 or not len(self.images) or not self.images.is_floating_point():
            raise ExportError(
                f"calibration images are {self.images.dtype} {list(self.images.shape)}; give prepared training images, "
                "float [N, C, H, W], a hundred or more"
            )
        if not self.images.isfinite().all():
            raise ExportError("calibration images hold NaN or infinity; prepare them as in an evaluation")

    @property
    def saturates(self) -> bool:
        """Whether the processor that the file is for cuts off sums of 8-bit products at full range."""
        return saturates_int8() if self.processor == "here" else self.processor == "avx2"

    @property
    def made_for(self) -> str:
        """The processor by name, also where it is this one."""
        if self.processor != "here":
            return self.processor
        return "avx2" if saturates_int8() else "arm" if platform.machine().lower() in ("arm64", "aarch64") else "vnni"

    @property
    def halves(self) -> bool:
        """Whether weights use half of the range in onnxruntime."""
        return self.saturates if self.reduce_range is None else self.reduce_range

    def batches(self, size: int | None) -> list[np.ndarray]:
        """The images in batches of a size, of which the last may be smaller unless the file takes no other."""
        rows = size or ROWS
        parts = [part.contiguous().numpy() for part in torch.split(self.images, rows)]
        return parts if size is None or len(parts[-1]) == rows else parts[:-1]

    def settings(self, **library: Any) -> dict[str, Any]:
        """What the file records, plain JSON values."""
        scales = {"per_channel": self.per_channel, "processor": self.made_for}
        return {"calibration_images": len(self.images), **self.about, **scales, **library}


@dataclass(frozen=True, eq=False)
class Calibration(Scaling):
    """How a model becomes INT8: weights and activations of 8 bits, scaled by what training images do in it.

    Attributes:
        check: What the INT8 file is compared by before it is kept.
        tolerance: The largest loss of a suite's score for which the file is kept: 0.01 is a point of accuracy.
        force: Keep the file whatever it loses.
        seconds: Time for latency at each batch size, both files together.
    """

    check: Check
    _: KW_ONLY
    tolerance: float = 0.01
    force: bool = False
    seconds: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tolerance", "seconds"):
            finite_number(getattr(self, name), name, least=0, error=ExportError)


def quantise_onnx(
    source: Path, out: Path, calibration: Scaling, fixed_batch: int | None, notes: Mapping[str, str]
) -> dict[str, Any]:
    """Writes the INT8 file of an ONNX file: static, QDQ, weights signed, activations unsigned, by smallest and largest.

    Args:
        source: The float file.
        out: Where to.
        calibration: Images and scales.
        fixed_batch: The only batch size the file takes, if it does.
        notes: What else the file says, name -> text.
    Returns:
        The settings, which the file holds, too.
    """
    with quiet(), tempfile.TemporaryDirectory() as folder:
        import onnx
        import onnxruntime
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        names = [entry.name for entry in onnx.load(prepared, load_external_data=False).graph.input]
        batches = [{names[0]: batch} for batch in calibration.batches(fixed_batch)]
        quantise_prepared(prepared, out, batches, per_channel=calibration.per_channel, halves=calibration.halves)
        settings = calibration.settings(reduce_range=calibration.halves, onnxruntime=onnxruntime.__version__)
        model = onnx.load(out)
        onnx.helper.set_model_props(model, {**notes, INT8: json.dumps(settings)})
        onnx.save(model, out)
    return settings


def quantise_prepared(
    source: Path, out: Path, batches: Sequence[Mapping[str, np.ndarray]], *, per_channel: bool, halves: bool
) -> None:
    """Writes the INT8 file of an ONNX file whose norms are folded already.

    Args:
        source: The float file.
        out: Where to.
        batches: Name of an input -> numbers, by which activations are scaled.
        per_channel: As of `Scaling`.
        halves: Weights use half of the range.
    """
    from onnxruntime import quantization

    quantization.quantize_static(
        source,
        out,
        _Reader(batches),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
        reduce_range=halves,
        weight_type=quantization.QuantType.QInt8,
        activation_type=quantization.QuantType.QUInt8,
    )


class _Reader:
    """Gives onnxruntime one batch after the other, then None."""

    def __init__(self, batches: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.rest = iter(batches)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.rest, None)

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Mapping[str, np.ndarray]:
        return next(self.rest)


def quantise_openvino(
    source: Path, out: Path, calibration: Scaling, fixed_batch: int | None, notes: Mapping[str, str]
) -> dict[str, Any]:
    """Writes the INT8 files of OpenVINO's by NNCF, with its own bias correction; as `quantise_onnx`."""
    with quiet(), signal_stack_kept():
        openvino = imported_openvino()
        import nncf
        from nncf.quantization.advanced_parameters import (
            AdvancedQuantizationParameters,
            OverflowFix,
            QuantizationParameters,
        )

        fixes = {None: OverflowFix.FIRST_LAYER, True: OverflowFix.ENABLE, False: OverflowFix.DISABLE}
        fix = fixes[calibration.reduce_range]
        weights = None if calibration.per_channel else QuantizationParameters(per_channel=False)
        model = openvino_core().read_model(source)
        batches = calibration.batches(fixed_batch or 1)
        quantised = nncf.quantize(
            model,
            nncf.Dataset(batches, lambda batch: [batch]),
            subset_size=len(batches),
            advanced_parameters=AdvancedQuantizationParameters(overflow_fix=fix, weights_quantization_params=weights),
        )
        settings = calibration.settings(reduce_range=fix.value, nncf=nncf.__version__, openvino=openvino.__version__)
        for name, text in {**notes, INT8: json.dumps(settings)}.items():
            quantised.set_rt_info(text, name.split("."))
        openvino.serialize(quantised, str(out), str(out.with_suffix(".bin")))
    return settings


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, libraries print no bars, lines and warnings."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
