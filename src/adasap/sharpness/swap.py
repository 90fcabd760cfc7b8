"""Weights that are moved for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from adasap.sharpness.wrappers import unwrap

_CACHED_NUMEL = 1 << 18
_ACCELERATOR_NUMEL = 1 << 24


def chunks(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Consecutive tensors that are worked on together.

    On a CPU they fit into its cache, so that a chain of operations reads the memory once; on an accelerator
    they are many, so that there are few kernels, yet temporary copies stay small.
    """
    limit = _numel_at_once(tensors)
    start = numel = 0
    for position, tensor in enumerate(tensors):
        if numel and numel + tensor.numel() > limit:
            yield slice(start, position)
            start, numel = position, 0
        numel += tensor.numel()
    if start < len(tensors):
        yield slice(start, len(tensors))


def pieces(tensors: Sequence[Tensor], dims: Sequence[int] | None = None) -> list[list[Tensor]]:
    """For each tensor the views it is worked on by: itself, or if it is large, parts of it along one axis.

    Args:
        tensors: Any shapes.
        dims: The axis to cut each of them along; the first one by default.
    Example:
        >>> [[tuple(part.shape) for part in parts] for parts in pieces([torch.zeros(3), torch.zeros(5, 1 << 17)])]
        [[(3,)], [(2, 131072), (2, 131072), (1, 131072)]]
    """
    limit = _numel_at_once(tensors)
    return [
        [tensor]
        if tensor.numel() <= limit
        else list(torch.split(tensor, max(1, limit * tensor.shape[dim] // tensor.numel()), dim))
        for tensor, dim in zip(tensors, dims or [0] * len(tensors), strict=True)
    ]


def _numel_at_once(tensors: Sequence[Tensor]) -> int:
    return _CACHED_NUMEL if tensors and tensors[0].device.type == "cpu" else _ACCELERATOR_NUMEL


@contextmanager
def perturbed(model: nn.Module, epsilon: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the weights are w + epsilon; afterwards they are exactly w, also if the body raises.

    The parameters keep their memory, so compiled and data-parallel models stay valid. Offsets and weights
    change places: from here on the tensors of `epsilon` hold the saved weights, and no other copy is made.

    Args:
        model: The model, also when wrapped by `torch.compile` or data parallelism.
        epsilon: Parameter name -> offset, of the parameter's shape. **Consumed**: clone it first to keep it.
    Raises:
        ValueError: If a name or a shape is not the model's; nothing is changed then.
    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> with perturbed(layer, {"weight": torch.tensor([[0.5]])}):
        ...     layer.weight.item()
        1.5
        >>> layer.weight.item()
        1.0
    """
    parameters = dict(unwrap(model).named_parameters())
    for name, offset in epsilon.items():
        if name not in parameters or parameters[name].shape != offset.shape:
            raise ValueError(f"no parameter {name!r} of shape {tuple(offset.shape)} in {type(model).__name__}")
    with swapped([parameters[name] for name in epsilon], list(epsilon.values())):
        yield


@contextmanager
def swapped(weights: list[Tensor], offsets: list[Tensor]) -> Iterator[None]:
    """`perturbed` for those who have the parameters at hand."""
    _swap_in(weights, offsets)
    # an autocast region around both passes would go on with half-precision copies of the old weights
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        with torch.no_grad():
            # copy back, do not subtract: (w + e) - e != w in 2.4 % of float32 entries
            torch._foreach_copy_(weights, offsets)
        torch.clear_autocast_cache()


@torch.no_grad()
def _swap_in(weights: list[Tensor], offsets: list[Tensor]) -> None:
    """weights <- weights + offsets, offsets <- weights."""
    weights, offsets = [*chain(*pieces(weights))], [*chain(*pieces(offsets))]
    for part in chunks(weights):
        moved = torch._foreach_add(weights[part], offsets[part])
        torch._foreach_copy_(offsets[part], weights[part])
        torch._foreach_copy_(weights[part], moved)
