"""First-order Taylor criteria: by how much the loss changes, to first order, when a channel goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from adasap.criteria.channels import ChannelValues, channel_sums, named_gradients, named_tensors, over_axis
from adasap.criteria.evidence import collected
from adasap.criteria.norms import norm_slots, require_norms
from adasap.criteria.protocol import Need
from adasap.groups.group import ChannelGroup, Role, Scores


@dataclass(frozen=True)
class Taylor:
    """s_i = mean over batches of | sum of w * dL/dw over the producer rows of channel i |
    (arXiv:1906.10771)

    The sum is signed inside a batch and over all producers of the group (removing the channel removes all of
    them); the absolute value is taken per batch, because at a minimum the signed mean over batches is zero.
    Not normalised: a change of the loss means the same in every group.
    """

    needs: frozenset[Need] = frozenset({"gradients"})

    def batch_evidence(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """Group name -> |sum of w * g|, float [C], g from `.grad`; parameters without one count 0."""
        return _absolute_products(model, groups, ("producer",))

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """The evidence as it is. Raises ArgumentError when there is none."""
        return collected(evidence, groups, self)


@dataclass(frozen=True)
class TaylorNorm:
    """s_i = mean over batches of | sum of gamma * dL/dgamma + beta * dL/dbeta over the norms of channel i |

    For a channel with one norm this is the gate form of arXiv:1906.10771 for a gate right after the norm;
    HALP (arXiv:2110.10811) adds the norms of a group before the absolute value, as here. Not normalised.
    """

    norm_gradients: ClassVar[bool] = True
    needs: frozenset[Need] = frozenset({"gradients"})

    def validate(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Raises ArgumentError, naming the groups, if a group that can be pruned has no norm."""
        require_norms(groups, "taylor_norm", "taylor")

    def batch_evidence(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """Group name -> |sum of gamma * g + beta * g|, float [C], of the gradients in `.grad`."""
        self.validate(model, groups)
        return _absolute_products(model, norm_slots(tuple(groups)), ("scale", "shift"))

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """The evidence as it is. Raises ArgumentError when there is none."""
        return collected(evidence, groups, self)


def _absolute_products(model: nn.Module, groups: Sequence[ChannelGroup], roles: tuple[Role, ...]) -> dict[str, Tensor]:
    sums = gradient_sums(model, groups, roles, lambda products: products)
    sums.flat.abs_()
    return sums.by_group()


def gradient_sums(
    model: nn.Module, groups: Sequence[ChannelGroup], roles: tuple[Role, ...], of: Callable[[Tensor], Tensor]
) -> ChannelValues:
    """Sum of `of(w * g)` over the entries of each channel in slots of these roles, g from `.grad`.

    Raises:
        ArgumentError: If no parameter has a gradient.
    """
    tensors, gradients = named_tensors(model), named_gradients(model)

    def along(name: str, dim: int) -> Tensor:
        wide = torch.promote_types(tensors[name].dtype, torch.float32)
        return over_axis(torch.sum, of(tensors[name].to(wide) * gradients[name].to(wide)), dim)

    return channel_sums(groups, roles, gradients, along)
