"""Running statistics of normalisation layers: kept from one pass only, or estimated anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from adasap.errors import ArgumentError


def _tracking(modules: Iterable[nn.Module]) -> list[_NormBase]:
    """The layers that keep running statistics: batch and instance norms, synchronised ones included."""
    return [m for m in modules if isinstance(m, _NormBase) and m.running_mean is not None]


def keeps_statistics(model: nn.Module) -> bool:
    """Whether a layer of the model keeps running statistics."""
    return bool(_tracking(model.modules()))


class RunningStatistics:
    """The running means, variances and batch counters that a forward pass in training mode would change.

    They are copied and written back, never switched off: attributes stay as they are, so compiled graphs stay
    valid.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._buffers = [
            buffer
            for layer in _tracking(modules)
            if layer.training
            for buffer in layer._buffers.values()
            if buffer is not None
        ]

    def copy(self) -> list[Tensor]:
        """A copy of all of them."""
        return list(torch._foreach_clone(self._buffers)) if self._buffers else []

    @torch.no_grad()
    def write_(self, saved: list[Tensor]) -> None:
        """Writes a copy back."""
        if saved:
            torch._foreach_copy_(self._buffers, saved)


def recalibrate_(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], object] | None = None
) -> int:
    """Estimates the running statistics of norm layers anew: their cumulative average over the batches.

    For weights that changed faster than the running averages could follow: after a cut, or after cheaper
    steps. Only the norm layers work in training mode, so dropout stays off; there are no gradients. Momentum
    and train or evaluation mode of each layer are as before afterwards; if something fails, so are the
    statistics.

    Args:
        model: The model, also inside wrappers.
        batches: What to run forward; all of it is used, so pass a limited number.
        forward: `forward(model, batch)`; by default `model(batch)`, or `model(batch[0])` for a tuple or list.
    Returns:
        The number of batches; 0, without reading any, if no layer keeps running statistics.
    Raises:
        ArgumentError: If there are no batches.
    Example:
        >>> norm = nn.BatchNorm1d(1)
        >>> recalibrate_(norm, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])])
        2
        >>> norm.running_mean, norm.running_var
        (tensor([4.]), tensor([2.]))
    """
    layers = _tracking(model.modules())
    if not layers:
        return 0
    run = forward or _forward_images
    count = 0
    with _averaging(model, layers), torch.no_grad():
        for batch in batches:
            run(model, batch)
            count += 1
        if not count:
            raise ArgumentError("recalibrate_ needs at least one batch")
    return count


def _forward_images(model: nn.Module, batch: Any) -> object:
    return model(batch[0] if isinstance(batch, tuple | list) else batch)


@contextmanager
def _averaging(model: nn.Module, layers: list[_NormBase]) -> Iterator[None]:
    """Norm layers start afresh and average all batches equally, everything else is in evaluation mode."""
    modes = {module: module.training for module in model.modules()}
    momenta = [layer.momentum for layer in layers]
    saved = [[buffer.clone() for buffer in layer.buffers(recurse=False)] for layer in layers]
    try:
        model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        yield
    except BaseException:
        for layer, copies in zip(layers, saved, strict=True):
            for buffer, copy in zip(layer.buffers(recurse=False), copies, strict=True):
                buffer.copy_(copy)
        raise
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
