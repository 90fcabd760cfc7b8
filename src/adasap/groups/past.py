"""What became of a model: how it was built and what was cut from it; the groups carry it, and so does the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from adasap.groups.bare import unwrap
from adasap.groups.group import ChannelGroup
from adasap.groups.stand_ins import Branch, Removed

_PLACE = "_adasap_past"


@dataclass(frozen=True, eq=False)
class Past:
    """How a model was built, and what was cut from it since; never changed, so copies of a model share it.

    Attributes:
        spec: How the dense model was built (a `ModelSpec`), if that is known.
        input_size: Shape of the image that the dense model was traced with, without the batch, if it was one.
        dense: The groups of the dense model; none if it was not traced yet.
        kept: Group name -> int64 [k], what all cuts together left, in the dense model's indices; absent: whole.
        removed: Modules that were taken out, and what stands in their places.
        now: The groups of the model as it is.
        shapes: Name -> shape of the dense model's parameters and buffers.
        strange: Names of groups that were found anew after a cut and are none of the dense model's.
        lost: Why the cuts cannot be told in the dense model's indices any more; empty if they can.
        plain_weights: Whether `materialise_weights_` replaced weights that were computed from others.
    """

    spec: Any = None
    input_size: tuple[int, ...] | None = None
    dense: tuple[ChannelGroup, ...] = ()
    kept: Mapping[str, Tensor] = field(default_factory=dict)
    removed: Removed = field(default_factory=dict)
    now: tuple[ChannelGroup, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    strange: frozenset[str] = frozenset()
    lost: str = ""
    plain_weights: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def is_cut(self) -> bool:
        """Whether any channel or branch has gone."""
        widths = {group.name: group.num_channels for group in self.dense}
        return bool(self.lost or self.removed) or any(len(kept) < widths[name] for name, kept in self.kept.items())

    def then(self, kept: Mapping[str, Tensor], now: tuple[ChannelGroup, ...], removed: Removed | None = None) -> Past:
        """After another cut: `kept` in the indices of the groups before it, `now` the groups after it."""
        whole = {group.name: group.num_channels for group in self.dense}
        before = {group.name: group.num_channels for group in self.now}
        composed, lost = dict(self.kept), self.lost
        for name, indices in kept.items():
            if name in self.strange or name not in whole:
                if len(indices) < before[name]:
                    lost = f"group {name!r} was found anew after a cut and is none of the dense model's"
                continue
            composed[name] = composed.get(name, torch.arange(whole[name]))[indices]
        return replace(self, kept=composed, removed={**self.removed, **(removed or {})}, now=now, lost=lost)


class Groups(tuple[ChannelGroup, ...]):
    """Channel groups that remember their past: a tuple, with `past` and `branches` beside its items.

    Attributes:
        past: How the model was built and cut.
        branches: Residual branches that can be taken out whole; none unless they were looked for.
    """

    past: Past
    branches: tuple[Branch, ...]

    def __new__(
        cls, groups: Iterable[ChannelGroup] = (), past: Past | None = None, branches: Sequence[Branch] = ()
    ) -> Self:
        made = super().__new__(cls, groups)
        made.past = Past() if past is None else past
        made.branches = tuple(branches)
        return made


def branches_of(groups: Sequence[ChannelGroup]) -> tuple[Branch, ...]:
    """The branches that groups carry; none of a plain tuple."""
    return groups.branches if isinstance(groups, Groups) else ()


def removed_before(groups: Sequence[ChannelGroup]) -> Removed:
    """The modules that were taken out before, as far as the groups know."""
    return groups.past.removed if isinstance(groups, Groups) else {}


def past_of(model: nn.Module) -> Past:
    """What the model inside any wrappers remembers of itself; nothing, unless `open_model`, `load` or a cut said so."""
    found = getattr(unwrap(model), _PLACE, None)
    return found if isinstance(found, Past) else Past()


def remember(model: nn.Module, past: Past) -> None:
    """Writes its past down on the model inside any wrappers; copies of the model keep it."""
    setattr(unwrap(model), _PLACE, past)


def forget(model: nn.Module) -> None:
    """Takes its past off the model inside any wrappers, such as for files that are to hold nothing of adasap's."""
    vars(unwrap(model)).pop(_PLACE, None)


def past_with(model: nn.Module, groups: Sequence[ChannelGroup], input_size: tuple[int, ...] | None = None) -> Past:
    """The past that belongs to groups of this model: what they carry, else what the model remembers.

    Groups that were found anew in a model that had been cut are joined with those of the dense model by name and slots.
    """
    if isinstance(groups, Groups) and groups.past.dense:
        return groups.past
    known = past_of(model)
    if known.dense:
        return _rejoined(known, tuple(groups))
    shapes = {name: tuple(tensor.shape) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    return replace(known, input_size=input_size, dense=tuple(groups), now=tuple(groups), shapes=shapes)


def _rejoined(past: Past, found: tuple[ChannelGroup, ...]) -> Past:
    """The past of groups that a later tracing found, perhaps with others to keep whole."""
    before = {group.name: group for group in past.now}
    same = {group.name: group for group in found if group.name in before and _same(group, before[group.name])}

    def freed(group: ChannelGroup) -> ChannelGroup:
        free = group.name in same and not same[group.name].frozen
        return replace(group, frozen=()) if free and group.frozen else group

    strange = frozenset(group.name for group in found if group.name not in same)
    return replace(past, dense=tuple(map(freed, past.dense)), now=found, strange=strange)


def _same(one: ChannelGroup, other: ChannelGroup) -> bool:
    mine, theirs = ({(s.name, s.dim, s.role): s.positions for s in group.slots} for group in (one, other))
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)
