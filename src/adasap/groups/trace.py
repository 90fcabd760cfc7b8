"""Finding the channel groups of a model: export, follow labels, assemble units, try the cut."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from torch import nn

from adasap.errors import TraceError, suggestion
from adasap.groups.assemble import assemble_groups
from adasap.groups.exported import ExampleInputs, canonical_names
from adasap.groups.extents import drive_pads
from adasap.groups.group import ChannelGroup
from adasap.groups.labels import LabelBook
from adasap.groups.trial import freeze_what_fails
from adasap.groups.walk import KEPT, walk_model


def trace_groups(
    model: nn.Module, example_inputs: ExampleInputs, *, keep: Sequence[str] = ()
) -> tuple[ChannelGroup, ...]:
    """The channel groups of a model: which rows, norms and input slices must be removed together.

    The model is exported in evaluation mode and not changed. What cannot be removed safely comes back too,
    frozen, with the reasons: outputs, operators without a rule, widths fixed in the model's own code.

    Args:
        model: Any module that `torch.export` can follow.
        example_inputs: One tensor or the tuple of positional arguments, such as images [1, 3, H, W]; only the
            shapes matter, and the groups hold for other image and batch sizes as far as the model does.
        keep: `fnmatch` patterns over module and parameter names whose produced channels must stay.
    Returns:
        Groups in the order of forward.
    Raises:
        TraceError: If the model cannot be exported or copied, or a `keep` pattern matches nothing.
    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> for group in trace_groups(model, torch.zeros(1, 3, 8, 8)):
        ...     print(group.name, group.num_channels, [slot.name for slot in group.slots], group.frozen)
        0 8 ['0.weight', '0.bias', '1.weight', '1.bias', '1.running_mean', '1.running_var', '3.weight'] ()
        3 4 ['3.weight', '3.bias'] ('output of the model',)
    """
    wanted = _kept_names(model, keep)
    walked = walk_model(model, example_inputs)
    _freeze_kept(walked.book, wanted)
    drivers = drive_pads(walked, model, example_inputs)
    groups = assemble_groups(walked.book, drivers)
    return freeze_what_fails(model, groups, example_inputs, walked)


def _kept_names(model: nn.Module, keep: Sequence[str]) -> set[str]:
    """First names of the parameters that the patterns reach, by themselves or through their module."""
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    first_names = canonical_names(model)
    wanted: set[str] = set()
    for pattern in keep:
        matched = fnmatch.filter([*modules, *parameters], pattern)
        if not matched:
            near = suggestion(pattern, [*modules, *parameters])
            raise TraceError(f"keep pattern {pattern!r} matches no module or parameter; {near}")
        wanted |= {
            first_names[name]
            for name in parameters
            if any(name == match or name.startswith(f"{match}.") for match in matched)
        }
    return wanted


def _freeze_kept(book: LabelBook, wanted: set[str]) -> None:
    for axis in tuple(book.axes.values()):
        if axis.name in wanted and axis.role != "consumer":
            book.freeze(book.axis(axis.name, axis.dim, axis.size, axis.role), KEPT)
