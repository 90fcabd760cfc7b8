"""Which integer attributes may have set an extent along the channels of a group, such as a number of heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from adasap.groups.group import ChannelGroup, Extent
from adasap.groups.shape_attributes import Attribute, counts_of
from adasap.groups.walk import Walked

Kind = tuple[type[nn.Module], str, int | None]
"""An attribute of all modules of a class, with its place in a tuple."""

Fits = Callable[[ChannelGroup], bool]
"""Whether the model survives a cut of this group."""


class Adapter:
    """Finds, by trial, the smallest set of attributes that must fall with a group's channels.

    Candidates are the integers of the modules around a call that equal one of its extents. An attribute that need
    not change is left alone: it may be a number of another kind that has the same value by chance. What was found
    for one module is taken for the others of its class.
    """

    def __init__(self, model: nn.Module, walked: Walked) -> None:
        self.model, self.walked = model, walked
        self.verdicts: dict[Kind, bool] = {}

    def adapted(self, group: ChannelGroup, fits: Fits) -> ChannelGroup | None:
        """The group with the extents it needs, or None if none of them help."""
        extents = [*group.extents, *self._candidates(group)]
        if len(extents) == len(group.extents):
            return None
        likely = [extent for extent in extents if self.verdicts.get(self._kind(extent), True)]
        if len(likely) < len(extents) and fits(replace(group, extents=tuple(likely))):
            extents = likely
        elif not fits(replace(group, extents=tuple(extents))):
            return None
        for extent in extents[len(group.extents) :]:
            extents = self._without(group, extents, extent, fits)
        return replace(group, extents=tuple(extents)) if len(extents) > len(group.extents) else None

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

    def _candidates(self, group: ChannelGroup) -> Iterator[Extent]:
        """Attributes that equal an extent, innermost modules first, with how far each channel lowers them."""
        ranks = _ranks(self.walked, group)
        seen = {(extent.module, extent.attribute, extent.index) for extent in group.extents}
        for bound in self.walked.notes.bounds:
            rows = ranks[bound.labels.clamp(min=0)]
            whole = rows[(rows[:, 0] >= 0) & (rows == rows[:, :1]).all(1), 0]
            if not len(whole):
                continue
            counts = torch.bincount(whole, minlength=group.num_channels)
            for attribute in self._equal(bound.owners, len(rows)):
                key = (attribute.module, attribute.name, attribute.index)
                if key not in seen:
                    seen.add(key)
                    yield Extent(*key, counts)

    def _equal(self, owners: Sequence[str], value: int) -> list[Attribute]:
        for owner in owners:
            found = [attribute for attribute in counts_of(self.model, [owner]) if attribute.value == value]
            if found:
                return found
        return []


def _ranks(walked: Walked, group: ChannelGroup) -> Tensor:
    """Label -> channel of the group, -1 for labels of other groups and for none."""
    roots = walked.book.roots()
    of_root = torch.full_like(roots, -1)
    for slot in group.slots:
        start = walked.book.axes[slot.name, slot.dim].start
        channels = torch.arange(group.num_channels).unsqueeze(1).expand_as(slot.positions)
        of_root[roots[start + slot.positions]] = channels
    return of_root[roots]
