"""Operators that work element by element, and those that reduce or mix along an axis."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from adasap.groups.labels import broadcast, compact, constant, squeezed, varying
from adasap.groups.operators.call import LabelledCall, Labels
from adasap.groups.operators.operator import FREE, no_macs, register_operator


def unary(call: LabelledCall) -> Labels:
    """One number in, one number out: channels pass through."""
    return call.labels(next(call.tensors()))


def elementwise(call: LabelledCall) -> Labels:
    """Numbers that meet belong to one channel."""
    result, *others = (call.labels(value) for value in call.tensors())
    for other in others:
        result = meet(call, result, other)
    return result.expand(call.shape)


def creation(call: LabelledCall) -> Labels:
    """A tensor made from its shape alone carries no channel."""
    return call.like_result(0)


def overwritten(call: LabelledCall) -> Labels:
    """One number everywhere: its channels are those of what was there."""
    return call.labels(call["self"])


def copy(call: LabelledCall) -> Labels:
    """Overwrites its first argument; the channels written over count too, a view may show them."""
    return meet(call, call.labels(call["src"]), call.labels(call["self"])).expand(call.shape)


def meet(call: LabelledCall, left: Tensor, right: Tensor) -> Tensor:
    """Unite two label tensors under broadcasting and give the labels of the result.

    A single channel spread over the channels of the other side is frozen, not united with all of them; so are
    both sides if they carry channels along different axes.
    """
    left, right = _same_rank(left, right)
    spread = _spread(call, left, right)
    if spread is not None:
        return spread
    fan = _fan(call, left, right)
    if fan is not None:
        return fan
    left, right = broadcast(left, right)
    call.book.unite(left, right)
    if left.stride() == right.stride() and bool((left > 0).all()):
        return left
    first, second = broadcast(*_small(left, right))
    merged = torch.where((first > 0) | (second == 0), first, second)
    return compact(merged).expand(left.shape)


def _spread(call: LabelledCall, left: Tensor, right: Tensor) -> Tensor | None:
    """The result if one side is broadcast along an axis that carries the other side's channels, else None."""
    along_left, along_right = varying(left), varying(right)
    if along_left & along_right:
        return None
    shape = torch.broadcast_shapes(left.shape, right.shape)  # type: ignore[no-untyped-call]
    reason = f"{call.where} spreads one channel over several"
    if along_left and along_right:
        call.book.freeze(left, f"{call.where} joins channels along different axes")
        call.book.freeze(right, f"{call.where} joins channels along different axes")
        return constant(call.book.source(reason), shape)
    for one, many, dims in ((left, right, along_right), (right, left, along_left)):
        if dims and any(one.shape[dim] == 1 for dim in dims):
            call.book.freeze(one, reason)
            return many.expand(shape)
    return None


def _fan(call: LabelledCall, left: Tensor, right: Tensor) -> Tensor | None:
    """The result if each channel of one side stays and meets several of the other, such as one corner of a box and the
    points around it that all heads look at: they need not stay with it. Else None.
    """
    for one, many in ((left, right), (right, left)):
        if any(one.shape[dim] == 1 for dim in varying(many)) and not bool((squeezed(one) < 0).any()):
            if call.node in call.notes.fixed:
                call.book.freeze(one, f"{call.where} spreads one channel over several")
                return many.expand(torch.broadcast_shapes(left.shape, right.shape))  # type: ignore[no-untyped-call]
            call.notes.fans.append((call.node, one))
    return None


def _same_rank(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    rank = max(left.dim(), right.dim())
    return left[(None,) * (rank - left.dim())], right[(None,) * (rank - right.dim())]


def _small(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    for dim in set(range(left.dim())) - varying(left) - varying(right):
        left, right = left.narrow(dim, 0, 1), right.narrow(dim, 0, 1)
    return left, right


def reduction(call: LabelledCall) -> Labels:
    """Carries channels through if it reduces other axes than theirs (or all parts of one channel).

    Over the channels themselves it sees all of them at once: they stay unless inexact groups are allowed.
    """
    source = call.arguments.get("self", call.arguments.get("input"))
    labels = call.labels(source)
    if call.arguments.get("other") is not None:
        return elementwise(call)
    dims = call.arguments.get("dim")
    dims = [dims] if isinstance(dims, int) else list(dims or range(labels.dim()))
    kept = call.book.collapse(labels, dims)
    if kept is None:
        mixed = {dim % labels.dim() for dim in dims} & varying(call.book.resolved(labels))
        if len(mixed) != 1 or not call.mix(labels, min(mixed), call.operator, partial(reduced_over, dim=min(mixed))):
            call.book.freeze(labels, f"{call.where} mixes the channels")
        return call.like_result(0)
    shape = call.shape
    return [kept.reshape(shape)] * _num_results(call) if _num_results(call) > 1 else kept.reshape(shape)


def reduced_over(target: Any, given: dict[str, Any], index: Tensor, *, dim: int) -> Any:
    """A reduction over some of the channels of an axis."""
    name = "self" if "self" in given else "input"
    return target(**given | {name: given[name].index_select(dim, index)})


def mixing(call: LabelledCall) -> Labels:
    """Mixes along one axis: channels there depend on each other and stay."""
    labels = call.labels(next(call.tensors()))
    if call.book.collapse(labels, [call["dim"]]) is None:
        return call.freeze_all(f"{call.where} mixes the channels")
    return labels.expand(call.shape) if labels.shape == call.shape else call.freeze_all(f"{call.where} has no rule")


def _num_results(call: LabelledCall) -> int:
    value = call.node.meta["val"]
    return len(value) if isinstance(value, (tuple, list)) else 1


UNARY = """
    relu relu6 hardtanh silu gelu hardswish hardsigmoid sigmoid tanh elu selu celu leaky_relu rrelu mish
    softplus log_sigmoid threshold abs neg exp expm1 log log1p log2 sqrt rsqrt square
    reciprocal sin cos erf sign floor ceil round clamp clamp_min clamp_max clip alpha_dropout feature_alpha_dropout
    nan_to_num bernoulli logical_not bitwise_not isnan isfinite
"""
COPIES = "clone to _to_copy type_as"
PASSED_ON = "contiguous detach alias lift_fresh_copy dropout feature_dropout"
BINARY = """
    add sub rsub subtract mul multiply div divide true_divide floor_divide pow maximum minimum atan2 fmod
    remainder addcmul addcdiv lerp eq ne lt le gt ge logical_and logical_or logical_xor bitwise_and bitwise_or
"""
CREATION = """
    zeros ones full empty arange eye linspace zeros_like ones_like full_like empty_like new_zeros new_ones
    new_full new_empty rand randn rand_like randn_like scalar_tensor tril_indices triu_indices
"""
REDUCTIONS = "mean sum amax amin max min var std logsumexp norm linalg_vector_norm prod any all"
MIXING = "softmax log_softmax _softmax _log_softmax cumsum glu"

register_operator(UNARY, unary)
register_operator(COPIES, unary, macs=no_macs)
register_operator(PASSED_ON, unary, macs=no_macs, latency=FREE)
register_operator(BINARY, elementwise)
register_operator("where masked_fill", elementwise, macs=no_macs)
register_operator(CREATION, creation, macs=no_macs)
register_operator("zero fill", overwritten)
register_operator("copy", copy, macs=no_macs)
register_operator(REDUCTIONS, reduction)
register_operator(MIXING, mixing)
