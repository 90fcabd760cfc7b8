"""The plain module under the wrappers that put a prefix before its parameter names."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile` and data-parallel wrappers, in any order and depth.

    Its parameter names are those of the channel groups.

    Example:
        >>> inner = nn.Linear(2, 2)
        >>> unwrap(DataParallel(inner)) is inner
        True
    """
    while True:
        if isinstance(model, DistributedDataParallel | DataParallel):
            model = model.module
        elif "_orig_mod" in model._modules:  # torch.compile; importing its class would load the compiler
            model = model.get_submodule("_orig_mod")
        else:
            return model
