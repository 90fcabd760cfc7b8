"""The graph of a model with an open batch axis."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils._pytree import tree_map

from adasap.errors import ExportError, TraceError
from adasap.groups.exported import export_program
from adasap.groups.inputs import Arguments

BATCH = "batch"


def batch_axes(model: nn.Module, arguments: Arguments) -> Any:
    """For each argument, as `torch.export` takes it: the first axis of a tensor is the batch, from 1 up."""
    batch = Dim(BATCH, min=1)
    args, kwargs = tree_map(
        lambda leaf: {0: batch} if isinstance(leaf, Tensor) else None, (arguments.args, arguments.kwargs)
    )
    if not kwargs:
        return args
    try:
        return dict(inspect.signature(model.forward).bind(*args, **kwargs).arguments)
    except TypeError:  # no such argument: forward itself says so when it is called
        return kwargs


def batched_program(model: nn.Module, arguments: Arguments, *, fixed: bool = False) -> ExportedProgram:
    """What `torch.export` makes of a model in evaluation mode, for any batch size or for that of `arguments` alone.

    Raises:
        TraceError: If the model cannot be exported at all.
        ExportError: If it can, but only for one batch size.

    Example:
        >>> import torch
        >>> program = batched_program(nn.Linear(3, 2), Arguments((torch.zeros(2, 3),), {}))
        >>> program.module()(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """
    if fixed:
        return export_program(model, arguments, keep_regions=True)
    try:
        return export_program(model, arguments, dynamic_shapes=batch_axes(model, arguments), keep_regions=True)
    except TraceError as error:
        export_program(model, arguments)  # a model that cannot be exported at all says so itself
        raise ExportError(
            f"{type(model).__name__} cannot be exported for every batch size: {_reason(error)}. Export it for one with "
            "--fixed-batch N (in Python fixed_batch=N), or take the batch size out of its forward"
        ) from error


def _reason(error: TraceError) -> str:
    """The line of torch's message that says what was found."""
    lines = [line.strip(" -\n") for line in str(error.__cause__).splitlines() if line.strip()]
    telling = [line for line in lines if BATCH in line and "Constraints violated" not in line]
    return (telling or lines or ["torch.export gave no reason"])[0].partition(". ")[0].rstrip(".")
