"""Any criterion, asked about the slices that read a channel in place of the rows that compute it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from adasap.criteria.protocol import Criterion, GatheringCriterion, GradientCriterion, Loss, Need
from adasap.criteria.registry import validate_criterion
from adasap.groups.group import ChannelGroup, Scores


def reading_side(groups: Sequence[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """The same groups, in which the slices that read a channel stand where its producer rows stood.

    A group that nothing reads keeps its producers. Norms' scales, shifts and statistics stay. For scoring
    only: these groups cannot be cut. The same groups give the same objects again.

    Example:
        >>> from adasap.groups.trace import trace_groups
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> hidden = reading_side(trace_groups(net, torch.zeros(1, 3)))[0]
        >>> [(slot.name, slot.dim) for slot in hidden.with_role("producer")]
        [('2.weight', 1)]
    """
    return _reading_side(tuple(groups))


@lru_cache(maxsize=8)
def _reading_side(groups: tuple[ChannelGroup, ...]) -> tuple[ChannelGroup, ...]:
    return tuple(map(_turned, groups))


def _turned(group: ChannelGroup) -> ChannelGroup:
    readers = tuple(replace(slot, role="producer") for slot in group.with_role("consumer"))
    others = tuple(slot for slot in group.slots if slot.role != "producer")
    return replace(group, slots=(*readers, *others)) if readers else group


@dataclass(frozen=True)
class ReadingSide:
    """A criterion of the slices that read a channel: of its input side    (arXiv:2211.02206)

    What the criterion says about producer rows it says about these. While a channel is masked its producer
    rows get no gradient, but its readers do, straight through the mask.

    Attributes:
        criterion: The one that is asked.
    """

    criterion: Criterion

    @property
    def needs(self) -> frozenset[Need]:
        """As the criterion."""
        return self.criterion.needs

    @property
    def num_batches(self) -> int:
        """As the criterion; 1 for one that looks at none."""
        return int(getattr(self.criterion, "num_batches", 1))

    def validate(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Raises what `validate_criterion` raises for the criterion."""
        validate_criterion(self.criterion, model, reading_side(groups))

    def batch_evidence(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """The criterion's evidence of the readers' gradients, float [C]."""
        assert isinstance(self.criterion, GradientCriterion)
        return self.criterion.batch_evidence(model, reading_side(groups))

    def gather(
        self, model: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[Any], loss: Loss
    ) -> dict[str, Tensor]:
        """What the criterion gathers on the batches, float [C]."""
        assert isinstance(self.criterion, GatheringCriterion)
        return self.criterion.gather(model, reading_side(groups), batches, loss)

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """Group name -> the criterion's score, float [C]."""
        return self.criterion.score(model, reading_side(groups), evidence)
