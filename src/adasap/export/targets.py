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

from adasap.errors import ExportError
from adasap.export.model_file import load, model_bytes
from adasap.export.parity import Runner, run_in_torch
from adasap.export.program import batch_axes, batched_program
from adasap.groups.group import ChannelGroup
from adasap.groups.inputs import Arguments
from adasap.models.open import ModelSpec
from adasap.pruning.plan import PruningPlan
from adasap.registry import Registry

LARGEST_ONNX_FILE = 2**31


class Target(Protocol):
    """One kind of file. `export_model` calls the methods in this order."""

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

    def require(self, model: nn.Module, fixed_batch: int | None) -> None:
        missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(f"export to onnx needs {', '.join(missing)}: pip install 'adasap[onnx]'")
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.element_size() < 4:
                raise ExportError(
                    f"{name} is {parameter.dtype}, which cannot be compared to 1e-4 and does not run on every CPU; "
                    "export model.float() and let the runtime lower the precision, or use torch-export"
                )
        if (size := state_bytes(model)) >= LARGEST_ONNX_FILE:
            raise ExportError(
                f"the weights take {size / 1e9:.1f} GB, and one ONNX file holds less than 2.1 GB; use torch-export"
            )

    def write(self, file: BinaryIO, model: nn.Module, arguments: Arguments, *, fixed: bool) -> None:
        program = batched_program(model, arguments, fixed=fixed)
        outputs = len(program.graph_signature.user_outputs)
        names = ["output"] if outputs == 1 else [f"output_{i}" for i in range(outputs)]
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
        file.write(converted.model_proto.SerializeToString())

    def open(self, path: Path) -> Runner:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [entry.name for entry in session.get_inputs()]

        def run(inputs: Arguments) -> list[torch.Tensor]:
            arrays = {name: tensor.numpy() for name, tensor in zip(names, inputs.tensors, strict=True)}
            return [torch.from_numpy(array) for array in session.run(None, arrays)]

        return run


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
    {"onnx": Onnx, "torch-export": TorchExport, "safetensors": Safetensors},
    at="adasap.export.TARGETS",
    error=ExportError,
)
"""Name -> what makes a target, without arguments; `safetensors` alone wants to be told of the model."""


def state_bytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once.

    Example:
        >>> state_bytes(nn.Linear(3, 2))
        32
    """
    return sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))


def first_line(error: BaseException) -> str:
    """The first line of a message that has any text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
