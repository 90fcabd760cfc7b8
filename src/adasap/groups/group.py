"""The nouns of the library: which numbers belong to a channel, and which channels must go together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Role = Literal["producer", "scale", "shift", "statistic", "consumer"]

Scores = Mapping[str, Tensor]
"""Group name -> importance of each channel, float [C]."""

Radii = Mapping[str, Tensor]
"""Group name -> perturbation radius of each channel, float [C]."""


@dataclass(frozen=True, eq=False)
class Slot:
    """Where the channels of a group stand in one axis of one parameter or buffer.

    Attributes:
        name: Qualified name of the parameter or buffer, as in `model.named_parameters()`.
        dim: The axis.
        role: `producer` (rows that compute the channel), `scale` and `shift` (of a norm; a bias is a shift),
            `statistic` (a running mean or variance), or `consumer` (the input slice that reads the channel).
        positions: int64 [C, K]: channel c owns the K indices `positions[c]` of the axis.
    """

    name: str
    dim: int
    role: Role
    positions: Tensor


@dataclass(frozen=True, eq=False)
class Extent:
    """An integer attribute of a module that shrinks when channels go, such as a count of padded channels.

    Attributes:
        module: Qualified name of the module.
        attribute: Name of the integer attribute, or of a tuple or list of integers.
        index: Place in the tuple, or None for a plain integer.
        counts: int64 [C]: by how much the attribute falls when channel c is removed.
    """

    module: str
    attribute: str
    index: int | None
    counts: Tensor


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that are cut by the same rule: removing channel c removes `positions[c]` from every slot.

    Attributes:
        name: The first producer's parameter name without its last part, such as `layer1.0.conv1`; unique.
        num_channels: C, the number of units that can go one by one.
        slots: All places of the channels, producers first in the order of the model's forward.
        extents: Attributes that fall with the channels.
        frozen: Why the group must stay whole, one sentence each; empty for a group that can be pruned.
        is_output: Whether the channels are an output of the model (a classifier's rows).
        inexact: What sees all channels at once and gives the others another result when one goes, such as
            `LayerNorm in encoder.ln`; empty for exact groups, and always without `allow_inexact`.
    """

    name: str
    num_channels: int
    slots: tuple[Slot, ...]
    extents: tuple[Extent, ...] = ()
    frozen: tuple[str, ...] = ()
    is_output: bool = False
    inexact: tuple[str, ...] = ()

    def with_role(self, *roles: Role) -> Iterator[Slot]:
        """The slots that have one of these roles."""
        return (slot for slot in self.slots if slot.role in roles)


def prunable(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """The groups from which channels may be removed."""
    return tuple(group for group in groups if not group.frozen)


def widths(groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """Group name -> number of channels."""
    return {group.name: group.num_channels for group in groups}


def not_exact(group: ChannelGroup, width: int) -> str:
    """What is not exact about a group of which `width` channels stay; empty if nothing is.

    Example:
        >>> not_exact(ChannelGroup("stem", 48, (), inexact=("LayerNorm in 1", "LayerNorm in 4")), 40)
        'not exact: LayerNorm over 40 of 48 channels'
    """
    if not group.inexact or width == group.num_channels:
        return ""
    kinds = dict.fromkeys(what.partition(" in ")[0] for what in group.inexact)
    return f"not exact: {', '.join(kinds)} over {width} of {group.num_channels} channels"


def fingerprint(groups: Sequence[ChannelGroup]) -> str:
    """SHA-256 over names, widths and every slot: two models share it only if the same plan cuts both."""
    digest = hashlib.sha256()
    for group in groups:
        digest.update(f"{group.name}:{group.num_channels}:{bool(group.frozen)}\n".encode())
        for slot in group.slots:
            digest.update(f"{slot.name}:{slot.dim}:{slot.role}:{tuple(slot.positions.shape)}\n".encode())
            digest.update(slot.positions.contiguous().numpy().tobytes())
        for extent in group.extents:
            digest.update(f"{extent.module}:{extent.attribute}:{extent.index}\n".encode())
            digest.update(extent.counts.contiguous().numpy().tobytes())
    return digest.hexdigest()
