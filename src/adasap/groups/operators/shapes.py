"""Operators that fix how long a channel axis is: views, parts, slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from adasap.groups.labels import LabelBook, along, compact, constant, squeezed, varying
from adasap.groups.operators.call import LabelledCall, Labels, TensorRef, operator_name
from adasap.groups.operators.movement import execute
from adasap.groups.operators.operator import FREE, no_macs, register_operator


def reshaped(call: LabelledCall) -> Labels:
    """Moves data; the factors of a channel axis wait for `settle_factors`."""
    labels = call.labels(call["self"])
    result = compact(labels.reshape(call.shape))
    factors = varying(result)
    if len(varying(labels)) == 1 and len(factors) > 1:
        call.notes.factors.append(squeezed(result).squeeze())
    for dim in factors:
        call.note_extent(result, dim)
    if len(factors) == 1:
        _compare_with_input(call, squeezed(result).flatten())
    return result


def _compare_with_input(call: LabelledCall, channels: Tensor) -> None:
    """Remember that forward may read this number of channels off its input; tie them to those where that is wanted."""
    module, notes = call.owners[0], call.notes
    for entered in notes.entries.get(module, ()):
        if len(entered) == len(channels) and not torch.equal(entered, channels):
            notes.input_wide.add(module)
            if module in notes.by_value:
                call.book.unite(entered, channels)
            return


def settle_factors(book: LabelBook, factors: Sequence[Tensor]) -> None:
    """Tie what must go together where a view made one channel axis into several, as C into (parts, C / parts).

    What is left after a cut must fill a box again, so a unit takes a whole slice across one of the axes. That is the
    last axis whose channels are not one already: the last factor for shuffles and gates, the heads for attention,
    whose products make each head one.
    """
    for labels in factors:
        axes = _open_axes(book.roots()[labels.clamp(min=0)])
        for dim in set(range(labels.dim())) - set(axes[-1:]):
            book.unite(labels.narrow(dim, 0, 1), labels)


def _open_axes(labels: Tensor) -> list[int]:
    """The axes along which labels differ."""
    return [dim for dim in range(labels.dim()) if not bool((labels == labels.narrow(dim, 0, 1)).all())]


def parts(call: LabelledCall) -> Labels:
    """Moves data; equal parts of a channel axis are tied: a unit takes one channel from every part.

    Rows of a weight and its bias may be parted, too: attention between two streams has one weight for both.
    """
    if isinstance(call["self"], TensorRef) and call["dim"] == 0 and _is_of_layers(call):
        return _parts_of_rows(call, call["self"])
    labels, dim = call.labels(call["self"]), call["dim"]
    result = execute(call)
    if dim % labels.dim() in varying(labels):
        call.note_bounds(labels, dim)
        # where values get narrower and keys do not, each has a size of its own, and they may be equal by chance
        own_sizes = call.operator == "split_with_sizes" and call.owners[0] in call.notes.by_value
        if len({part.shape for part in result}) == 1 and not own_sizes:
            for part in result[1:]:
                call.book.unite(result[0], part)
        for part in (*result, labels):
            call.note_extent(part, dim)
    return result


def _is_of_layers(call: LabelledCall) -> bool:
    """Whether the parts are weights or biases of linear layers, and read by nothing else."""
    readers = [reader for part in call.node.users for reader in part.users]
    return bool(readers) and all(operator_name(reader.target) == "linear" for reader in readers)


def _parts_of_rows(call: LabelledCall, ref: TensorRef) -> list[TensorRef]:
    result, start, count = [], 0, ref.shape[0]
    for part in call.node.meta["val"]:
        result.append(replace(ref, shape=tuple(part.shape), rows=(start, count)))
        start += part.shape[0]
    return result


def bounded(call: LabelledCall) -> Labels:
    """Moves data between fixed bounds; whether these still fit after a cut is tried later."""
    if isinstance(call["self"], TensorRef) and call.shape == call["self"].shape:
        return call["self"]
    labels, dim = call.labels(call["self"]), call["dim"]
    if isinstance(call.arguments.get("index"), Tensor | TensorRef):
        return call.freeze_all(f"{call.where} has no rule")
    call.note_bounds(labels, dim)
    result = execute(call)
    if call.arguments.get("step", 1) > 1 and dim % labels.dim() in varying(labels):
        _tie_strides(call, labels, dim % labels.dim())
    if call.node.target is torch.ops.aten.slice.Tensor:
        call.note_extent(result, dim)
        if call["start"]:
            call.note_extent(labels.narrow(dim, 0, call["start"] % labels.shape[dim]), dim)
    return result


def _tie_strides(call: LabelledCall, labels: Tensor, dim: int) -> None:
    """A slice that takes every n-th channel: a unit takes n neighbours, so that those behind it keep their turn."""
    step, size = call["step"], labels.shape[dim]
    blocks = labels.narrow(dim, 0, size - size % step).unflatten(dim, (-1, step))  # type: ignore[no-untyped-call]
    call.book.unite(blocks.narrow(dim + 1, 0, 1), blocks)
    rest = labels.narrow(dim, size - size % step, size % step)
    call.book.freeze(rest, f"{call.where} takes every channel in {step}, and {size} are not a multiple of that")


def index(call: LabelledCall) -> Labels:
    """Picks entries by tables of positions: along axes without channels the labels do not change."""
    picks = [(dim, pick) for dim, pick in enumerate(call["indices"]) if pick is not None]
    labels = _labels_beside(call, call["self"], {dim for dim, _ in picks})
    computed = any(isinstance(pick, Tensor) and not _is_of_buffers(call.book, pick) for _, pick in picks)
    if computed or varying(labels) & {dim for dim, _ in picks}:
        return call.freeze_all(f"{call.where} picks channels by number")
    indices: list[Tensor | slice] = [slice(None)] * labels.dim()
    for dim, pick in picks:
        indices[dim] = torch.zeros(tuple(pick.shape), dtype=torch.int64)
    return compact(labels[tuple(indices)]).expand(call.shape)


def _is_of_buffers(book: LabelBook, labels: Tensor) -> bool:
    """Whether a table of positions was made from buffers or constants, not from channels."""
    small = squeezed(labels)
    tables = [axis for axis in book.axes.values() if axis.role == "statistic"]
    known = small == 0
    for axis in tables if not bool(known.all()) else ():
        known = known | ((small >= axis.start) & (small < axis.start + axis.size))
    return bool(known.all())


def _labels_beside(call: LabelledCall, value: Tensor | TensorRef, dims: set[int]) -> Tensor:
    """Labels of a tensor; of a parameter, along its last axis that is not picked from, a long one if there is one."""
    if isinstance(value, Tensor):
        return value
    free = [dim for dim in range(len(value.shape)) if dim not in dims]
    if not free:
        return constant(0, value.shape)
    dim = max(free, key=lambda dim: (value.shape[dim] > 1, dim))
    return along(call.axis(value, dim), dim, value.shape)


VIEWS = "view reshape _unsafe_view flatten unflatten view_as reshape_as"

register_operator(VIEWS, reshaped, macs=no_macs, latency=FREE)
register_operator("chunk split split_with_sizes tensor_split", parts, macs=no_macs, latency=FREE)
register_operator("slice narrow select", bounded, macs=no_macs, latency=FREE)
register_operator("index_select take_along_dim", bounded, macs=no_macs)
register_operator("index", index, macs=no_macs)
register_operator("sym_size _assert_tensor_metadata", macs=no_macs, latency=FREE)
