"""The mask that a cut must equal: zeros in every slice that reads a removed channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from adasap.groups.cutting import named_tensors, removed_channels
from adasap.groups.group import ChannelGroup


def mask_(model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> None:
    """Zero the removed channels in every consumer slot, in place: the cut model must equal this one.

    Raises:
        PlanError: As `kept_masks`.
    """
    for tensor, dim, index in _consumer_entries(model, groups, kept):
        with torch.no_grad():
            tensor.index_fill_(dim, index, 0.0)


@contextmanager
def masked(model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> Iterator[None]:
    """`mask_` for a while: the zeroed entries are saved and come back bit for bit, also after an error."""
    entries = _consumer_entries(model, groups, kept)
    saved = [tensor.detach().index_select(dim, index) for tensor, dim, index in entries]
    try:
        mask_(model, groups, kept)
        yield
    finally:
        with torch.no_grad():
            for (tensor, dim, index), values in zip(entries, saved, strict=True):
                tensor.index_copy_(dim, index, values)


def _consumer_entries(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]
) -> list[tuple[Tensor, int, Tensor]]:
    removed = removed_channels(groups, kept)
    tensors = named_tensors(model)
    return [
        (
            tensors[slot.name],
            slot.dim,
            slot.positions[removed[group.name]].flatten().to(tensors[slot.name].device),
        )
        for group in groups
        if group.name in removed
        for slot in group.with_role("consumer")
    ]
