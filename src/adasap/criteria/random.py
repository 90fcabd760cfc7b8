"""Random scores: the floor that every other criterion has to beat."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from adasap.checks import require_declared
from adasap.criteria.protocol import Need
from adasap.errors import RecipeError
from adasap.groups.group import ChannelGroup, Scores


@dataclass(frozen=True)
class Random:
    """s_i uniform in [0, 1), drawn from the seed and the present widths alone.

    So the draw is new after every cut, needs no state to resume, and leaves torch's own generators alone.
    """

    seed: int = 0
    needs: frozenset[Need] = frozenset()

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)

    def score(
        self, model: nn.Module, groups: Sequence[ChannelGroup], evidence: Scores | None = None
    ) -> dict[str, Tensor]:
        """Group name -> draws, float32 [C], on the model's device."""
        key = repr((self.seed, [(group.name, group.num_channels) for group in groups]))
        generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1)
        first = next(model.parameters(), torch.empty(0))
        return {g.name: torch.rand(g.num_channels, generator=generator).to(first.device) for g in groups}
