"""Norms, and activations with a slope per channel: operators whose parameters belong to the channels they work on."""

from __future__ import annotations

from torch import Tensor

from adasap.groups.labels import varying
from adasap.groups.operators.call import LabelledCall, Labels, TensorRef
from adasap.groups.operators.convolutions import computed_weight
from adasap.groups.operators.operator import register_operator


def channel_norm(call: LabelledCall) -> Labels:
    """Normalises each channel by itself: scale, shift and running statistics belong to it."""
    labels = call.labels(call["input"])
    _attach_norm(call, call.read(labels, dim=1))
    return labels


def layer_norm(call: LabelledCall) -> Labels:
    """Normalises over its last axes: channels there depend on each other and stay."""
    labels = call.labels(call["input"])
    count = len(call["normalized_shape"])
    if varying(labels) & set(range(labels.dim() - count, labels.dim())):
        call.book.freeze(labels, f"{call.where} normalises over the channels")
    if count == 1:
        _attach_norm(call, call.read(labels, dim=-1))
    else:
        call.freeze_all(f"{call.where} normalises over the channels")
    return labels


def group_norm(call: LabelledCall) -> Labels:
    """Normalises over groups of channels, which depend on each other and stay."""
    labels = call.labels(call["input"])
    call.book.freeze(labels, f"{call.where} normalises over the channels")
    _attach_norm(call, call.read(labels, dim=1))
    return labels


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
register_operator("layer_norm", layer_norm)
register_operator("group_norm", group_norm)
register_operator("prelu", prelu)
