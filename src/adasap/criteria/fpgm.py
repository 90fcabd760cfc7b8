"""Distance from the other filters of the group: what is close to all others can be replaced by them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.criteria.channels import group_means, named_tensors
from adasap.criteria.protocol import Need
from adasap.errors import ArgumentError
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class FPGM:
    """s_i = sum over j of ||w_i - w_j|| / mean of that sum over the group    (arXiv:1811.00250)

    w_i are the producer rows of channel i, those of all producers of the group joined. A channel with a low
    sum lies near the geometric median of its group, so the others can stand in for it, however large its
    weights are. The paper ranks inside a layer; the division lets groups be ranked together. A group of equal
    rows, or of one channel, scores 0.
    """

    needs: frozenset[Need] = frozenset()

    def score(
        self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None = None
    ) -> dict[str, Tensor]:
        """Group name -> score, float [C]; the mean of a group's scores is 1."""
        tensors = named_tensors(model)
        return group_means({group.name: _distances(producer_rows(group, tensors)).sum(1) for group in groups})


def producer_rows(group: ChannelGroup, tensors: Mapping[str, Tensor]) -> Tensor:
    """All numbers that compute each channel, float [C, D]; D = 0 for a group without producers.

    Raises:
        ArgumentError: If a position lies outside its axis: the group belongs to another model.
    """
    rows = []
    for slot in group.with_role("producer"):
        if slot.name not in tensors:
            continue
        lines = tensors[slot.name].movedim(slot.dim, 0).reshape(tensors[slot.name].shape[slot.dim], -1)
        if slot.positions.numel() and int(slot.positions.max()) >= len(lines):
            raise ArgumentError(
                f"group {group.name!r} does not fit the model: {slot.name} has {len(lines)} entries along axis "
                f"{slot.dim}, the group points at {int(slot.positions.max())}; trace the groups of this model again"
            )
        rows.append(lines[slot.positions.to(lines.device)].flatten(1))
    if not rows:
        return torch.zeros(group.num_channels, 0)
    joined = torch.cat(rows, dim=1)
    return joined.to(torch.promote_types(joined.dtype, torch.float32))


def _distances(rows: Tensor) -> Tensor:
    """||w_i - w_j||, float [C, C], 0 where two rows are equal but for rounding."""
    # the product is ten times as fast as the differences, and in float64 as exact as they are in float32
    wide = rows.to("cpu" if rows.device.type == "mps" else rows.device, torch.float64)
    products = wide @ wide.T
    norms = products.diagonal()
    sums = norms.unsqueeze(0) + norms.unsqueeze(1)
    squares = sums - 2 * products
    return squares.where(squares > 1e-13 * sums, 0.0).sqrt().to(rows)
