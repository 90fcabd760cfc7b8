"""Which integer attributes may have set an extent along the channels of a group, such as a number of heads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations, islice

import torch
from torch import Tensor, nn

from adasap.groups.group import ChannelGroup, Extent
from adasap.groups.shape_attributes import Attribute, counts_of
from adasap.groups.walk import Walked

Kind = tuple[type[nn.Module], str, int | None]
"""An attribute of all modules of a class, with its place in a tuple."""

MAX_CHOICES = 24
"""Sets of attributes that are tried for one group; most are found by the first."""
MAX_FAILURES = 2
"""Groups of one likeness that are tried in vain: the others are not tried, as in the blocks of a deep network."""

Fits = Callable[[ChannelGroup], bool]
"""Whether the model survives a cut of this group."""


class Adapter:
    """Finds, by trial, the smallest set of attributes that must fall with a group's channels.

    Candidates are the integers of the modules around a call that equal one of its extents, first those of the
    innermost module that has any. All are changed together, then one by one, all but one, and in pairs, as one may be
    a number of another kind that has the same value by chance; what need not change is left alone. What was found for
    one module is taken for the others of its class, and what helped none of `MAX_FAILURES` groups for no other one that
    has the same candidates and is made and read by modules of the same classes.
    """

    def __init__(self, model: nn.Module, walked: Walked) -> None:
        self.model, self.walked = model, walked
        self.verdicts: dict[Kind, bool] = {}
        self.failures: Counter[object] = Counter()
        self._found: dict[tuple[int, bool], tuple[ChannelGroup, list[Extent]]] = {}

    def adapted(self, group: ChannelGroup, fits: Fits) -> ChannelGroup | None:
        """The group with the extents it needs, or None if none of them help."""
        choices = list(self._choices(group))
        likeness = self._likeness(group, choices)
        if self.failures[likeness] == MAX_FAILURES:
            return None
        for chosen in choices:
            extents = [*group.extents, *chosen]
            if fits(replace(group, extents=tuple(extents))):
                for extent in chosen:
                    extents = self._without(group, extents, extent, fits)
                return replace(group, extents=tuple(extents)) if len(extents) > len(group.extents) else None
        self.failures[likeness] += 1
        return None

    def _likeness(self, group: ChannelGroup, choices: Sequence[tuple[Extent, ...]]) -> object:
        """What two groups share of which no choice helps the one if it does not help the other."""
        classes = {
            (slot.role, slot.dim, type(self.model.get_submodule(slot.name.rpartition(".")[0]))) for slot in group.slots
        }
        return frozenset(classes), tuple(tuple(self._kind(extent) for extent in chosen) for chosen in choices)

    def _choices(self, group: ChannelGroup) -> Iterator[tuple[Extent, ...]]:
        """Sets of candidates in the order in which they are tried; each once, and no more than MAX_CHOICES."""
        candidates, outer = tuple(self._candidates(group)), tuple(self._candidates(group, outer=True))
        likely = tuple(extent for extent in candidates if self.verdicts.get(self._kind(extent), True))
        several = [(likely, candidates), *(_some(found) for found in dict.fromkeys((candidates, outer)))]
        by_name = {_names(chosen): chosen for chosen in chain.from_iterable(several) if chosen}
        yield from islice(by_name.values(), MAX_CHOICES)

    def likened(self, group: ChannelGroup) -> ChannelGroup:
        """The group with those extents that others were found to need of modules of the same class."""
        known = [extent for extent in self._candidates(group) if self.verdicts.get(self._kind(extent), False)]
        return replace(group, extents=(*group.extents, *known)) if known else group

    def _without(self, group: ChannelGroup, extents: list[Extent], extent: Extent, fits: Fits) -> list[Extent]:
        kind = self._kind(extent)
        if self.verdicts.get(kind):
            return extents
        others = [other for other in extents if other is not extent]
        needed = not fits(replace(group, extents=tuple(others)))
        self.verdicts[kind] = needed
        return extents if needed else others

    def _kind(self, extent: Extent) -> Kind:
        return type(self.model.get_submodule(extent.module)), extent.attribute, extent.index

    def _candidates(self, group: ChannelGroup, *, outer: bool = False) -> list[Extent]:
        """As `_looked_for`; looked for once for each group."""
        key = id(group), outer
        if key not in self._found:
            self._found[key] = group, list(self._looked_for(group, outer))
        return self._found[key][1]

    def _looked_for(self, group: ChannelGroup, outer: bool) -> Iterator[Extent]:
        """Attributes that equal an extent, innermost modules first, with how far each channel lowers them.

        Args:
            group: Whose channels stand along the extents.
            outer: Look at all modules around a call, and not only at the innermost that has such an attribute.
        """
        ranks = _ranks(self.walked, group)
        seen = {(extent.module, extent.attribute, extent.index) for extent in group.extents}
        for bound in self.walked.notes.bounds:
            rows = ranks[bound.labels.clamp(min=0)]
            whole = rows[(rows[:, 0] >= 0) & (rows == rows[:, :1]).all(1), 0]
            if not len(whole):
                continue
            counts = torch.bincount(whole, minlength=group.num_channels)
            for attribute in self._equal(bound.owners, len(rows), outer):
                key = (attribute.module, attribute.name, attribute.index)
                if key not in seen:
                    seen.add(key)
                    yield Extent(*key, counts)

    def _equal(self, owners: Sequence[str], value: int, outer: bool) -> list[Attribute]:
        found: list[Attribute] = []
        for owner in owners:
            found += [attribute for attribute in counts_of(self.model, [owner]) if attribute.value == value]
            if found and not outer:
                break
        return found


def _some(candidates: tuple[Extent, ...]) -> Iterator[tuple[Extent, ...]]:
    """One by one, all but one, in pairs, all."""
    count = len(candidates)
    sizes = dict.fromkeys(size for size in (1, count - 1, 2, count) if 0 < size <= count)
    return chain.from_iterable(combinations(candidates, size) for size in sizes)


def _names(extents: Sequence[Extent]) -> frozenset[tuple[str, str, int | None]]:
    return frozenset((extent.module, extent.attribute, extent.index) for extent in extents)


def _ranks(walked: Walked, group: ChannelGroup) -> Tensor:
    """Label -> channel of the group, -1 for labels of other groups and for none."""
    roots = walked.book.roots()
    of_root = torch.full_like(roots, -1)
    for slot in group.slots:
        start = walked.book.axes[slot.name, slot.dim].start
        channels = torch.arange(group.num_channels).unsqueeze(1).expand_as(slot.positions)
        of_root[roots[start + slot.positions]] = channels
    return of_root[roots]
