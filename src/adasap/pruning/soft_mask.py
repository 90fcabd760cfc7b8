"""Channels that are masked for now and may come back at a later pruning event."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import nn

from adasap.groups.group import ChannelGroup
from adasap.groups.masking import ChannelMask
from adasap.pruning.plan import PruningPlan


class SoftMask:
    """What a plan would remove is masked in every pass; the dense weights are kept and trained    (arXiv:2211.02206)

    Masked is what the cut would be: zeros in every slice that reads the channel. The gradient at the masked
    weights goes straight through to the dense ones, so the slices that read a masked channel keep learning,
    while everything that is not masked is trained as in the cut model.

    Args:
        model: The plain module, dense.
        groups: Its groups.
        plan: What stays of them.
    Raises:
        PlanError: If the plan does not fit the groups.

    Example:
        >>> from adasap.groups.trace import trace_groups
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> groups = trace_groups(net, torch.zeros(1, 1))
        >>> mask = SoftMask(net, groups, PruningPlan.of(groups, {"0": [1]}))
        >>> with mask.applied():
        ...     net(torch.ones(1, 1)).sum().backward()
        >>> bool((net[2].weight.grad == net[0](torch.ones(1, 1)).relu()).all())
        True
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> None:
        self.plan = plan
        self._mask = ChannelMask(model, groups, plan.kept)

    def applied(self) -> AbstractContextManager[None]:
        """For one pass, forward and backward: the masked entries are zero inside, and dense again afterwards."""
        return self._mask.applied()

    def forget_gradients_(self) -> None:
        """Zero gradients for the masked entries, before an ascent: moving them would change no loss, but take
        a part of the radius."""
        self._mask.zero_gradients_()

    @property
    def num_masked(self) -> int:
        """Channels that are masked."""
        return sum(self.plan.num_channels.values()) - sum(self.plan.widths().values())

    def returning(self, plan: PruningPlan) -> int:
        """How many of the masked channels another plan of the same groups keeps."""
        return sum(int((~torch.isin(kept, self.plan.kept[name])).sum()) for name, kept in plan.kept.items())
