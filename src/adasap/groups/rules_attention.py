"""Rules of products between activations: whatever meets in one batch slice, a head, is one unit."""

from __future__ import annotations

from torch import Tensor

from adasap.groups.labels import along, compact, squeezed, varying
from adasap.groups.rules import Call, Result, TensorRef, rule


@rule("matmul", "bmm")
def product(call: Call) -> Result:
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


def _weighted(call: Call, labels: Tensor, contracted: int) -> Result:
    """The product with a side that carries no channels."""
    if contracted % labels.dim() in varying(labels):
        return call.freeze_all(f"{call.where} mixes the channels")
    return compact(labels.narrow(contracted, 0, 1).expand(call.shape))


@rule("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu")
def attention(call: Call) -> Result:
    """Query, key, value and bias of one head are one unit."""
    names = ("query", "key", "value", "attn_mask")
    tensors = [call[name] for name in names if call.arguments.get(name) is not None]
    return _heads(call, [call.labels(tensor) for tensor in tensors])


def _heads(call: Call, tensors: list[Tensor]) -> Result:
    """Unite each tensor within its slices and the tensors across; every result carries its slice's label."""
    heads = [_one_per_slice(call, labels) for labels in tensors]
    result = heads[0]
    for other in heads[1:]:
        call.book.unite(result, other)
        result = result.where(result != 0, other)
    return compact(result.expand(call.shape))


def _one_per_slice(call: Call, labels: Tensor) -> Tensor:
    """Unite what lies in the last two axes; one label (or 0) per slice, [..., 1, 1]."""
    inside = squeezed(labels).flatten(-2)
    first = inside.max(dim=-1, keepdim=True).values
    first = first.where(first > 0, inside.min(dim=-1, keepdim=True).values)
    call.book.unite(first, inside)
    return first.unsqueeze(-1)
