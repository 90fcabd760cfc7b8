"""What a model can be exported to: each target writes a file and runs it in its own runtime."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import torch
from torch import nn

from adasap.errors import ExportError, first_line
from adasap.export.int8 import Scaling, quantise_onnx, quantise_openvino
from adasap.export.model_file import load, model_bytes
from adasap.export.openvino_core import imported_openvino
from adasap.export.parity import Runner, run_in_torch
from adasap.export.program import batch_axes, batched_program
from adasap.export.pte import pte_bytes, quantise_executorch
from adasap.export.runtimes import RuntimeFile, open_executorch, open_onnx, open_openvino
from adasap.groups.group import ChannelGroup
from adasap.groups.inputs import Arguments
from adasap.models.open import ModelSpec
from adasap.pruning.plan import PruningPlan
from adasap.registry import Registry

LARGEST_ONNX_FILE = 2**31


class Target(Protocol):
    """One kind of file. `export_model` calls the methods in this order.

    One that has INT8 also has `quantise(model, source, out, calibration, fixed_batch)`, as `Onnx`; one whose files
    always take one batch size has `batch_size`, that of a file for which none is given; one whose files say what is in
    them has `notes`, name -> text, which is set before it writes (`adasap.export.about`).
    """

    @property
    def name(self) -> str:
        """As `--to` takes it."""
        ...

    def require(self, model: nn.Module, fixed_batch: int | None) -> None:
        """Raises ExportError, before any work, if this cannot be written here."""
        ...

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        """Writes the model; the batch size of `arguments` is the only one if `fixed`."""
        ...

    def open(self, path: Path) -> Runner:
        """Reads the file back into the runtime it is for."""
        ...


class Onnx:
    """An ONNX file with the weights in it, run by onnxruntime; inputs keep the names that forward gives them."""

    name = "onnx"
    notes: Mapping[str, str] = {}

    def require(self, model: nn.Module, fixed_batch: int | None) -> None:
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(f"export to onnx needs {', '.join(missing)}: pip install 'adasap[onnx]'")
        require_single_precision(model)
        if (size := state_bytes(model)) >= LARGEST_ONNX_FILE:
            raise ExportError(
                f"the weights take {size / 1e9:.1f} GB, and one ONNX file holds less than 2.1 GB; use torch-export"
            )

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        program = batched_program(model, arguments, fixed=fixed)
        names = output_names(len(program.graph_signature.user_outputs))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                converted = torch.onnx.export(
                    program,
                    dynamo=True,
                    verbose=False,
                    output_names=names,
                    dynamic_shapes=None if fixed else batch_axes(model, arguments),
                )
        except Exception as error:  # the converter raises errors of many kinds
            raise ExportError(
                f"the ONNX converter cannot follow {type(model).__name__}: {first_line(error)}; use torch-export, or "
                "replace the operator that it names"
            ) from error
        assert converted is not None
        proto = converted.model_proto
        for key, text in self.notes.items():
            proto.metadata_props.add(key=key, value=text)
        file.write(proto.SerializeToString())

    def open(self, path: Path) -> Runner:
        return runner_of(open_onnx(path))

    def quantise(
        self, model: nn.Module, source: Path, out: Path, calibration: Scaling, fixed_batch: int | None
    ) -> dict[str, Any]:
        """Writes the INT8 file of a model whose float file is written, and returns how it was made."""
        return quantise_onnx(source, out, calibration, fixed_batch, self.notes)


class OpenVino:
    """OpenVINO's graph (.xml) and its weights beside it (.bin), run by OpenVINO on the CPU in float32."""

    name = "openvino"
    notes: Mapping[str, str] = {}
    suffix = ".xml"

    def require(self, model: nn.Module, fixed_batch: int | None) -> None:
        if importlib.util.find_spec("openvino") is None:
            raise ExportError("export to openvino needs openvino: pip install 'adasap[openvino]'")
        require_single_precision(model)

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        """Writes the graph into the file, the weights into one beside it."""
        openvino = imported_openvino()
        program = batched_program(model, arguments, fixed=fixed)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                converted = openvino.convert_model(program)
                sizes = [[n if fixed else -1, *rest] for n, *rest in (t.shape for t in arguments.tensors)]
                converted.reshape(dict(zip(converted.inputs, map(openvino.PartialShape, sizes), strict=True)))
        except Exception as error:  # the converter raises errors of many kinds
            raise ExportError(
                f"OpenVINO cannot follow {type(model).__name__}: {first_line(error)}; use onnx or torch-export, or "
                "replace the operator that it names"
            ) from error
        for name, output in zip(output_names(len(converted.outputs)), converted.outputs, strict=True):
            output.get_tensor().set_names({name})
        for key, text in self.notes.items():
            converted.set_rt_info(text, key.split("."))
        openvino.serialize(converted, file.name, str(Path(file.name).with_suffix(".bin")))

    def open(self, path: Path) -> Runner:
        return runner_of(open_openvino(path))

    def quantise(
        self, model: nn.Module, source: Path, out: Path, calibration: Scaling, fixed_batch: int | None
    ) -> dict[str, Any]:
        """As `Onnx.quantise`."""
        return quantise_openvino(source, out, calibration, fixed_batch, self.notes)


class ExecuTorch:
    """An ExecuTorch program for XNNPACK, run by the Python runtime of its wheel; it takes one batch size."""

    name = "executorch"
    notes: Mapping[str, str] = {}
    batch_size = 1  # memory is planned in the file

    def require(self, model: nn.Module, fixed_batch: int | None) -> None:
        missing = [name for name in ("executorch", "torchao") if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(f"export to executorch needs {', '.join(missing)}: pip install 'adasap[executorch]'")
        require_single_precision(model)

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        file.write(pte_bytes(model, arguments, self.notes))

    def open(self, path: Path) -> Runner:
        return runner_of(open_executorch(path))

    def quantise(
        self, model: nn.Module, source: Path, out: Path, calibration: Scaling, fixed_batch: int | None
    ) -> dict[str, Any]:
        """As `Onnx.quantise`; pt2e quantises the model's graph."""
        return quantise_executorch(model, out, calibration, fixed_batch or self.batch_size, self.notes)


class TorchExport:
    """A `.pt2` archive, as `torch.export.load` and ahead-of-time compilers read it."""

    name = "torch-export"

    def require(self, model: nn.Module, fixed_batch: int | None) -> None:
        """Needs nothing but torch."""

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        torch.export.save(batched_program(model, arguments, fixed=fixed), file)

    def open(self, path: Path) -> Runner:
        with path.open("rb") as file:
            module = torch.export.load(file).module()
        return lambda inputs: run_in_torch(module, inputs)


@dataclass(frozen=True, eq=False)
class Safetensors:
    """The package's own model file, as `adasap.save` writes and `adasap.load` reads it.

    Attributes:
        spec: How the dense model was built.
        plan: The channels that were kept, in the dense model's indices; None for a dense model.
        groups: The dense model's groups; needed with a plan.
        metadata: Plain JSON values, such as metrics.
    """

    spec: ModelSpec
    plan: PruningPlan | None = None
    groups: Sequence[ChannelGroup] | None = None
    metadata: Mapping[str, Any] | None = None
    name = "safetensors"

    def require(self, model: nn.Module, fixed_batch: int | None) -> None:
        if fixed_batch is not None:
            raise ExportError(f"fixed_batch={fixed_batch}: weights have no batch size; leave it out for safetensors")

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        content = model_bytes(model, spec=self.spec, plan=self.plan, groups=self.groups, metadata=self.metadata)
        file.write(content)

    def open(self, path: Path) -> Runner:
        model = load(path, trust_builder=True)  # the caller's own spec, written a moment ago
        return lambda inputs: run_in_torch(model, inputs)


TARGETS: Registry[Callable[..., Target]] = Registry(
    "export target",
    {
        "onnx": Onnx,
        "openvino": OpenVino,
        "executorch": ExecuTorch,
        "torch-export": TorchExport,
        "safetensors": Safetensors,
    },
    at="adasap.export.TARGETS",
    error=ExportError,
)
"""Name -> what makes a target, without arguments; `safetensors` alone wants to be told of the model."""


def require_single_precision(model: nn.Module) -> None:
    """Raises ExportError, naming the first weights, if any have fewer bits than float32."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and parameter.element_size() < 4:
            raise ExportError(
                f"{name} is {parameter.dtype}, which cannot be compared to 1e-4 and does not run on every CPU; "
                "export model.float() and let the runtime lower the precision, or use torch-export"
            )


def runner_of(file: RuntimeFile) -> Runner:
    """An open file by the arguments of forward."""
    return lambda inputs: list(file.run(*inputs.tensors))


def output_names(count: int) -> list[str]:
    """What the outputs of a file are called.

    Example:
        >>> output_names(1), output_names(2)
        (['output'], ['output_0', 'output_1'])
    """
    return ["output"] if count == 1 else [f"output_{i}" for i in range(count)]


def state_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once.

    Example:
        >>> state_bytes(nn.Linear(3, 2))
        32
    """
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
