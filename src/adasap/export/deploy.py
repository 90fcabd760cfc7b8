"""A model as a file for a runtime, kept only if it computes the same numbers there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from adasap.checks import whole_number
from adasap.errors import ExportError
from adasap.export.parity import Runner, random_inputs, require_parity, run_in_torch
from adasap.export.targets import TARGETS, Target, first_line
from adasap.groups.bare import require_values, workable
from adasap.groups.fake_model import copied
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.io import atomic_write

TRACED_BATCH = 2  # a size of 1 would be taken for a constant
CHECKED_BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportedFile:
    """What was written.

    Attributes:
        path: The file.
        target: What it is for.
        size_mb: Its size in MB (1e6 bytes).
        differences: Batch size -> worst difference of an output, relative to the largest number of that output.
        fixed_batch: The only batch size it takes, or None if it takes any.
    """

    path: Path
    target: str
    size_mb: float
    differences: dict[int, float]
    fixed_batch: int | None


def export_model(
    model: nn.Module,
    example_inputs: ExampleInputs,
    path: str | Path,
    *,
    to: str | Target,
    fixed_batch: int | None = None,
) -> ExportedFile:
    """Writes a model for a runtime, runs the file there and compares, at batch sizes 1 and 3.

    The file is compared in evaluation mode on random standard normal inputs. For every output
    max |file - model| / max |model| must be at most 1e-4; if it is not, or the file does not run, none is kept, and
    an older file stays as it was.

    Args:
        model: Cut or dense, on any device; left as it is, wrappers are looked through. The file is made and compared on
            the CPU.
        example_inputs: As `trace_groups` takes them, such as images [1, 3, H, W]; the first axis of each tensor is the
            batch, and all others are fixed in the file.
        path: Where to; by custom it ends in .onnx, .pt2 or .safetensors.
        to: `onnx` (needs the extra: pip install 'adasap[onnx]'), `torch-export`, a name that you registered in
            `TARGETS`, or a target such as `Safetensors(spec, plan, groups)`.
        fixed_batch: Make a file for this batch size alone, for models whose forward depends on it.
    Raises:
        ExportError: If a package or the folder is missing, the model cannot be exported for every batch size, or
            the file computes other numbers.
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
    _require_place(path)
    _require_batch(arguments, fixed_batch)
    bare = workable(model)
    require_values(bare, "files")
    target.require(bare, fixed_batch)
    bare = copied(bare).cpu().eval()
    with atomic_write(path) as file:
        traced = random_inputs(arguments, fixed_batch or TRACED_BATCH)
        target.write(file, bare, traced, fixed=fixed_batch is not None)
        file.flush()
        differences = _compared(bare, target, Path(file.name), arguments, fixed_batch)
    return ExportedFile(path, target.name, path.stat().st_size / 1e6, differences, fixed_batch)


def _target(to: str | Target) -> Target:
    if not isinstance(to, str):
        if not hasattr(to, "write"):
            raise ExportError(
                f"cannot export to {to!r}; give 'onnx', 'torch-export' or Safetensors(spec, plan, groups)"
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


def _require_place(path: Path) -> None:
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


def _opened(target: Target, written: Path) -> Runner:
    try:
        return target.open(written)
    except Exception as error:  # every runtime has errors of its own
        raise ExportError(
            f"{target.name}: the written file cannot be read back ({first_line(error)}); no file was kept; export to "
            "another target and report the model"
        ) from error
