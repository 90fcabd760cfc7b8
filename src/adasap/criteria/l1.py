"""Sum of the absolute weights that compute a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.criteria.channels import channel_sums, named_tensors, over_axis
from adasap.criteria.protocol import Need
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class L1:
    """s_i = sum |w| over the producer rows of channel i / mean of that sum over the group
    (arXiv:1608.08710)

    The division makes groups comparable in a ranking over the model; a group of zeros scores 0 throughout.
    """

    needs: frozenset[Need] = frozenset()

    def score(
        self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None = None
    ) -> dict[str, Tensor]:
        """Group name -> score, float [C]; the mean of a group's scores is 1."""
        tensors = named_tensors(model)

        def absolute_sums(name: str, dim: int) -> Tensor:
            return over_axis(_sum_of_absolutes, tensors[name], dim)

        return channel_sums(groups, ("producer",), tensors, absolute_sums).over_group_mean(1).by_group()


def _sum_of_absolutes(tensor: Tensor, dim: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return tensor.abs().sum(dim=dim, dtype=dtype)  # three times as fast as vector_norm(ord=1) on a CPU
