"""From united labels to channel groups: units with the same places in the same tensors form one group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor

from adasap.groups.components import counted_columns, distinct
from adasap.groups.group import ChannelGroup, Extent, Slot
from adasap.groups.labels import Axis, LabelBook
from adasap.groups.walk import OUTPUT


@dataclass(frozen=True)
class Driver:
    """An integer attribute that sets how many channels a padding creates, and their labels."""

    module: str
    attribute: str
    index: int | None
    labels: Tensor


@dataclass(frozen=True)
class _Units:
    """Connected components that have a producer row.

    Attributes:
        axes: All axes, in the order of forward.
        roots: Label -> component.
        read: (name, dim) of the axes by which channels are read.
        signature: Component -> ((axis index, number of positions), ...).
        reasons: Component -> why it must stay.
        inexact: Those reasons for which it may go, but not exactly.
    """

    axes: tuple[Axis, ...]
    roots: Tensor
    read: set[tuple[str, int]]
    signature: dict[int, tuple[tuple[int, int], ...]]
    reasons: dict[int, frozenset[str]]
    inexact: frozenset[str]


def assemble_groups(book: LabelBook, drivers: Sequence[Driver] = ()) -> tuple[ChannelGroup, ...]:
    """Every unit that some parameter row produces, sorted into groups, in the order of the model's forward.

    Units are alike if they own the same number of positions in the same axes and are frozen for the same
    reasons.
    """
    units = _units(book)
    alike: dict[tuple[object, frozenset[str]], list[int]] = defaultdict(list)
    for unit, signature in units.signature.items():
        alike[signature, units.reasons.get(unit, frozenset())].append(unit)
    rank = torch.full_like(units.roots, -1)
    built = [_group(units, members, rank, drivers) for members in alike.values()]
    built.sort(key=lambda entry: entry[0])
    return _uniquely_named([group for _, group in built])


def _units(book: LabelBook) -> _Units:
    axes, roots = tuple(book.axes.values()), book.roots()
    where = torch.cat([torch.full((axis.size,), i) for i, axis in enumerate(axes)] or [torch.empty(0).long()])
    labels = torch.cat([torch.arange(axis.start, axis.start + axis.size) for axis in axes] or [where])
    produces = torch.tensor([axis.role == "producer" for axis in axes], dtype=torch.bool)
    component = roots[labels]
    has_producer = torch.zeros_like(roots, dtype=torch.bool)
    has_producer[component[produces[where]]] = True
    pairs = torch.stack([component, where])[:, has_producer[component]]
    rows, counts = counted_columns(pairs)
    members, lengths = torch.unique_consecutive(rows[0], return_counts=True)
    entries = iter(zip(rows[1].tolist(), counts.tolist(), strict=True))
    signature = {
        unit: tuple(islice(entries, length)) for unit, length in zip(members.tolist(), lengths.tolist(), strict=True)
    }
    reasons: dict[int, set[str]] = defaultdict(set)
    for frozen, reason in book.frozen:
        for unit in distinct(roots[frozen]).tolist():
            reasons[unit].add(book.reasons[reason])
    return _Units(
        axes,
        roots,
        book.read,
        signature,
        {unit: frozenset(sentences) for unit, sentences in reasons.items()},
        frozenset(book.inexact),
    )


def _group(
    units: _Units, members: list[int], rank: Tensor, drivers: Sequence[Driver]
) -> tuple[tuple[int, int], ChannelGroup]:
    """A group, named after its first producer, and its place in the order of forward."""
    axes = [units.axes[axis] for axis, _ in units.signature[members[0]]]
    axes.sort(key=lambda axis: (axis.role != "producer", axis.start))
    first = axes[0]
    owners = units.roots[first.start : first.start + first.size]
    rank[torch.tensor(members)] = 0
    ordered = dict.fromkeys(owners[rank[owners] == 0].tolist())
    rank[torch.tensor(list(ordered))] = torch.arange(len(ordered))
    slots = [_slot(axis, units.roots, rank, len(ordered)) for axis in axes]
    slots += [
        replace(slot, role="consumer")
        for slot in slots
        if (slot.name, slot.dim) in units.read and slot.role != "consumer"
    ]
    extents = tuple(_extents(drivers, units.roots, rank, len(ordered)))
    rank[torch.tensor(members)] = -1
    reasons = units.reasons.get(members[0], frozenset())
    inexact = tuple(sorted(reasons & units.inexact))
    reasons -= units.inexact
    name = first.name.rpartition(".")[0] or first.name
    group = ChannelGroup(name, len(ordered), tuple(slots), extents, tuple(sorted(reasons)), OUTPUT in reasons, inexact)
    return (first.start, int(slots[0].positions[0, 0])), group


def _slot(axis: Axis, roots: Tensor, rank: Tensor, num_channels: int) -> Slot:
    ranks = rank[roots[axis.start : axis.start + axis.size]]
    positions = (ranks >= 0).nonzero().flatten()
    by_channel = positions[ranks[positions].argsort(stable=True)]
    return Slot(axis.name, axis.dim, axis.role, by_channel.view(num_channels, -1))


def _extents(drivers: Sequence[Driver], roots: Tensor, rank: Tensor, num_channels: int) -> list[Extent]:
    extents = []
    for driver in drivers:
        ranks = rank[roots[driver.labels]]
        counts = torch.bincount(ranks[ranks >= 0], minlength=num_channels)
        if counts.any():
            extents.append(Extent(driver.module, driver.attribute, driver.index, counts))
    return extents


def _uniquely_named(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    seen: dict[str, int] = defaultdict(int)
    named = []
    for group in groups:
        seen[group.name] += 1
        count = seen[group.name]
        named.append(group if count == 1 else replace(group, name=f"{group.name}:{count}"))
    return tuple(named)
