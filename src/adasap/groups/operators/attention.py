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
    return _heads(call, [left, right])


def _weighted(call: LabelledCall, labels: Tensor, contracted: int) -> Labels:
    """The product with a side that carries no channels."""
    if contracted % labels.dim() in varying(labels):
        return call.freeze_all(f"{call.where} mixes the channels")
    return compact(labels.narrow(contracted, 0, 1).expand(call.shape))


def attention(call: LabelledCall) -> Labels:
    """Query, key, value and bias of one head are one unit."""
    names = ("query", "key", "value", "attn_mask")
    tensors = [call[name] for name in names if call.arguments.get(name) is not None]
    return _heads(call, [call.labels(tensor) for tensor in tensors])


def _heads(call: LabelledCall, tensors: list[Tensor]) -> Labels:
    """Unite each tensor within its slices and the tensors across; every result carries its slice's label."""
    heads = [_one_per_slice(call, labels) for labels in tensors]
    result = heads[0]
    for other in heads[1:]:
        call.book.unite(result, other)
        result = result.where(result != 0, other)
    return compact(result.expand(call.shape))


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


def einsum_macs(call: ShapedCall) -> Product | None:
    """The product of all axes that two operands have; others are not counted."""
    operands = call.operands
    letters = str(call["equation"]).replace(" ", "").partition("->")[0].split(",")
    if len(operands) != 2 or "." in call["equation"]:
        return None
    sizes = {
        letter: size
        for names, operand in zip(letters, operands, strict=True)
        for letter, size in zip(names, shape_of(operand), strict=True)
    }
    return Product(prod(sizes.values()), operands[::-1])


register_operator("matmul bmm", product, macs=product_macs)
register_operator("mm mv dot", macs=product_macs)
register_operator("addmm baddbmm addmv", macs=added_product_macs)
register_operator("scaled_dot_product_attention", attention, macs=attention_macs)
register_operator("_scaled_dot_product_flash_attention_for_cpu", attention)
register_operator("einsum", macs=einsum_macs)
