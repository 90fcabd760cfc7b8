"""Training mode in which nothing is drawn: what dropout would drop stays, wherever a forward calls it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from adasap.groups.exported import in_mode

DROPOUTS = (
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
    torch.dropout,
    torch.alpha_dropout,
    torch.feature_dropout,
    torch.feature_alpha_dropout,
)
PLACE_OF_RATE = 4
"""Of dropout, among the arguments of attention."""


@contextmanager
def training_without_chance(model: nn.Module) -> Iterator[None]:
    """Training mode for modules with submodules, evaluation mode for layers: their dropout and norms hold still.

    So does dropout that a module with submodules calls as a function, as attention does.

    Example:
        >>> import torch
        >>> class Net(nn.Sequential):
        ...     def forward(self, x):
        ...         return functional.dropout(super().forward(x), 0.5, self.training)
        >>> net, x = Net(nn.Linear(4, 4)), torch.randn(2, 4)
        >>> with training_without_chance(net):
        ...     torch.equal(net(x), net(x)), net.training
        (True, True)
    """
    with in_mode(model, training=True), _NothingDropped():
        for module in model.modules():
            if not any(True for _ in module.children()):
                module.eval()
        yield


class _NothingDropped(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func in DROPOUTS:
            return args[0] if args else named["input"]
        if func is functional.scaled_dot_product_attention:
            if len(args) > PLACE_OF_RATE:
                args = (*args[:PLACE_OF_RATE], 0.0, *args[PLACE_OF_RATE + 1 :])
            else:
                named["dropout_p"] = 0.0
        if func is functional.multi_head_attention_forward:
            named["training"] = False
        return func(*args, **named)
