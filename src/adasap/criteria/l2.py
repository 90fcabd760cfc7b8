"""L2 norm of the weights that compute a channel: the default criterion, and the radius score psi."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.criteria.channels import channel_sums, named_tensors, over_axis
from adasap.criteria.protocol import Need
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class L2:
    """s_i = ||producer rows of channel i|| / root mean square of that norm over the group.

    The rows of all producers of the group count together, so a channel of a residual stream is as important
    as all layers that write it. Division by the group makes groups comparable and cancels their scale; a
    group of zeros scores 0 throughout.
    """

    needs: frozenset[Need] = frozenset()

    def score(
        self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None = None
    ) -> dict[str, Tensor]:
        """Group name -> score, float [C]; the mean square of a group's scores is 1."""
        tensors = named_tensors(model)

        def squared_norms(name: str, dim: int) -> Tensor:
            return over_axis(torch.linalg.vector_norm, tensors[name], dim).square_()

        sums = channel_sums(groups, ("producer",), tensors, squared_norms)
        sums.flat.sqrt_()
        return sums.over_group_mean(2).by_group()
