"""Layer-adaptive magnitude: how much of what would still be there a channel makes up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.criteria.channels import channel_sums, named_tensors, over_axis
from adasap.criteria.protocol import Need
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class LAMP:
    """s_i = n_i / sum of n_j over the channels j with n_j >= n_i    (arXiv:2010.07611, for channels)

    n_i is the squared norm of the producer rows of channel i over all producers of the group, in place of the
    paper's squared weight. Inside a group the order is that of `l2`; between groups the score says what share
    of the group would be lost if everything below had gone already, so no group is emptied: a group's largest
    channel has 1. Equal channels score alike, each counted with the others. A group of zeros scores 0.
    """

    needs: frozenset[Need] = frozenset()

    def score(
        self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None = None
    ) -> dict[str, Tensor]:
        """Group name -> score in [0, 1], float [C]."""
        tensors = named_tensors(model)

        def squared_norms(name: str, dim: int) -> Tensor:
            return over_axis(torch.linalg.vector_norm, tensors[name], dim).square_()

        sums = channel_sums(groups, ("producer",), tensors, squared_norms)
        return {name: lamp_scores(values) for name, values in sums.by_group().items()}


def lamp_scores(squares: Tensor) -> Tensor:
    """Each of the numbers over the sum of those that are at least as large.

    Args:
        squares: float [C], not negative.
    Returns:
        float [C] in [0, 1]; zeros stay zeros.
    Example:
        >>> lamp_scores(torch.tensor([1.0, 4.0, 3.0]))
        tensor([0.1250, 1.0000, 0.4286])
    """
    rising, order = squares.sort()
    at_least = rising.flip(0).cumsum(0).flip(0)
    first_equal = torch.searchsorted(rising, rising)  # equal numbers share the largest of their sums
    scores = rising / at_least[first_equal].clamp_min(torch.finfo(squares.dtype).tiny)
    return torch.empty_like(scores).index_copy_(0, order, scores)
