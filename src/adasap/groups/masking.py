"""The mask that a cut must equal: zeros in every slice that reads a removed channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from adasap.groups.cutting import named_tensors, removed_channels
from adasap.groups.group import ChannelGroup


class ChannelMask:
    """The masked entries of a model, looked up once; made anew after every cut.

    Args:
        model: The plain module.
        groups: Its groups.
        kept: Group name -> int64 [k] channels that are not masked; absent groups stay whole.
    Raises:
        PlanError: As `kept_masks`.

    Example:
        >>> from adasap.groups.trace import trace_groups
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.ones_(net[2].weight)
        >>> mask = ChannelMask(net, trace_groups(net, torch.zeros(1, 1)), {"0": torch.tensor([1])})
        >>> with mask.applied():
        ...     net[2].weight.tolist()
        [[0.0, 1.0]]
        >>> net[2].weight.tolist()
        [[1.0, 1.0]]
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> None:
        removed, tensors = removed_channels(groups, kept), named_tensors(model)
        self._entries = [
            (tensor, slot.dim, slot.positions[removed[group.name]].flatten().to(tensor.device))
            for group in groups
            if group.name in removed
            for slot in group.with_role("consumer")
            for tensor in (tensors[slot.name],)
        ]

    @torch.no_grad()
    def zero_(self) -> None:
        """The masked entries become zero, in place."""
        for tensor, dim, index in self._entries:
            tensor.index_fill_(dim, index, 0.0)

    @torch.no_grad()
    def zero_gradients_(self) -> None:
        """The gradients of the masked entries become zero, in place."""
        for tensor, dim, index in self._entries:
            if tensor.grad is not None:
                tensor.grad.index_fill_(dim, index, 0.0)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """`zero_` for a while: the entries are saved and come back bit for bit, also after an error."""
        saved = [tensor.detach().index_select(dim, index) for tensor, dim, index in self._entries]
        try:
            self.zero_()
            yield
        finally:
            with torch.no_grad():
                for (tensor, dim, index), values in zip(self._entries, saved, strict=True):
                    tensor.index_copy_(dim, index, values)


def mask_(model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]) -> None:
    """Zero the removed channels in every consumer slot, in place: the cut model must equal this one.

    Raises:
        PlanError: As `kept_masks`.
    """
    ChannelMask(model, groups, kept).zero_()


def masked(
    model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Tensor]
) -> AbstractContextManager[None]:
    """`mask_` for a while: the zeroed entries are saved and come back bit for bit, also after an error."""
    return ChannelMask(model, groups, kept).applied()
