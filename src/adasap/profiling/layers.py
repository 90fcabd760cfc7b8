"""One call of an operator that can be run by itself, at any widths of the channel groups."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

MAX_COPIES = 24
"""Sets of weights of one layer at most."""


@dataclass(frozen=True)
class Width:
    """A number of channels: fixed + sum over groups of K_g x width_g."""

    fixed: float
    per_channel: tuple[tuple[str, float], ...] = ()

    def at(self, widths: Mapping[str, float]) -> float:
        return self.fixed + sum(k * widths[name] for name, k in self.per_channel)

    def plus(self, other: Width) -> Width:
        total = dict(self.per_channel)
        for name, k in other.per_channel:
            total[name] = total.get(name, 0.0) + k
        return Width(self.fixed + other.fixed, tuple(sorted(total.items())))

    def times(self, factor: float) -> Width:
        return Width(self.fixed * factor, tuple((name, k * factor) for name, k in self.per_channel))


@dataclass(frozen=True)
class Operand:
    """A tensor argument: its dense shape, and which of its axes follow which width of the call."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    follows: tuple[tuple[int, int], ...]  # (axis, place in the call's widths)
    is_weight: bool

    def drawn(
        self, ratios: Sequence[float], device: torch.device, dtype: torch.dtype, *, channels_last: bool
    ) -> Tensor:
        """A random tensor of this shape at these shares of the dense widths."""
        shape = list(self.shape)
        for axis, place in self.follows:
            shape[axis] = max(1, round(shape[axis] * ratios[place]))
        if not self.dtype.is_floating_point:
            return torch.zeros(shape, dtype=self.dtype, device=device)
        tensor = torch.rand(shape, device=device).to(dtype)
        return tensor.to(memory_format=torch.channels_last) if channels_last and tensor.dim() == 4 else tensor


@dataclass(frozen=True)
class LayerCall:
    """One call of an operator, with widths in place of sizes.

    Attributes:
        where: Qualified name of the module that makes it.
        key: Two calls with the same key take the same time at the same widths.
        widths: What its time depends on: none, one (an elementwise operator), or two (inputs and outputs).
        dense: The widths in the dense model.
    """

    where: str
    key: str
    widths: tuple[Width, ...]
    dense: tuple[float, ...]
    _target: Callable[..., Any]
    _arguments: tuple[Any, ...]
    _keywords: Mapping[str, Any]

    def runners(
        self,
        at: Sequence[float],
        device: torch.device,
        dtype: torch.dtype,
        *,
        weight_bytes: int,
        channels_last: bool = True,
    ) -> list[Callable[[], Any]]:
        """The call on random numbers at these widths, ready to be timed.

        The weights of one layer have left the cache when a network comes back to it. So there are several runners, on
        the same activations but with weights of their own, until these take up `weight_bytes` together.
        """
        ratios = [size / whole for size, whole in zip(at, self.dense, strict=True)]
        activations: dict[int, Tensor] = {}

        def fill(value: Any) -> Any:
            if isinstance(value, ConvolutionGroups):
                return value.at(ratios)
            if not isinstance(value, Operand):
                return value
            if value.is_weight:
                return value.drawn(ratios, device, dtype, channels_last=channels_last)
            if id(value) not in activations:
                activations[id(value)] = value.drawn(ratios, device, dtype, channels_last=channels_last)
            return activations[id(value)]

        runners: list[Callable[[], Any]] = []
        used = 0
        while not runners or (used < weight_bytes and len(runners) < MAX_COPIES):
            arguments, keywords = pytree.tree_map(fill, (self._arguments, dict(self._keywords)), is_leaf=is_template)
            leaves = pytree.tree_leaves((arguments, keywords))
            weights = [t for t in leaves if isinstance(t, Tensor) and not any(t is a for a in activations.values())]
            used += sum(t.nbytes for t in weights)
            runners.append(functools.partial(self._target, *arguments, **keywords))
            if not weights:
                break
        return runners


@dataclass(frozen=True)
class ConvolutionGroups:
    """The `groups` argument of a convolution that loses whole groups with its channels."""

    dense: int
    place: int

    def at(self, ratios: Sequence[float]) -> int:
        return max(1, round(self.dense * ratios[self.place]))


def is_template(value: Any) -> bool:
    """Whether an argument of a call is filled in when the call is made."""
    return isinstance(value, (Operand, ConvolutionGroups))


def described(value: Any) -> Any:
    """What an argument is, ready for JSON: calls that take the same time at the same widths are described alike."""
    if isinstance(value, Operand):
        return [list(value.shape), str(value.dtype), [list(pair) for pair in value.follows]]
    if isinstance(value, ConvolutionGroups):
        return {"groups": value.dense}
    return value if isinstance(value, (int, float, bool, str, type(None))) else str(value)
