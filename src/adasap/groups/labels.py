"""Label tensors: which channel each element of an activation carries, and the book that says which are one.

A label is an integer. Positive: one index of one axis of a parameter or buffer, or a position created by
padding. Zero: neutral, carries no channel. Negative: a frozen source without channels of its own, such as the
model's input. Label tensors have the shape of the activation; axes along which they do not vary have stride 0, to
keep them small.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from adasap.groups.components import connected_components, distinct, distinct_columns
from adasap.groups.group import Role


@dataclass(frozen=True)
class Axis:
    """One axis of a parameter or buffer; index i carries the label `start + i`."""

    name: str
    dim: int
    role: Role
    start: int
    size: int


class LabelBook:
    """Gives out labels and remembers which of them must go together and which must stay.

    Args:
        allow_inexact: Whether channels that depend on each other through a norm over them may go (`mix`).

    Example:
        >>> book = LabelBook()
        >>> rows = book.axis("conv.weight", 0, 3, "producer")
        >>> reads = book.axis("fc.weight", 1, 3, "consumer")
        >>> book.unite(rows, reads)
        >>> book.roots()[reads]
        tensor([1, 2, 3])
    """

    def __init__(self, *, allow_inexact: bool = False) -> None:
        self.allow_inexact = allow_inexact
        self.inexact: set[str] = set()
        self.axes: dict[tuple[str, int], Axis] = {}
        self.read: set[tuple[str, int]] = set()
        self.reasons: list[str] = []
        self.frozen: list[tuple[Tensor, int]] = []
        self._pairs: list[Tensor] = []
        self._roots = torch.zeros(1, dtype=torch.int64)
        self._next = 1

    def axis(self, name: str, dim: int, size: int, role: Role) -> Tensor:
        """The labels of one axis, int64 [size]: fresh on the first request, the same ever after.

        The role is that of the first request; of tied weights, which write and read by one axis, `read` tells.
        """
        known = self.axes.get((name, dim))
        if role == "consumer":
            self.read.add((name, dim))
        if known is None:
            known = Axis(name, dim, role, int(self.fresh(size)[0]) if size else self._next, size)
            self.axes[name, dim] = known
        return torch.arange(known.start, known.start + size)

    def fresh(self, size: int) -> Tensor:
        """New labels, int64 [size], that stand in no axis."""
        start, self._next = self._next, self._next + size
        return torch.arange(start, start + size)

    def source(self, reason: str) -> int:
        """A negative label: whatever meets it is frozen for this reason."""
        return -1 - self._reason(reason)

    def freeze(self, labels: Tensor, reason: str) -> None:
        """Mark every positive label as one that must stay."""
        positive = distinct(squeezed(labels))
        positive = positive[positive > 0]
        if len(positive):
            self.frozen.append((positive, self._reason(reason)))

    def mark_inexact(self, labels: Tensor, what: str) -> None:
        """Every positive label may go, but `what` then gives another result for those that stay."""
        self.inexact.add(what)
        self.freeze(labels, what)

    def unite(self, left: Tensor, right: Tensor) -> None:
        """Element by element (with broadcasting): these labels are one channel.

        A label that meets a negative one is frozen and not united through it; zeros do nothing.
        """
        left, right = _squeezed_pair(*broadcast(left, right))
        pairs = torch.stack([left.flatten(), right.flatten()])
        pairs = pairs[:, (pairs[0] != pairs[1]) & (pairs != 0).all(0)]
        if pairs.shape[1] == 0:
            return
        pairs = distinct_columns(pairs)
        both = (pairs > 0).all(0)
        if both.any():
            self._pairs.append(pairs[:, both])
        for source, other in ((pairs[0], pairs[1]), (pairs[1], pairs[0])):
            for label in distinct(source[source < 0]).tolist():
                self.freeze(other[source == label], self.reasons[-1 - label])

    def roots(self) -> Tensor:
        """Label -> smallest label it is one with, int64 [number of labels + 1]."""
        if len(self._roots) < self._next:
            self._roots = torch.cat([self._roots, torch.arange(len(self._roots), self._next)])
        if self._pairs:  # only what was united since the last call is looked at
            ends = self._roots[torch.cat(self._pairs, dim=1)]
            nodes, places = torch.unique(ends, return_inverse=True)
            new = torch.arange(self._next)
            new[nodes] = nodes[connected_components(len(nodes), places)]
            self._roots, self._pairs = new[self._roots], []
        return self._roots

    def resolved(self, labels: Tensor) -> Tensor:
        """The same labels with each positive one replaced by its root, as compact as they can be."""
        small = squeezed(labels)
        return compact(torch.where(small > 0, self.roots()[small.clamp(min=0)], small)).expand(labels.shape)

    def collapse(self, labels: Tensor, dims: Collection[int], *, alone: bool = False) -> Tensor | None:
        """The labels with `dims` reduced to size 1, or None if these axes mix channels.

        Where labels vary along `dims`, each remaining position (column) may still own all of its labels
        alone: tokens joined along the sequence, parts of one channel. Then the labels of a column become one.
        None means that a label stands in several columns, or that there is one column only, unless that may be
        `alone`: no channel could go by itself.
        """
        dims = {dim % labels.dim() for dim in dims} if labels.dim() else set()
        if not dims & varying(labels):
            return _narrow(labels, dims)
        labels = self.resolved(labels)
        if not dims & varying(labels):
            return _narrow(labels, dims)
        columns = _columns(squeezed(labels), dims)
        if columns.shape[0] < 2 - alone or not _own_their_labels(columns):
            return None
        first = columns.max(dim=1, keepdim=True).values
        first = torch.where(first > 0, first, columns.min(dim=1, keepdim=True).values)
        self.unite(first, columns)
        small = squeezed(labels)
        shape = [1 if dim in dims else size for dim, size in enumerate(small.shape)]
        target = [1 if dim in dims else size for dim, size in enumerate(labels.shape)]
        return first.view(shape).expand(target)

    def _reason(self, reason: str) -> int:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return self.reasons.index(reason)


def varying(labels: Tensor) -> set[int]:
    """The axes along which a label tensor is not stored as constant."""
    return {
        d for d, (size, stride) in enumerate(zip(labels.shape, labels.stride(), strict=True)) if size > 1 and stride
    }


def squeezed(labels: Tensor) -> Tensor:
    """Constant axes narrowed to size 1 (same number of axes)."""
    return _narrow(labels, set(range(labels.dim())) - varying(labels))


def compact(labels: Tensor) -> Tensor:
    """The same labels, stored with stride 0 along every axis on which they are constant.

    Example:
        >>> compact(torch.tensor([[1, 1, 1], [2, 2, 2]])).stride()
        (1, 0)
    """
    small = squeezed(labels)
    for dim in varying(small):
        first = small.narrow(dim, 0, 1)
        if torch.equal(small.select(dim, 0), small.select(dim, -1)) and bool((small == first).all()):
            small = first
    return small.contiguous().expand(labels.shape) if labels.numel() else labels


def constant(label: int, shape: Iterable[int]) -> Tensor:
    """One label everywhere."""
    return torch.tensor(label).expand(tuple(shape))


def along(labels: Tensor, dim: int, shape: Collection[int]) -> Tensor:
    """Labels [C] laid along one axis of an activation, constant along the others."""
    view = [1] * len(shape)
    view[dim % len(shape)] = -1
    return labels.view(view).expand(tuple(shape))


def broadcast(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Both expanded to their common shape, without copying."""
    left, right = torch.broadcast_tensors(left, right)  # type: ignore[no-untyped-call]
    return left, right


def _narrow(labels: Tensor, dims: Iterable[int]) -> Tensor:
    for dim in dims:
        if labels.shape[dim] > 1:
            labels = labels.narrow(dim, 0, 1)
    return labels


def _squeezed_pair(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    same = set(range(left.dim())) - varying(left) - varying(right)
    return _narrow(left, same), _narrow(right, same)


def _columns(labels: Tensor, dims: set[int]) -> Tensor:
    rest = [dim for dim in range(labels.dim()) if dim not in dims]
    moved = labels.permute(*rest, *sorted(dims))
    return moved.reshape(max(1, moved[(...,) + (0,) * len(dims)].numel()), -1)


def _own_their_labels(columns: Tensor) -> bool:
    place = torch.arange(columns.shape[0]).unsqueeze(1).expand_as(columns)
    pairs = torch.stack([columns, place]).flatten(1)
    pairs = distinct_columns(pairs[:, pairs[0] > 0])
    return pairs.shape[1] == len(distinct(pairs[0]))
