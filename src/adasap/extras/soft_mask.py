"""Channels that are masked for now and may come back at a later pruning event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from adasap.criteria import Criterion, ReadingSide
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup
from adasap.groups.masking import ChannelMask
from adasap.pruning.options import PruningOptions
from adasap.pruning.plan import PruningPlan
from adasap.pruning.protocols import Preparation


@dataclass
class SoftMasks(Preparation):
    """`prepare: {kind: soft_masks}` of a recipe: all events but the last mask channels in place of removing them, and
    those may come back    (SMCP, arXiv:2211.02206)

    Attributes:
        mask: What is masked now.
    """

    holds = True

    def __post_init__(self) -> None:
        self.mask: SoftMask | None = None

    def check(self, options: PruningOptions) -> None:
        """There must be an event before the last."""
        if options.events == 1 or options.schedule == "one_shot":
            raise RecipeError(
                "pruning.prepare.kind soft_masks masks at all events but the last, and there is only one; give "
                "pruning.events of at least 2 with schedule exponential, cubic or linear"
            )

    def validate(self, num_events: int) -> None:
        """There must be an event before the last."""
        if num_events == 1:
            raise RecipeError(
                "pruning.prepare.kind soft_masks needs two events, but only one fits into the window; give a larger "
                "pruning.epochs or a smaller pruning.every"
            )

    def criterion(self, criterion: Criterion) -> Criterion:
        """It is asked about the slices that read a channel: producer rows of masked ones get no gradient."""
        return ReadingSide(criterion)

    def applied(self) -> AbstractContextManager[None]:
        """Masks for one pass."""
        return nullcontext() if self.mask is None else self.mask.applied()

    def before_ascent_(self) -> None:
        """Masked entries take no part in an ascent."""
        if self.mask is not None:
            self.mask.forget_gradients_()

    def hold_(self, model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> None:
        """Masks what the plan would remove."""
        self.mask = SoftMask(model, groups, plan)

    def release(self) -> None:
        """Ends all masking."""
        self.mask = None

    @property
    def num_held(self) -> int:
        """Channels that are masked."""
        return 0 if self.mask is None else self.mask.num_masked

    def returning(self, plan: PruningPlan) -> int:
        """How many of the masked channels another plan of the same groups keeps."""
        return 0 if self.mask is None else self.mask.returning(plan)

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Inside nothing is masked."""
        mask, self.mask = self.mask, None
        try:
            yield
        finally:
            self.mask = mask

    def state(self) -> Any:
        """The plan of the mask."""
        return None if self.mask is None else self.mask.plan.to_json()

    def load(self, state: Any, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """The mask of a plan."""
        self.mask = None if state is None else SoftMask(model, groups, PruningPlan.from_json(state))


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
