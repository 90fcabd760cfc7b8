"""The norm layers of a group: some criteria read only their scales and shifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from adasap.errors import ArgumentError
from adasap.groups.group import ChannelGroup, prunable


def require_norms(groups: Sequence[ChannelGroup], criterion: str, instead: str) -> None:
    """Raises ArgumentError, naming them, if groups that can be pruned have no norm with a scale."""
    missing = [group.name for group in prunable(groups) if next(group.with_role("scale"), None) is None]
    if missing:
        raise ArgumentError(
            f"criterion {criterion!r} reads the scales of norm layers, and these groups have none: "
            f"{', '.join(missing)}; use {instead!r} or keep them whole"
        )


@lru_cache(maxsize=32)
def norm_slots(groups: tuple[ChannelGroup, ...]) -> tuple[ChannelGroup, ...]:
    """The same groups with their norms' scales and shifts alone: a convolution's bias is no norm's shift."""
    result = []
    for group in groups:
        norms = {_module(slot.name) for slot in group.with_role("scale")}
        slots = tuple(slot for slot in group.with_role("scale", "shift") if _module(slot.name) in norms)
        result.append(replace(group, slots=slots))
    return tuple(result)


def _module(name: str) -> str:
    return name.rpartition(".")[0]
