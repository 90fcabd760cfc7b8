"""ExecuTorch's files: a graph for XNNPACK, in float or of INT8 by torchao's pt2e, and the runtime that runs them."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from adasap.errors import ExportError, TraceError, first_line
from adasap.export.about import INT8
from adasap.export.int8 import Scaling, quiet
from adasap.export.program import batched_program
from adasap.groups.fake_model import copied
from adasap.groups.inputs import Arguments

FULL, HALF = 127, 64
"""Largest weight of INT8."""


def pte_bytes(model: nn.Module, arguments: Arguments, notes: Mapping[str, str]) -> bytes:
    """A model as an ExecuTorch program: XNNPACK computes what it can, ExecuTorch's portable operators the rest.

    Args:
        model: In evaluation mode, on the CPU; left as it is.
        arguments: Of forward, of the one batch size that the file takes.
        notes: What the file says, name -> text, each as a constant beside its `forward`.
    Raises:
        ExportError: If ExecuTorch cannot follow the graph.
    """
    with _followed(model), quiet():
        return _lowered(_graph(model, arguments), notes)


def quantise_executorch(
    model: nn.Module, out: Path, calibration: Scaling, batch_size: int, notes: Mapping[str, str]
) -> dict[str, Any]:
    """Writes the INT8 program of a model; signed weights and activations, by the histogram of what activations were.

    XNNPACK's products have 16 bits also without VNNI, so weights use the full range unless `reduce_range` is True.

    Args:
        model: As of `pte_bytes`.
        out: Where to.
        calibration: Images and scales.
        batch_size: The one that the file takes.
        notes: As of `pte_bytes`.
    Returns:
        The settings, which the file holds, too: as the constant `adasap.int8` beside its `forward`.
    """
    with _followed(model), quiet():
        import torchao
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from executorch.version import __version__
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        most = HALF if calibration.reduce_range else FULL
        scheme = get_symmetric_quantization_config(calibration.per_channel, weight_qmin=-most, weight_qmax=most)
        batches = [torch.from_numpy(batch) for batch in calibration.batches(batch_size)]
        graph = _graph(model, Arguments((batches[0],), {})).module()
        prepared = prepare_pt2e(graph, XNNPACKQuantizer().set_global(scheme))
        with torch.no_grad():
            for batch in batches:
                prepared(batch)
        versions = {"torchao": torchao.__version__, "executorch": __version__}
        settings = calibration.settings(reduce_range=most == HALF, **versions)
        quantised = torch.export.export(convert_pt2e(prepared), (batches[0],))
        out.write_bytes(_lowered(quantised, {**notes, INT8: json.dumps(settings)}))
    return settings


def _graph(model: nn.Module, arguments: Arguments) -> ExportedProgram:
    """The graph for one batch size, with weights in the order of NCHW, without which XNNPACK refuses it."""
    ordered = copied(model).to(memory_format=torch.contiguous_format)
    return batched_program(ordered, arguments, fixed=True)


def _lowered(program: ExportedProgram, constants: Mapping[str, str]) -> bytes:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()], constant_methods={**constants})
    content: bytes = edge.to_executorch().buffer
    return content


@contextlib.contextmanager
def _followed(model: nn.Module) -> Iterator[None]:
    try:
        imported_runtime()  # before the converters, which load parts of it in another order
        yield
    except (ExportError, TraceError, ImportError):
        raise
    except Exception as error:  # converters raise errors of many kinds
        reason = first_line(error.__cause__ or error)
        raise ExportError(
            f"ExecuTorch cannot follow {type(model).__name__}: {reason}; use onnx or torch-export, or replace the "
            "operator that it names"
        ) from error


def opened_program(path: Path) -> tuple[Any, Callable[..., list[Tensor]]]:
    """A file's program, as ExecuTorch's runtime opened it, and what runs its `forward` on tensors on the CPU."""
    program = imported_runtime().load_program(path.read_bytes())
    program.load_method("forward")

    def run(*inputs: Tensor) -> list[Tensor]:
        # the runtime takes the numbers as they lie in memory, whatever the strides say
        found = program.load_method("forward").execute([tensor.contiguous() for tensor in inputs])
        return [one for one in found if isinstance(one, Tensor)]

    return program, run


@functools.cache
def imported_runtime() -> Any:
    """ExecuTorch's runtime, which has as many threads as torch had when it was first asked for here.

    Raises:
        ImportError: If ExecuTorch is not installed.
        ExportError: If its native part does not load with this torch.
    """
    is_new = "executorch.extension.pybindings.portable_lib" not in sys.modules
    with quiet():
        try:
            # first of all, or XNNPACK is bound to the thread pool inside of torch, which was built of other sources
            portable_lib = importlib.import_module("executorch.extension.pybindings.portable_lib")
            import executorch.kernels.quantized  # noqa: F401 # steps of INT8 that XNNPACK leaves
            from executorch.runtime import Runtime
        except (ImportError, OSError) as error:
            if importlib.util.find_spec("executorch") is None:
                raise
            raise ExportError(
                f"ExecuTorch does not load with torch {torch.__version__} ({first_line(error)}); it is built against "
                "one version of torch: install the version of ExecuTorch that belongs to yours"
            ) from error
    if is_new:  # what is loaded already holds on to the threads
        with _without_native_lines():
            portable_lib._unsafe_reset_threadpool(torch.get_num_threads())
    return Runtime.get()


@contextlib.contextmanager
def _without_native_lines() -> Iterator[None]:
    """Inside, nothing gets to stderr: the runtime tells there of files of a phone's processor that it does not find."""
    try:
        kept = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
