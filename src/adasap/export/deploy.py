"""A model as a file for a runtime, kept only if it computes the same numbers there."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from adasap.checks import whole_number
from adasap.errors import ExportError, first_line
from adasap.export.about import ABOUT, About
from adasap.export.int8 import Calibration
from adasap.export.int8_check import FLOAT, INT8, Int8LossError, Int8Report, checked_images, compare_files
from adasap.export.int8_suspicions import suspicions
from adasap.export.parity import Runner, random_inputs, require_parity, run_in_torch
from adasap.export.runtimes import InItsRuntime, RuntimeFile
from adasap.export.targets import TARGETS, Target
from adasap.groups.bare import require_values, workable
from adasap.groups.fake_model import copied
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.groups.past import past_of
from adasap.io import staged_write

TRACED_BATCH = 2  # a size of 1 would be taken for a constant
CHECKED_BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportedFile:
    """What was written.

    Attributes:
        path: The file.
        target: What it is for.
        size_mb: Its size in MB (1e6 bytes), weights that lie beside it included.
        differences: Batch size -> worst difference of an output, relative to the largest number of that output.
        fixed_batch: The only batch size it takes, or None if it takes any.
        int8: What its 8 bits lose and gain; None for a float file. Then `differences` are those of the float file that
            it was made from.
    """

    path: Path
    target: str
    size_mb: float
    differences: dict[int, float]
    fixed_batch: int | None
    int8: Int8Report | None = None


def export_model(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | Path,
    *,
    to: str | Target,
    fixed_batch: int | None = None,
    int8: Calibration | None = None,
    about: About | None = None,
) -> ExportedFile:
    """Writes a model for a runtime, runs the file there and compares, at batch sizes 1 and 3.

    The file is compared in evaluation mode on random standard normal inputs. For every output
    max |file - model| / max |model| must be at most 1e-4; if it is not, or the file does not run, none is kept, and
    an older file stays as it was. An INT8 file is made from a float file that passed, and kept if it loses no more of
    any suite's score than its tolerance.

    Args:
        model: Cut or dense, on any device; left as it is, wrappers are looked through. The file is made and compared on
            the CPU.
        example_inputs: As `trace_groups` takes them, such as images [1, 3, H, W]; the first axis of each tensor is the
            batch, and all others are fixed in the file.
        path: Where to; by custom it ends in .onnx, .pte, .pt2 or .safetensors. For OpenVINO it ends in .xml, and the
            weights lie beside it in .bin.
        to: `onnx` (needs the extra: pip install 'adasap[onnx]'), `openvino` (`adasap[openvino]`), `executorch`
            (`adasap[executorch]`), `torch-export`, a name that you registered in `TARGETS`, or a target such as
            `Safetensors(spec, plan, groups)`.
        fixed_batch: Make a file for this batch size alone, for models whose forward depends on it. A file for
            ExecuTorch always takes one, by default 1.
        int8: Make it of 8 bits, by onnxruntime, for OpenVINO by NNCF, for ExecuTorch by torchao; see `Calibration`.
        about: What an ONNX, OpenVINO or ExecuTorch file says of its model; what is left out is taken from how
            `open_model` built it, and from its outputs.
    Raises:
        ExportError: If a package or the folder is missing, the model cannot be exported for every batch size, or
            the file computes other numbers, or one of INT8 loses more than its tolerance.
        TraceError: If `torch.export` cannot follow the model at all.
        ModelError: If weights are lazy, quantised, without numbers or not finite.

    Example:
        >>> import tempfile, torch
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = export_model(net, torch.zeros(1, 3, 8, 8), f"{folder}/net.pt2", to="torch-export")
        >>> sorted(file.differences), max(file.differences.values()) <= 1e-4
        ([1, 3], True)
    """
    target, path = _target(to), Path(path)
    arguments = as_arguments(example_inputs)
    _require_place(path, getattr(target, "suffix", ""))
    _require_batch(arguments, fixed_batch)
    fixed_batch = fixed_batch or getattr(target, "batch_size", None)
    bare = workable(model)
    require_values(bare, "files")
    if int8 is not None:
        _require_int8(target, arguments, int8, fixed_batch)
    target.require(bare, fixed_batch)
    bare = copied(bare).cpu().eval()
    if hasattr(target, "notes"):
        inputs = random_inputs(arguments, fixed_batch or TRACED_BATCH)
        target.notes = _notes(about or About.of(past_of(bare).spec), bare, inputs)
    if int8 is not None:
        return _export_int8(bare, target, path, arguments, fixed_batch, int8)
    with staged_write(path) as staged:
        differences = _written(bare, target, staged, arguments, fixed_batch)
        size = bytes_of(staged)
    return ExportedFile(path, target.name, size / 1e6, differences, fixed_batch)


def _notes(about: About, model: nn.Module, inputs: Arguments) -> dict[str, str]:
    """What a file says: nothing of a model that takes several inputs, or does not take these."""
    try:
        with torch.no_grad():
            outputs = inputs.call(model)
    except Exception:  # whatever the model's own code raises: the export itself says so
        return {}
    return {ABOUT: about.filled(model, inputs.tensors[0], outputs).text} if len(inputs.tensors) == 1 else {}


def _export_int8(
    model: nn.Module,
    target: Target,
    path: Path,
    arguments: Arguments,
    fixed_batch: int | None,
    int8: Calibration,
) -> ExportedFile:
    """The INT8 file of a float file that was compared, kept if what it loses is tolerable."""
    with tempfile.TemporaryDirectory() as folder, staged_write(path) as staged:
        source = Path(folder) / path.name
        differences = _written(model, target, source, arguments, fixed_batch)
        try:
            settings = target.quantise(model, source, staged, int8, fixed_batch)  # type: ignore[attr-defined]
        except ImportError as error:
            package = (error.name or "another package").partition(".")[0]
            raise ExportError(f"INT8 for {target.name} needs {package}: pip install 'adasap[{target.name}]'") from error
        example, sizes = int8.images[:1], (bytes_of(source) / 1e6, bytes_of(staged) / 1e6)
        files = {FLOAT: source, INT8: staged}
        shape = (fixed_batch, *example.shape[1:])
        models = {name: InItsRuntime(_as_file(target, path, shape), model) for name, path in files.items()}
        suites, latency = compare_files(
            models, int8.check, seconds=int8.seconds, fixed_batch=fixed_batch, example=example
        )
        report = Int8Report(int8.check.task.primary_metric, suites, sizes, latency, settings, int8.tolerance)
        if not report.is_tolerable:
            report = replace(report, suspicions=suspicions(model, int8, target.name, checked_images(int8.check)))
            if not int8.force:
                raise Int8LossError(report)
    return ExportedFile(path, target.name, sizes[1], differences, fixed_batch, report)


def _require_int8(target: Target, arguments: Arguments, int8: Calibration, fixed_batch: int | None) -> None:
    if not hasattr(target, "quantise"):
        raise ExportError(f"{target.name} has no INT8 here; export to onnx, openvino or executorch")
    if fixed_batch is not None and len(int8.images) < fixed_batch:
        raise ExportError(f"{len(int8.images)} calibration images do not fill a batch of {fixed_batch}; give more")
    shapes = [tuple(tensor.shape[1:]) for tensor in arguments.tensors]
    if shapes != [tuple(int8.images.shape[1:])]:
        raise ExportError(
            f"calibration images are {list(int8.images.shape)} and the inputs of the model {shapes} without their "
            "batch; give images of the size of one input"
        )


def _written(
    model: nn.Module, target: Target, path: Path, arguments: Arguments, fixed_batch: int | None
) -> dict[int, float]:
    """Batch size -> worst relative difference of a file that is written and run."""
    traced = random_inputs(arguments, fixed_batch or TRACED_BATCH)
    with path.open("xb") as file:
        target.write(file, model, traced, fixed=fixed_batch is not None)
    return _compared(model, target, path, arguments, fixed_batch)


def bytes_of(path: Path) -> int:
    """Bytes of a staged file and of what its target wrote beside it, in a folder that holds nothing else."""
    return sum(one.stat().st_size for one in path.parent.iterdir())


def _target(to: str | Target) -> Target:
    if not isinstance(to, str):
        if not hasattr(to, "write"):
            raise ExportError(
                f"cannot export to {to!r}; give 'onnx', 'openvino', 'executorch', 'torch-export' or "
                "Safetensors(spec, plan, groups)"
            )
        return to
    if to == "safetensors":
        raise ExportError("a model file says how the dense model is built: pass to=Safetensors(spec, plan, groups)")
    return TARGETS.get(to)()


def _require_batch(arguments: Arguments, fixed_batch: int | None) -> None:
    if fixed_batch is not None:
        whole_number(fixed_batch, "fixed_batch", least=1, error=ExportError)
    shapes = [tuple(tensor.shape) for tensor in arguments.tensors]
    if not all(shape and shape[0] for shape in shapes):
        raise ExportError(
            f"example_inputs have shapes {shapes}; give each a batch as its first axis, such as (1, 3, H, W)"
        )


def _require_place(path: Path, suffix: str) -> None:
    if suffix and path.suffix != suffix:
        raise ExportError(
            f"{path} does not end in {suffix}, by which its runtime knows it; call it {path.stem}{suffix}"
        )
    if path.is_dir():
        raise ExportError(f"{path} is a folder; give the name of a file in it")
    if not path.resolve().parent.is_dir():
        raise ExportError(f"{path} cannot be written: its folder does not exist; make it first")


def _compared(
    model: nn.Module, target: Target, written: Path, arguments: Arguments, fixed_batch: int | None
) -> dict[int, float]:
    """Batch size -> worst relative difference."""
    run = _opened(target, written)
    differences = {}
    for size in (fixed_batch,) if fixed_batch else CHECKED_BATCHES:
        inputs = random_inputs(arguments, size, seed=size)
        where = f"{target.name}, batch size {size}"
        expected = run_in_torch(model, inputs)
        try:
            found = run(inputs)
        except Exception as error:  # every runtime has errors of its own
            raise ExportError(
                f"{where}: the file does not run ({first_line(error)}); no file was kept; export it for one batch size "
                "with --fixed-batch N (in Python fixed_batch=N)"
            ) from error
        differences[size] = require_parity(expected, found, where=where)
    return differences


def _as_file(target: Target, written: Path, shape: tuple[int | None, ...]) -> RuntimeFile:
    """A written file as its target opens it, for one batch of images."""
    run = _opened(target, written)
    return RuntimeFile(target.name, lambda images: run(Arguments((images,), {})), shape)


def _opened(target: Target, written: Path) -> Runner:
    try:
        return target.open(written)
    except Exception as error:  # every runtime has errors of its own
        raise ExportError(
            f"{target.name}: the written file cannot be read back ({first_line(error)}); no file was kept; export to "
            "another target and report the model"
        ) from error
