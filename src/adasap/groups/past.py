"""What became of a model: how it was built and what was cut from it; the groups carry it, and so does the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from adasap.groups.bare import unwrap
from adasap.groups.group import ChannelGroup

_PLACE = "_adasap_past"


@dataclass(frozen=True, eq=False)
class Past:
    """How a model was built, and what was cut from it since; never changed, so copies of a model share it.

    Attributes:
        spec: How the dense model was built (a `ModelSpec`), if that is known.
        input_size: Shape of the image that the dense model was traced with, without the batch, if it was one.
        dense: The groups of the dense model; none if it was not traced yet.
        kept: Group name -> int64 [k], what all cuts together left, in the dense model's indices; absent: whole.
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
    now: tuple[ChannelGroup, ...] = ()
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    strange: frozenset[str] = frozenset()
    lost: str = ""
    plain_weights: bool = False

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    @property
    def is_cut(self) -> bool:
        """Whether any channel has gone."""
        widths = {group.name: group.num_channels for group in self.dense}
        return bool(self.lost) or any(len(kept) < widths[name] for name, kept in self.kept.items())

    def then(self, kept: Mapping[str, Tensor], now: tuple[ChannelGroup, ...]) -> Past:
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
        return replace(self, kept=composed, now=now, lost=lost)


class Groups(tuple[ChannelGroup, ...]):
    """Channel groups that remember their past: a tuple, with `past` beside its items."""

    past: Past

    def __new__(cls, groups: Iterable[ChannelGroup] = (), past: Past | None = None) -> Self:
        made = super().__new__(cls, groups)
        made.past = Past() if past is None else past
        return made


def past_of(model: nn.Module) -> Past:
    """What the model inside any wrappers remembers of itself; nothing, unless `open_model`, `load` or a cut said so."""
    found = getattr(unwrap(model), _PLACE, None)
    return found if isinstance(found, Past) else Past()


def remember(model: nn.Module, past: Past) -> None:
    """Writes its past down on the model inside any wrappers; copies of the model keep it."""
    setattr(unwrap(model), _PLACE, past)


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
