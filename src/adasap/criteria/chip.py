"""Channel independence: how much of a layer's feature maps is lost with one of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adasap.checks import require_declared
from adasap.criteria.channels import group_means
from adasap.criteria.evidence import collected
from adasap.criteria.gathering import mean_over_inputs, require_readers
from adasap.criteria.protocol import Loss, Need
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup, Scores

MOST_NUMBERS = 2**22
"""Numbers in the matrices whose eigenvalues are taken at once: 32 MiB."""


@dataclass(frozen=True)
class CHIP:
    """s_i = mean over images of ||A||_* - ||A with row i set to zero||_* / mean of that over the group
    (arXiv:2110.13981)

    A [C, L] holds the feature maps of one image, one row per channel, where they are read, after norms and
    non-linearities; ||.||_* is the nuclear norm. A row that the others can express takes little of it along.
    The paper ranks inside a layer; the division lets groups be ranked together.

    Attributes:
        num_batches: Batches to look at.
        num_images: Images of each batch that are used; the cost is in proportion.
    Raises:
        RecipeError: Unless there is at least one image.
    """

    num_batches: int = 1
    num_images: int = 16
    needs: frozenset[Need] = frozenset({"batches"})

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        if self.num_images < 1:
            raise RecipeError(f"num_images is {self.num_images}; give 1 or more, such as 16")

    def validate(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        """Raises ArgumentError, naming the groups, if no layer's input shows a group that can be pruned."""
        require_readers(model, groups, "chip")

    def gather(
        self, model: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[Any], loss: Loss
    ) -> dict[str, Tensor]:
        """Group name -> independence, float [C], mean over images and reading layers."""
        return mean_over_inputs(model, groups, batches, loss, lambda seen: independence(seen[: self.num_images]))

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None) -> dict[str, Tensor]:
        """The evidence over the mean of its group. Raises ArgumentError when there is none."""
        return group_means(collected(evidence, groups, self))


def independence(maps: Tensor) -> Tensor:
    """Mean over images of how far the nuclear norm falls when a channel's row is set to zero.

    Args:
        maps: Feature maps, float [N, C, L].
    Returns:
        float [C], not negative.
    Example:
        >>> independence(torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]))  # rows at right angles: their norms
        tensor([3., 4.])
        >>> independence(torch.tensor([[[3.0, 0.0], [4.0, 0.0]]]))  # parallel rows: 5 - 4 and 5 - 3
        tensor([1., 2.])
    """
    # squares of singular values: in float32 their roots would be off by a thousandth of the largest
    wide = maps.to("cpu" if maps.device.type == "mps" else maps.device, torch.float64)
    falls = torch.stack([_falls(image) for image in wide])
    return falls.mean(0).clamp_min(0).to(maps)


def _falls(rows: Tensor) -> Tensor:
    """||A||_* - ||A without row i||_*, float [C], for one image [C, L]."""
    channels, positions = rows.shape
    whole = _nuclear(rows @ rows.T if channels <= positions else rows.T @ rows)
    at_once = max(1, MOST_NUMBERS // min(channels, positions) ** 2)
    parts = [_nuclear(_without(rows, index)) for index in torch.split(torch.arange(channels), at_once)]
    return whole - torch.cat(parts)


def _without(rows: Tensor, index: Tensor) -> Tensor:
    """The smaller one of A A^T and A^T A without each of these rows, float [len(index), m, m]."""
    if len(rows) <= rows.shape[1]:
        there = torch.ones(len(index), len(rows), dtype=rows.dtype, device=rows.device)
        there[torch.arange(len(index)), index] = 0
        return (rows @ rows.T) * there.unsqueeze(1) * there.unsqueeze(2)
    gone = rows[index.to(rows.device)]
    return rows.T @ rows - gone.unsqueeze(1) * gone.unsqueeze(2)


def _nuclear(squares: Tensor) -> Tensor:
    """Sum of singular values, from the symmetric matrices of their squares [..., m, m]."""
    eigenvalues: Tensor = torch.linalg.eigvalsh(squares)
    return eigenvalues.clamp_min(0).sqrt().sum(-1)
