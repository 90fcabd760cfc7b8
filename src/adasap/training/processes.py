"""The processes that train one model together, and what they agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn


class Processes:
    """Those of torch's default process group, or this one alone.

    Args:
        autocast: Makes the context of a forward pass, for mixed precision.
    Example:
        >>> Processes().world_size, Processes().average(torch.tensor(3.0))
        (1, tensor(3.))
    """

    def __init__(self, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext) -> None:
        self._autocast = autocast

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return torch.distributed.get_world_size() if _are_several() else 1

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision for the forward pass."""
        return self._autocast()

    def average(self, tensor: Tensor) -> Tensor:
        """The mean over the processes, the same bits on all of them."""
        if self.world_size == 1:
            return tensor
        total = tensor.clone()
        torch.distributed.all_reduce(total)
        return total / self.world_size

    def average_buffers_(self, model: nn.Module) -> None:
        """Averages floating buffers (norm statistics), in place."""
        for buffer in model.buffers() if self.world_size > 1 else ():
            if buffer.is_floating_point():
                buffer.copy_(self.average(buffer.clone()))

    def average_(self, model: nn.Module, names: Sequence[str]) -> None:
        """Averages these parameters and buffers, in place; the same bits everywhere then."""
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        for name in names if self.world_size > 1 else ():
            tensors[name].data.copy_(self.average(tensors[name].detach().clone()))


def _are_several() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
