"""Operators that move data, and those that pool or resize: channels stay side by side as they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from adasap.groups.labels import compact, squeezed, varying
from adasap.groups.operators.call import LabelledCall, Labels, Pad, TensorRef
from adasap.groups.operators.operator import FREE, LatencyView, no_macs, register_operator


def movement(call: LabelledCall) -> Labels:
    """Runs the operator itself on the labels."""
    return execute(call)


def transposition(call: LabelledCall) -> Labels:
    """Moves data; a parameter stays one, its axes in another order: a decoder may have its encoder's weight."""
    ref = call.arguments.get("self")
    if not isinstance(ref, TensorRef):
        return execute(call)
    rank = len(ref.shape)
    told_apart = {**call.arguments, "self": torch.empty(tuple(range(rank)), device="meta")}
    order = tuple(call.node.target(**told_apart).shape)  # type: ignore[operator]
    dims = tuple(ref.dims[dim] if ref.dims else dim for dim in order)
    return replace(ref, shape=tuple(ref.shape[dim] for dim in order), dims=dims)


def execute(call: LabelledCall) -> Labels:
    """The operator applied to label tensors in place of numbers."""
    arguments = pytree.tree_map(
        lambda value: call.labels(value) if hasattr(value, "shape") else value,
        call.arguments,
        is_leaf=lambda value: hasattr(value, "shape"),
    )
    result: Any = call.node.target(**_positional_self(arguments))  # type: ignore[operator]
    return pytree.tree_map(lambda value: compact(value) if isinstance(value, Tensor) else value, result)


def _positional_self(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if name not in ("dtype", "layout", "device")}


def roll(call: LabelledCall) -> Labels:
    """Moves data, but not along channels: a fixed shift would join other channels after a cut."""
    labels = call.labels(call["self"])
    if varying(labels) & {dim % labels.dim() for dim in call["dims"]}:
        return call.freeze_all(f"{call.where} shifts along the channels")
    return labels


def concatenation(call: LabelledCall) -> Labels:
    """Joins the channels of its inputs; axes on which all inputs are constant stay narrow."""
    tensors = [call.labels(value) for value in call["tensors"]]
    tensors = [labels for labels in tensors if labels.shape != (0,)]
    dim = call["dim"] % tensors[0].dim()
    wide = set().union(*(varying(labels) for labels in tensors)) | {dim}
    for other in set(range(tensors[0].dim())) - wide:
        tensors = [labels.narrow(other, 0, 1) for labels in tensors]
    return compact(torch.cat(tensors, dim)).expand(call.shape)


def padding(call: LabelledCall) -> Labels:
    """Neutral around other axes; along channels each new position is a created channel."""
    labels, amounts = call.labels(call["self"]), list(call["pad"])
    constant_mode = call.arguments.get("mode", "constant") == "constant"
    order = call.notes.num_pads
    call.notes.num_pads += constant_mode
    for place in range(0, len(amounts), 2):
        dim = labels.dim() - 1 - place // 2
        before, after = amounts[place : place + 2]
        if dim not in varying(labels) or (before, after) == (0, 0):
            continue
        if not constant_mode or min(before, after) < 0:
            return call.freeze_all(f"{call.where} pads along the channels")
        labels = _with_created(call, labels, dim, order, (before, after))
    if varying(labels) - set(range(labels.dim())) or tuple(labels.shape) != call.shape:
        labels = squeezed(labels).expand(call.shape)
    return labels


def _with_created(call: LabelledCall, labels: Tensor, dim: int, order: int, counts: tuple[int, int]) -> Tensor:
    """Each line of channels along the axis, such as that of a head, gets created channels of its own."""
    small = squeezed(labels).movedim(dim, 0)
    others = small[0]
    lines = None if others.numel() == 1 else small.flatten(1).T
    sides = [call.book.fresh(count * others.numel()).view(count, *others.shape) for count in counts]
    before, after = (side.flatten() for side in sides)
    call.notes.pads.append(Pad(order, dim, labels.dim(), call.owners, call.where, before, after, lines))
    joined = torch.cat([sides[0], small, sides[1]]).movedim(0, dim)
    return joined.expand([size if other != dim else joined.shape[dim] for other, size in enumerate(labels.shape)])


def spatial(call: LabelledCall) -> Labels:
    """Pooling and resizing act on each channel by itself."""
    labels = call.labels(next(call.tensors()))
    name = call.node.target._schema.name  # type: ignore[union-attr]
    count = next(int(n) for n in "123" if f"{n}d" in name)
    kept = call.book.collapse(labels, range(labels.dim() - count, labels.dim()))
    if kept is None:
        return call.freeze_all(f"{call.where} works along the channels")
    result = kept.expand(call.shape)
    value = call.node.meta["val"]
    return [result] * len(value) if isinstance(value, (tuple, list)) else result


TRANSPOSITIONS = "permute transpose t numpy_T swapaxes swapdims movedim moveaxis"
VIEWS = "squeeze unsqueeze expand expand_as unbind broadcast_to diagonal atleast_1d atleast_2d"
COPIES = "flip repeat tile repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle stack hstack vstack"
WITHOUT_RULE = "unfold select_scatter slice_scatter im2col col2im meshgrid tril triu"
POOLS = """
    max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
"""
RESIZES = """
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d
    upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_bilinear2d_aa
    _upsample_bicubic2d_aa
"""

register_operator(TRANSPOSITIONS, transposition, macs=no_macs, latency=FREE)
register_operator(VIEWS, movement, macs=no_macs, latency=FREE)
register_operator(COPIES, movement, macs=no_macs)
register_operator(WITHOUT_RULE, macs=no_macs)
register_operator("roll", roll, macs=no_macs)
register_operator("cat concat concatenate", concatenation, macs=no_macs, latency=LatencyView(joins=True))
register_operator("pad constant_pad_nd", padding, macs=no_macs, latency=LatencyView(pads=True))
register_operator(
    "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d",
    latency=LatencyView(pads=True),
)
register_operator(POOLS, spatial)
register_operator(RESIZES, spatial)
