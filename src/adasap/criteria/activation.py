"""Activation statistics: how much, and how often, a channel says anything to the layers that read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from adasap.checks import require_declared
from adasap.criteria.channels import group_means
from adasap.criteria.evidence import collected
from adasap.criteria.gathering import mean_over_inputs, require_readers
from adasap.criteria.protocol import Loss, Need
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class ActivationMean:
    """s_i = mean |activation| of channel i where it is read / mean of that over the group
    (arXiv:1611.06440, section 2.2; the absolute value for nets without ReLU)

    The division makes groups comparable; the paper divides each layer by its norm.
    """

    num_batches: int = 4
    needs: frozenset[Need] = frozenset({"batches"})

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)

    def validate(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Raises ArgumentError, naming the groups, if no layer's input shows a group that can be pruned."""
        require_readers(model, groups, "activation_mean")

    def gather(
        self, model: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[Any], loss: Loss
    ) -> dict[str, Tensor]:
        """Group name -> mean |activation|, float [C], over images, positions and reading layers."""
        return mean_over_inputs(model, groups, batches, loss, lambda seen: seen.abs().mean((0, 2)))

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """The evidence over the mean of its group. Raises ArgumentError when there is none."""
        return group_means(collected(evidence, groups, self))


@dataclass(frozen=True)
class APoZ:
    """s_i = 1 - average percentage of zeros of channel i where it is read    (arXiv:1607.03250)

    Anything not above zero counts as zero: after a ReLU these are the zeros, and for other non-linearities,
    which never give an exact zero, it is what comes nearest. Not normalised: a fraction.
    """

    num_batches: int = 4
    needs: frozenset[Need] = frozenset({"batches"})

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)

    def validate(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Raises ArgumentError, naming the groups, if no layer's input shows a group that can be pruned."""
        require_readers(model, groups, "apoz")

    def gather(
        self, model: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[Any], loss: Loss
    ) -> dict[str, Tensor]:
        """Group name -> fraction above zero, float [C], over images, positions and reading layers."""
        return mean_over_inputs(model, groups, batches, loss, lambda seen: (seen > 0).float().mean((0, 2)))

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """The evidence as it is. Raises ArgumentError when there is none."""
        return collected(evidence, groups, self)
