"""Finding the channel groups of a model: export, follow labels, assemble units, try the cut."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import torch
from torch import nn

from adasap.errors import TraceError, suggestion
from adasap.groups.assemble import assemble_groups
from adasap.groups.branches import find_branches
from adasap.groups.exported import canonical_names, export_graph
from adasap.groups.group import ChannelGroup, prunable
from adasap.groups.inputs import Arguments, ExampleInputs, as_arguments
from adasap.groups.labels import LabelBook
from adasap.groups.materialise import plain_model
from adasap.groups.operators.call import Tie
from adasap.groups.past import Groups, past_with
from adasap.groups.shape_attributes import drive_pads
from adasap.groups.trial import MISFIT, any_fits, freeze_what_fails
from adasap.groups.walk import KEPT, Graphs, Walked, walk_model


def trace_groups(
    model: nn.Module,
    example_inputs: ExampleInputs,
    *,
    keep: Sequence[str] = (),
    allow_inexact: bool = False,
    depth: bool = False,
) -> Groups:
    """The channel groups of a model: which rows, norms and input slices must be removed together.

    The model is exported in evaluation mode and not changed. What cannot be removed safely comes back too,
    frozen, with the reasons: outputs, operators without a rule, widths fixed in the model's own code.

    Args:
        model: Any module that `torch.export` can follow; `torch.compile`, data-parallel and averaging wrappers are
            looked through, and names are those of the module inside.
        example_inputs: One tensor such as images [1, 3, H, W], a tuple or list of the positional arguments of forward,
            or a dictionary of its keyword arguments; only the shapes matter, and the groups hold for other image and
            batch sizes as far as the model does.
        keep: `fnmatch` patterns over module and parameter names whose produced channels must stay.
        allow_inexact: Whether channels may go under a norm or mean over them, such as LayerNorm: what stays is then
            normalised without them, and `ChannelGroup.inexact` says where. Otherwise they are frozen.
        depth: Whether to look for residual branches that can be taken out whole (`Groups.branches`).
    Returns:
        Groups in the order of forward: a tuple of `ChannelGroup` that remembers how the model was built, where
        `open_model` or `load` built it, and, after cuts, what was cut, as `adasap.save` wants to know.
    Raises:
        TraceError: If the model does not take the inputs, cannot be exported or copied, or a `keep` pattern matches
            nothing.
        ModelError: If weights are lazy, quantised or complex, or computed from others (`weight_norm`, pruning masks).
    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        >>> for group in trace_groups(model, torch.zeros(1, 3, 8, 8)):
        ...     print(group.name, group.num_channels, [slot.name for slot in group.slots], group.frozen)
        0 8 ['0.weight', '0.bias', '1.weight', '1.bias', '1.running_mean', '1.running_var', '3.weight'] ()
        3 4 ['3.weight', '3.bias'] ('output of the model',)
    """
    model, example_inputs = plain_model(model), as_arguments(example_inputs)
    wanted = _kept_names(model, (keep,) if isinstance(keep, str) else keep)
    graphs = Graphs(model, example_inputs)

    def assembled(
        by_value: frozenset[str] = frozenset(), tied: frozenset[Tie] = frozenset()
    ) -> tuple[Walked, tuple[ChannelGroup, ...]]:
        walked = walk_model(graphs, allow_inexact=allow_inexact, by_value=by_value, tied=tied)
        _freeze_kept(walked.book, wanted)
        drivers = drive_pads(walked, model, example_inputs)
        return walked, assemble_groups(walked.book, drivers)

    walked, groups = assembled()
    found, by_value = freeze_what_fails(model, groups, example_inputs, walked), frozenset[str]()
    if stays := _attention_that_stays(walked, found):
        walked, groups = assembled(stays)
        other = freeze_what_fails(model, groups, example_inputs, walked)
        if _num_free_rows(other) > _num_free_rows(found):
            found, by_value = other, stays
    if tied := _as_wide_as_what_they_read(found):
        walked, groups = assembled(by_value, tied)
        makers = {weight for weight, _, _ in tied}
        if any_fits(model, groups, example_inputs, walked, makers):
            found = max(found, freeze_what_fails(model, groups, example_inputs, walked), key=_num_free_rows)
    branches = find_branches(model, export_graph(model, example_inputs), example_inputs, keep=wanted) if depth else ()
    return Groups(found, past_with(model, found, _image_size(example_inputs)), branches)


def _attention_that_stays(walked: Walked, groups: Sequence[ChannelGroup]) -> frozenset[str]:
    """Modules that lose no heads and have as many channels inside as enter them: forward may read these off the input.

    Their heads may lose channels of the values, each with the channels of the input in its place.
    """
    roots, axes = walked.book.roots(), walked.book.axes
    stays = torch.zeros(len(roots), dtype=torch.bool)
    for group in groups:
        for slot in group.slots if group.frozen else ():
            stays[roots[axes[slot.name, slot.dim].start + slot.positions.flatten()]] = True
    return frozenset(
        module
        for module, heads in walked.notes.heads
        if module in walked.notes.input_wide and bool(stays[roots[heads.clamp(min=0)]].all())
    )


def _as_wide_as_what_they_read(groups: Sequence[ChannelGroup]) -> frozenset[Tie]:
    """Layers of which a cut fits neither what they make nor what they read, of equal width.

    Forward may take the one number from the other, as where a sequence is made a map, reduced by a convolution and
    flattened again: the two then fit if they lose the same channels.
    """
    made, read = (
        {
            slot.name: (slot.dim, number)
            for number, group in enumerate(groups)
            if any(reason.startswith(MISFIT) for reason in group.frozen)
            for slot in group.with_role(role)
            if slot.positions.shape == (group.num_channels, 1)
        }
        for role in ("producer", "consumer")
    )
    return frozenset(
        (name, made[name][0], read[name][0])
        for name in made.keys() & read.keys()
        if made[name][1] != read[name][1] and groups[made[name][1]].num_channels == groups[read[name][1]].num_channels
    )


def _num_free_rows(groups: Sequence[ChannelGroup]) -> int:
    return sum(slot.positions.numel() for group in prunable(groups) for slot in group.with_role("producer"))


def _image_size(arguments: Arguments) -> tuple[int, ...] | None:
    """Channels, height and width, if the only input is a batch of images."""
    tensors = arguments.tensors
    return tuple(tensors[0].shape[1:]) if len(tensors) == 1 and tensors[0].ndim == 4 else None


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
