"""Convolutions, linear layers and embeddings: operators that read channels and write fresh ones."""

from __future__ import annotations

from math import prod

from torch import Tensor

from adasap.groups.labels import along
from adasap.groups.operators.call import LabelledCall, Labels, ShapedCall, TensorRef
from adasap.groups.operators.operator import LatencyView, Product, register_operator


def convolution(call: LabelledCall) -> Labels:
    """Reads its input's channels, writes a fresh one per filter; a grouped one loses whole groups, or some of each."""
    weight = call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    channels = call.read(call.labels(call["input"]), dim=1 - len(weight.shape))
    rows = call.axis(weight, 0, "producer")
    if call["groups"] == 1:
        call.attach(channels, call.axis(weight, 1, "consumer"))
    elif weight.name in call.notes.across and channels is not None:
        by_group, read = rows.view(call["groups"], -1), channels.view(call["groups"], -1)
        call.book.unite(by_group[:1], by_group)
        call.book.unite(read[:1], read)
        call.attach(read[0], call.axis(weight, 1, "consumer"))
    else:
        _tie_convolution_groups(call, channels, rows, call["groups"])
        if min(weight.shape[1], weight.shape[0] // call["groups"]) > 1:
            call.notes.grouped.add(weight.name)
    return _with_bias(call, rows, dim=1 - len(weight.shape))


def transposed_convolution(call: LabelledCall) -> Labels:
    """As a convolution, with the two axes of the weight exchanged; the rows of a grouped one are its inputs."""
    weight, groups = call["weight"], call["groups"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    channels = call.read(call.labels(call["input"]), dim=1 - len(weight.shape))
    if groups != 1:
        rows = call.axis(weight, 0, "producer")
        _tie_convolution_groups(call, channels, rows, groups)
        return _with_bias(call, rows.view(groups, -1)[:, 0].repeat_interleave(weight.shape[1]), 1 - len(weight.shape))
    call.attach(channels, call.axis(weight, 0, "consumer"))
    return _with_bias(call, call.axis(weight, 1, "producer"), dim=1 - len(weight.shape))


def _tie_convolution_groups(call: LabelledCall, channels: Tensor | None, rows: Tensor, groups: int) -> None:
    per_group = rows.view(groups, -1)
    call.book.unite(per_group[:, :1], per_group)
    if channels is None:
        call.book.freeze(rows, f"{call.where} reads an axis that is not its channels' own")
    else:
        call.book.unite(per_group[:, :1], channels.reshape(groups, -1))


def linear(call: LabelledCall) -> Labels:
    """Reads the last axis, writes one fresh channel per row."""
    weight = call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    call.attach(call.read(call.labels(call["input"]), dim=-1), call.axis(weight, 1, "consumer"))
    return _with_bias(call, call.axis(weight, 0, "producer"), dim=-1)


def _with_bias(call: LabelledCall, rows: Tensor, dim: int) -> Tensor:
    bias = call["bias"]
    if isinstance(bias, TensorRef):
        call.attach(rows, call.axis(bias, 0, "shift"))
    elif bias is not None:
        call.book.unite(rows, call.labels(bias).flatten())
    return along(rows, dim, call.shape)


def computed_weight(call: LabelledCall) -> Labels:
    """A layer whose weight is itself computed in forward, as under weight standardisation."""
    return call.freeze_all(f"{call.where} has a weight that is computed in forward")


def embedding(call: LabelledCall) -> Labels:
    """Writes one fresh channel per column of the table."""
    weight = call["weight"]
    if not isinstance(weight, TensorRef):
        return computed_weight(call)
    return along(call.axis(weight, 1, "producer"), -1, call.shape)


def convolution_macs(call: ShapedCall) -> Product:
    """Output positions x entries of the weight."""
    return Product(prod(call.shape) // call.shape[1] * prod(call.sizes("weight")), (call["weight"],))


def transposed_convolution_macs(call: ShapedCall) -> Product:
    """Input positions x entries of the weight."""
    sizes = call.sizes("input")
    return Product(prod(sizes) // sizes[1] * prod(call.sizes("weight")), (call["weight"],))


def either_convolution_macs(call: ShapedCall) -> Product:
    """Of the operator that an argument makes a transposed convolution."""
    return transposed_convolution_macs(call) if call["transposed"] else convolution_macs(call)


def linear_macs(call: ShapedCall) -> Product:
    """Entries of the result x inputs of each."""
    return Product(prod(call.shape) * call.sizes("weight")[-1], (call["weight"],))


register_operator(
    "conv1d conv2d conv3d",
    convolution,
    macs=convolution_macs,
    latency=LatencyView(weight="weight", channel_axis=1, groups="groups"),
)
register_operator(
    "conv_transpose1d conv_transpose2d conv_transpose3d", transposed_convolution, macs=transposed_convolution_macs
)
register_operator("convolution", macs=either_convolution_macs)
register_operator("linear", linear, macs=linear_macs, latency=LatencyView(weight="weight", channel_axis=-1))
register_operator("embedding", embedding)
