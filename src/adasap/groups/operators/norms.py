"""Norms, and activations with a slope per channel: operators whose parameters belong to the channels they work on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from adasap.groups.labels import varying
from adasap.groups.operators.call import LabelledCall, Labels, TensorRef
from adasap.groups.operators.convolutions import computed_weight
from adasap.groups.operators.operator import LatencyView, register_operator


def channel_norm(call: LabelledCall) -> Labels:
    """Normalises each channel by itself: scale, shift and running statistics belong to it."""
    labels = call.labels(call["input"])
    _attach_norm(call, call.read(labels, dim=1))
    return labels


def layer_norm(call: LabelledCall) -> Labels:
    """Normalises over its last axes: channels there see each other, and stay unless inexact groups are allowed."""
    labels = call.labels(call["input"])
    count = len(call["normalized_shape"])
    mixed = bool(varying(labels) & set(range(labels.dim() - count, labels.dim())))
    if mixed and not (count == 1 and call.mix(labels, -1, _LAST_AXIS[call.operator], norm_over)):
        call.book.freeze(labels, f"{call.where} normalises over the channels")
    if count == 1:
        _attach_norm(call, call.read(labels, dim=-1))
    else:
        call.freeze_all(f"{call.where} normalises over the channels")
    return labels


def norm_over(target: Any, given: dict[str, Any], index: Tensor) -> Tensor:
    """A norm over some of the channels of the last axis; the others keep what the norm over all gives them."""
    part = {
        name: value.index_select(-1, index) if name in ("input", "weight", "bias") and value is not None else value
        for name, value in given.items()
    }
    whole: Tensor = target(**given)
    return whole.index_copy(-1, index, target(**part | {"normalized_shape": [len(index)]}))


def group_norm(call: LabelledCall) -> Labels:
    """Normalises over groups of channels: whole groups go; the channels of a single group see each other and stay.

    Where inexact groups are allowed, a unit takes one channel of every group, so that groups stay equally wide.
    """
    labels, groups = call.labels(call["input"]), call["num_groups"]
    channels = call.read(labels, dim=1)
    if call.mix(labels, 1, "GroupNorm", group_norm_over):
        if channels is not None:
            by_group = channels.view(groups, -1)
            call.book.unite(by_group[:1], by_group)
        _attach_norm(call, channels)
        return labels
    call.notes.norm_sizes.append(labels.shape[1] // groups)
    _attach_norm(call, channels)
    if groups == 1 or channels is None:
        call.book.freeze(labels, f"{call.where} normalises over the channels")
        return labels
    by_group = channels.view(groups, -1)
    call.book.unite(by_group[:, :1], by_group)
    call.note_extent(by_group, 0)
    return labels


def group_norm_over(target: Any, given: dict[str, Any], index: Tensor) -> Tensor:
    """As `norm_over`, along the second axis; `index` has equally many channels of every group."""
    dims = {"input": 1, "weight": 0, "bias": 0}
    part = {
        name: value.index_select(dims[name], index) if name in dims and value is not None else value
        for name, value in given.items()
    }
    whole: Tensor = target(**given)
    return whole.index_copy(1, index, target(**part))


_LAST_AXIS = {"layer_norm": "LayerNorm", "rms_norm": "RMSNorm"}


def _attach_norm(call: LabelledCall, channels: Tensor | None) -> None:
    for name, role in (("weight", "scale"), ("bias", "shift"), ("running_mean", None), ("running_var", None)):
        ref = call.arguments.get(name)
        if isinstance(ref, TensorRef):
            call.attach(channels, call.axis(ref, 0, role or "statistic"))  # type: ignore[arg-type]


def prelu(call: LabelledCall) -> Labels:
    """A slope per channel, or one for all."""
    labels, weight = call.labels(call["self"]), call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    if weight.shape != (1,):
        call.attach(call.read(labels, dim=1), call.axis(weight, 0, "scale"))
    return labels


register_operator("batch_norm instance_norm", channel_norm)
register_operator("layer_norm rms_norm", layer_norm, latency=LatencyView(sizes="normalized_shape"))
register_operator("group_norm", group_norm, latency=LatencyView(parts="num_groups"))
register_operator("prelu", prelu)
