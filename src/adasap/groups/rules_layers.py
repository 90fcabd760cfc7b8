"""Rules of operators that own parameters: convolutions, linear layers, norms."""

from __future__ import annotations

from torch import Tensor

from adasap.groups.labels import along, varying
from adasap.groups.rules import Call, Result, TensorRef, rule


@rule("conv1d", "conv2d", "conv3d")
def convolution(call: Call) -> Result:
    """Reads its input's channels, writes a fresh one per filter; a grouped one ties each of its groups."""
    weight = call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    channels = call.read(call.labels(call["input"]), dim=1 - len(weight.shape))
    rows = call.axis(weight, 0, "producer")
    if call["groups"] == 1:
        call.attach(channels, call.axis(weight, 1, "consumer"))
    else:
        _tie_convolution_groups(call, channels, rows, call["groups"])
    return _with_bias(call, rows, dim=1 - len(weight.shape))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def transposed_convolution(call: Call) -> Result:
    """As a convolution, with the two axes of the weight exchanged; grouped ones are not followed."""
    weight = call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    if call["groups"] != 1:
        return call.freeze_all(f"{call.where} is grouped, which has no rule")
    channels = call.read(call.labels(call["input"]), dim=1 - len(weight.shape))
    call.attach(channels, call.axis(weight, 0, "consumer"))
    return _with_bias(call, call.axis(weight, 1, "producer"), dim=1 - len(weight.shape))


def _tie_convolution_groups(call: Call, channels: Tensor | None, rows: Tensor, groups: int) -> None:
    per_group = rows.view(groups, -1)
    call.book.unite(per_group[:, :1], per_group)
    if channels is None:
        call.book.freeze(rows, f"{call.where} reads an axis that is not its channels' own")
    else:
        call.book.unite(per_group[:, :1], channels.reshape(groups, -1))


@rule("linear")
def linear(call: Call) -> Result:
    """Reads the last axis, writes one fresh channel per row."""
    weight = call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    call.attach(call.read(call.labels(call["input"]), dim=-1), call.axis(weight, 1, "consumer"))
    return _with_bias(call, call.axis(weight, 0, "producer"), dim=-1)


def _with_bias(call: Call, rows: Tensor, dim: int) -> Tensor:
    bias = call["bias"]
    if isinstance(bias, TensorRef):
        call.attach(rows, call.axis(bias, 0, "shift"))
    elif bias is not None:
        call.book.unite(rows, call.labels(bias).flatten())
    return along(rows, dim, call.shape)


def computed_weight(call: Call) -> Result:
    """A layer whose weight is itself computed in forward, as under weight standardisation."""
    return call.freeze_all(f"{call.where} has a weight that is computed in forward")


@rule("embedding")
def embedding(call: Call) -> Result:
    """Writes one fresh channel per column of the table."""
    weight = call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    return along(call.axis(weight, 1, "producer"), -1, call.shape)


@rule("batch_norm", "instance_norm")
def channel_norm(call: Call) -> Result:
    """Normalises each channel by itself: scale, shift and running statistics belong to it."""
    labels = call.labels(call["input"])
    _attach_norm(call, call.read(labels, dim=1))
    return labels


@rule("layer_norm")
def layer_norm(call: Call) -> Result:
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


@rule("group_norm")
def group_norm(call: Call) -> Result:
    """Normalises over groups of channels, which depend on each other and stay."""
    labels = call.labels(call["input"])
    call.book.freeze(labels, f"{call.where} normalises over the channels")
    _attach_norm(call, call.read(labels, dim=1))
    return labels


def _attach_norm(call: Call, channels: Tensor | None) -> None:
    for name, role in (("weight", "scale"), ("bias", "shift"), ("running_mean", None), ("running_var", None)):
        ref = call.arguments.get(name)
        if isinstance(ref, TensorRef):
            call.attach(channels, call.axis(ref, 0, role or "statistic"))  # type: ignore[arg-type]


@rule("prelu")
def prelu(call: Call) -> Result:
    """A slope per channel, or one for all."""
    labels, weight = call.labels(call["self"]), call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    if weight.shape != (1,):
        call.attach(call.read(labels, dim=1), call.axis(weight, 0, "scale"))
    return labels
