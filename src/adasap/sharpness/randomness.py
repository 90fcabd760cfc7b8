"""The random state of the devices a model runs on, so that two passes draw the same dropout masks."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class RandomState:
    """The generators that a pass draws from: the CPU's and those of the CUDA devices of the parameters."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._cuda = sorted({p.device.index for p in parameters if p.is_cuda})

    def get(self) -> list[Tensor]:
        """The states now."""
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state(index) for index in self._cuda)]

    def set(self, states: list[Tensor]) -> None:
        """Goes back to these states."""
        torch.set_rng_state(states[0])
        for index, state in zip(self._cuda, states[1:], strict=True):
            torch.cuda.set_rng_state(state, index)
