"""Weights that are moved for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from adasap.errors import ArgumentError
from adasap.groups.bare import unwrap
from adasap.groups.parameters import members, named_parameters

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
        size = tensor.numel()
        if numel and numel + size > limit:
            yield slice(start, position)
            start, numel = position, 0
        numel += size
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
    return [_cut(tensor, dim, limit) for tensor, dim in zip(tensors, dims or [0] * len(tensors), strict=True)]


def _cut(tensor: Tensor, dim: int, limit: int) -> list[Tensor]:
    size = tensor.numel()
    return [tensor] if size <= limit else list(torch.split(tensor, max(1, limit * tensor.shape[dim] // size), dim))


def pieces_like(
    parts: list[list[Tensor]], tensors: Sequence[Tensor], dims: Sequence[int] | None = None
) -> list[Tensor]:
    """The pieces of all these tensors, one after the other, cut where those of `pieces` are along the same axes."""
    found: list[Tensor] = []
    for views, tensor, dim in zip(parts, tensors, dims or [0] * len(tensors), strict=True):
        found += (tensor,) if len(views) == 1 else torch.split(tensor, views[0].shape[dim], dim)
    return found


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
        ArgumentError: If a name or a shape is not the model's; nothing is changed then.
    Example:
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> with perturbed(layer, {"weight": torch.tensor([[0.5]])}):
        ...     layer.weight.item()
        1.5
        >>> layer.weight.item()
        1.0
    """
    parameters = named_parameters(members(unwrap(model)))
    for name, offset in epsilon.items():
        if name not in parameters or parameters[name].shape != offset.shape:
            raise ArgumentError(f"no parameter {name!r} of shape {tuple(offset.shape)} in {type(model).__name__}")
    weights: list[Tensor] = [parameters[name] for name in epsilon]
    with swapped(Offsets(tuple(epsilon), weights, list(epsilon.values()), consume_gradients=True)):
        yield


@dataclass(eq=False)
class Offsets:
    """How far each of some parameters is moved: factor times direction, multiplied out on the way through the memory.

    Attributes:
        names: Of the parameters.
        weights: The parameters.
        directions: A tensor of the shape of each. While the weights are `swapped`, they are kept here.
        factors: What multiplies each of them: one number per index of an axis, in the shape (1, C, 1, 1); None for 1.
        axes: That axis of each of them.
        consume_gradients: Whether a direction that is the parameter's gradient may be written over.
    """

    names: tuple[str, ...]
    weights: list[Tensor]
    directions: list[Tensor]
    factors: list[Tensor] | None = None
    axes: list[int] | None = None
    consume_gradients: bool = False

    def multiplied(self) -> list[Tensor]:
        """The offsets, of the weights' types."""
        return _products(self.directions, self.factors, self.weights) if self.factors else self.directions

    def spare(self) -> list[Tensor]:
        """Where the weights are kept: in place of the directions, or in new memory if these must live on."""
        return [
            direction
            if direction.dtype == weight.dtype and (self.consume_gradients or direction is not weight.grad)
            else torch.empty_like(weight)
            for direction, weight in zip(self.directions, self.weights, strict=True)
        ]


@contextmanager
def swapped(offsets: Offsets) -> Iterator[None]:
    """`perturbed` for those who have the parameters at hand."""
    _swap_in(offsets)
    # an autocast region around both passes would go on with half-precision copies of the old weights
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        with torch.no_grad():
            # copy back, do not subtract: (w + e) - e != w in 2.4 % of float32 entries
            torch._foreach_copy_(offsets.weights, offsets.directions)
        torch.clear_autocast_cache()


@torch.no_grad()
def _swap_in(offsets: Offsets) -> None:
    """weights <- weights + factors * directions, directions <- weights."""
    spare, axes = offsets.spare(), offsets.axes
    parts = pieces(offsets.weights, axes)
    weights, kept = [*chain(*parts)], pieces_like(parts, spare, axes)
    directions = pieces_like(parts, offsets.directions, axes)
    factors = pieces_like(parts, offsets.factors, axes) if offsets.factors else None
    for part in chunks(weights):
        moved = _products(directions[part], factors[part], weights[part]) if factors else _copies(directions[part])
        torch._foreach_copy_(kept[part], weights[part])
        torch._foreach_add_(weights[part], moved)
        del moved  # the next part takes its memory, which is in the cache
    offsets.directions = spare


def _products(directions: list[Tensor], factors: list[Tensor], weights: list[Tensor]) -> list[Tensor]:
    """Directions times factors, in the types of the weights."""
    products = torch._foreach_mul(directions, factors)
    if products[0].device.type != "cpu":  # asking whether all is finite would make the host wait; inf * 0 is NaN
        for product in products:
            product.nan_to_num_(0.0, 0.0, 0.0)
    return [
        product if product.dtype == weight.dtype else product.to(weight.dtype)
        for product, weight in zip(products, weights, strict=True)
    ]


def _copies(tensors: list[Tensor]) -> list[Tensor]:
    return list(torch._foreach_clone(tensors))
