"""One call of an operator that can be run by itself, at any widths of the channel groups."""

from __future__ import annotations

import functools
import math
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

    def sizes(self, ratios: Sequence[float]) -> tuple[int, ...]:
        """Its shape at these shares of the dense widths."""
        shape = list(self.shape)
        for axis, place in self.follows:
            shape[axis] = max(1, round(shape[axis] * ratios[place]))
        return tuple(shape)

    def drawn(
        self, ratios: Sequence[float], device: torch.device, dtype: torch.dtype, *, channels_last: bool
    ) -> Tensor:
        """A random tensor of this shape at these shares of the dense widths."""
        shape = self.sizes(ratios)
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
        ratios = self.ratios(at)
        activations: dict[int, Tensor] = {}
        first: dict[int, Tensor] = {}

        def fill(value: Any) -> Any:
            if isinstance(value, Count):
                return value.at(ratios)
            if not isinstance(value, Operand):
                return value
            if value.is_weight:
                if id(value) in first:
                    return first[id(value)].clone()  # drawing anew takes ten times as long, and longer than the timing
                first[id(value)] = value.drawn(ratios, device, dtype, channels_last=channels_last)
                return first[id(value)]
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

    @property
    def operands(self) -> list[Operand]:
        """Its tensor arguments, weights and activations, in order; one for each use."""
        return [value for value in self._leaves if isinstance(value, Operand)]

    @property
    def counts(self) -> list[Count]:
        """Its integer arguments that follow a width."""
        return [value for value in self._leaves if isinstance(value, Count)]

    def ratios(self, at: Sequence[float]) -> list[float]:
        """Shares of the dense widths."""
        return [size / whole for size, whole in zip(at, self.dense, strict=True)]

    def on(self, tensors: Sequence[Tensor], at: Sequence[float]) -> Any:
        """What it computes of tensors in place of `operands`, at these widths."""
        rest, ratios = iter(tensors), self.ratios(at)

        def fill(value: Any) -> Any:
            if isinstance(value, Count):
                return value.at(ratios)
            return next(rest) if isinstance(value, Operand) else value

        arguments, keywords = pytree.tree_map(fill, (self._arguments, dict(self._keywords)), is_leaf=is_template)
        return self._target(*arguments, **keywords)

    @property
    def _leaves(self) -> list[Any]:
        return pytree.tree_leaves((self._arguments, dict(self._keywords)), is_leaf=is_template)


class Before:
    """Stands in a chain of calls for what the call before has computed."""

    def __repr__(self) -> str:
        return "the result before"


BEFORE = Before()


def run_chain(steps: Sequence[tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]]]) -> Any:
    """Operators one after the other: their targets, arguments and keywords, with `BEFORE` among these."""
    value: Any = None
    for target, arguments, keywords in steps:
        given = [value if argument is BEFORE else argument for argument in arguments]
        named = {name: value if argument is BEFORE else argument for name, argument in keywords.items()}
        value = target(*given, **named)
    return value


@dataclass(frozen=True)
class Count:
    """An integer argument that follows a width: groups of a convolution, the length of what is normalised.

    Attributes:
        dense: In the dense model.
        place: Of the width among those of the call.
        parts_of: Where positive, the argument counts equal parts of that many channels: it becomes the largest number
            that divides those that are left.
    """

    dense: int
    place: int
    parts_of: int = 0

    def at(self, ratios: Sequence[float]) -> int:
        if self.parts_of:
            return math.gcd(self.dense, max(1, round(self.parts_of * ratios[self.place])))
        return max(1, round(self.dense * ratios[self.place]))


def is_template(value: Any) -> bool:
    """Whether an argument of a call is filled in when the call is made."""
    return isinstance(value, (Operand, Count))


def described(value: Any) -> Any:
    """What an argument is, ready for JSON: calls that take the same time at the same widths are described alike."""
    if isinstance(value, Operand):
        return [list(value.shape), str(value.dtype), [list(pair) for pair in value.follows]]
    if isinstance(value, Count):
        return {"groups": value.dense}
    return value if isinstance(value, (int, float, bool, str, type(None))) else str(value)
