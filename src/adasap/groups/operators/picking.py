"""Operators that pick numbers: by position, by rank, or at places of a map, as detectors with queries do."""

from __future__ import annotations

from adasap.groups.labels import compact, squeezed, varying
from adasap.groups.operators.attention import united_heads
from adasap.groups.operators.call import LabelledCall, Labels
from adasap.groups.operators.elementwise import meet
from adasap.groups.operators.operator import no_macs, register_operator


def gathered(call: LabelledCall) -> Labels:
    """Picks entries along an axis without channels, such as the queries of best score; the other axes stay."""
    labels, positions, dim = call.labels(call["self"]), call.labels(call["index"]), call["dim"]
    if dim % labels.dim() in varying(labels):
        return call.freeze_all(f"{call.where} picks channels by number")
    for other, size in enumerate(call.shape):
        labels = labels.narrow(other, 0, 1 if other == dim % labels.dim() else size)
    # positions that were computed from what is frozen are the same after any cut
    known = squeezed(positions).clamp(min=0).expand(positions.shape)
    return meet(call, labels.expand(call.shape), known).expand(call.shape)


def ordered(call: LabelledCall) -> Labels:
    """Sorts along an axis without channels, or picks the largest there; along channels it sees all of them."""
    kept = call.book.collapse(call.labels(call["self"]), [call["dim"]])
    if kept is None:
        return call.freeze_all(f"{call.where} mixes the channels")
    value, result = call.node.meta["val"], kept.expand(call.shape)
    return [result] * len(value) if isinstance(value, (tuple, list)) else result


def resampled(call: LabelledCall) -> Labels:
    """Reads maps at computed places, each channel by itself.

    Where every map of a batch has places of its own, as each head of deformable attention has, a map and its places are
    one unit. Else the places stay: one place serves all channels.
    """
    labels, places = call.labels(call["input"]), call.labels(call["grid"])
    kept = call.book.collapse(labels, range(2, labels.dim()))
    if kept is None:
        return call.freeze_all(f"{call.where} works along the channels")
    if 0 in varying(kept) & varying(places):
        heads = united_heads(call, [squeezed(side).flatten(1).unsqueeze(1) for side in (kept, places)])
        return compact(heads.view(-1, *[1] * (labels.dim() - 1)).expand(call.shape))
    call.book.freeze(places, f"{call.where} moves the places that are read by it")
    return kept.expand(call.shape)


register_operator("gather", gathered, macs=no_macs)
register_operator("topk sort argsort", ordered, macs=no_macs)
register_operator("grid_sampler", resampled)
