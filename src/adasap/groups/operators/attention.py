"""Products between activations: whatever meets in one batch slice, a head, is one unit."""

from __future__ import annotations

from math import prod

from torch import Tensor

from adasap.groups.labels import along, compact, squeezed, varying
from adasap.groups.operators.call import LabelledCall, Labels, ShapedCall, TensorRef, shape_of
from adasap.groups.operators.operator import Product, register_operator


def product(call: LabelledCall) -> Labels:
    """A product of activations makes the channels of each batch slice one unit, the head.

    Query and key meet along the contracted axis, and their product scales what is read of the value. A side without
    channels, such as a table of resizing weights, leaves the other side's where they do not lie on the contracted
    axis. A parameter on the right is the weight of a linear layer.
    """
    left, right = call["self"], call["mat2" if "mat2" in call.arguments else "other"]
    if isinstance(right, TensorRef) and not isinstance(left, TensorRef) and len(right.shape) == 2:
        call.attach(call.read(left, dim=-1), call.axis(right, 0, "consumer"))
        return along(call.axis(right, 1, "producer"), -1, call.shape)
    if any(isinstance(side, TensorRef) or side.dim() < 2 for side in (left, right)):
        return call.freeze_all(f"{call.where} is a product of another kind than activations, which has no rule")
    for side, other, contracted in ((left, right, -2), (right, left, -1)):
        if not bool((squeezed(side) != 0).any()):
            return _weighted(call, other, contracted)
    if (value := _value_of(call, left, right)) is not None:
        return _weighted(call, *value)
    heads = united_heads(call, [left, right])
    call.notes.heads.append((call.owners[0], heads))
    return compact(heads.expand(call.shape))


def _weighted(call: LabelledCall, labels: Tensor, contracted: int) -> Labels:
    """The product with a side that carries no channels."""
    if contracted % labels.dim() in varying(labels):
        return call.freeze_all(f"{call.where} mixes the channels")
    return compact(labels.narrow(contracted, 0, 1).expand(call.shape))


def attention(call: LabelledCall) -> Labels:
    """Query, key, value and bias of one head are one unit."""
    names = ("query", "key", "value", "attn_mask")
    tensors = [call.labels(call[name]) for name in names if call.arguments.get(name) is not None]
    return compact(united_heads(call, tensors).expand(call.shape))


def _value_of(call: LabelledCall, left: Tensor, right: Tensor) -> tuple[Tensor, int] | None:
    """The values that weights of attention are multiplied with, and their contracted axis, where they may get narrower.

    Nothing is summed over channels then: a channel of the values is one of the result.
    """
    if call.owners[0] not in call.notes.by_value:
        return None
    sides = ((left, right, -1), (right, left, -2))
    for value, weights, contracted in sides:
        inside = {value.dim() - 2, value.dim() - 1}
        if varying(value) & inside == {value.dim() - 3 - contracted} and not varying(weights) & inside:
            call.book.freeze(weights, f"{call.where} keeps queries and keys, and loses channels of the values")
            return value, contracted
    return None


def united_heads(call: LabelledCall, tensors: list[Tensor]) -> Tensor:
    """Unite each tensor within its slices of the last two axes and the tensors across; one label per slice.

    Returns:
        int64 [..., 1, 1].
    """
    heads = [_one_per_slice(call, labels) for labels in tensors]
    result = heads[0]
    for other in heads[1:]:
        call.book.unite(result, other)
        result = result.where(result != 0, other)
    return result


def _one_per_slice(call: LabelledCall, labels: Tensor) -> Tensor:
    """Unite what lies in the last two axes; one label (or 0) per slice, [..., 1, 1]."""
    inside = squeezed(labels).flatten(-2)
    first = inside.max(dim=-1, keepdim=True).values
    first = first.where(first > 0, inside.min(dim=-1, keepdim=True).values)
    call.book.unite(first, inside)
    return first.unsqueeze(-1)


def product_macs(call: ShapedCall) -> Product:
    """Entries of the result x length of the contracted axis; either side may be a weight."""
    left, right = call.operands[:2]
    return Product(prod(call.shape) * shape_of(left)[-1], (right, left))


def added_product_macs(call: ShapedCall) -> Product:
    """Of a product that is added to the first operand."""
    _, left, right = call.operands[:3]
    return Product(prod(call.shape) * shape_of(left)[-1], (right, left))


def attention_macs(call: ShapedCall) -> Product:
    """Query times key, and their product times value."""
    num_keys = call.sizes("key")[-2]
    return Product(prod(call.sizes("query")) * num_keys + prod(call.shape) * num_keys)


register_operator("matmul bmm", product, macs=product_macs)
register_operator("mm mv dot", macs=product_macs)
register_operator("addmm baddbmm addmv", macs=added_product_macs)
register_operator("scaled_dot_product_attention", attention, macs=attention_macs)
register_operator("_scaled_dot_product_flash_attention_for_cpu", attention)
