"""Einstein sums: what an equation says about every axis is what other operators say by their names."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Self

from torch import Tensor

from adasap.groups.labels import along, compact, squeezed, varying
from adasap.groups.operators.attention import united_heads
from adasap.groups.operators.call import LabelledCall, Labels, ShapedCall, TensorRef, shape_of
from adasap.groups.operators.elementwise import meet
from adasap.groups.operators.operator import Product, register_operator


@dataclass(frozen=True)
class Equation:
    """A letter for every axis of the operands and of the result."""

    operands: tuple[str, ...]
    result: str

    @classmethod
    def of(cls, text: str, ranks: Sequence[int]) -> Self | None:
        """Read an equation, dots written out; None if an operand has a letter twice, as for a trace.

        Example:
            >>> Equation.of("b...d, dk", [4, 2])
            Equation(operands=('bABd', 'dk'), result='ABbk')
        """
        left, arrow, result = text.replace(" ", "").partition("->")
        written = left.split(",")
        unused = [letter for letter in string.ascii_uppercase if letter not in text]
        num_dots = [rank - len(names.replace("...", "")) for names, rank in zip(written, ranks, strict=True)]
        dots = "".join(unused[: max(num_dots)])
        operands = tuple(
            names.replace("...", dots[len(dots) - count :]) for names, count in zip(written, num_dots, strict=True)
        )
        if any(len(set(names)) < len(names) for names in operands):
            return None
        once = sorted(letter for letter in set(left) - set(".,") if left.count(letter) == 1)
        return cls(operands, result.replace("...", dots) if arrow else dots + "".join(once))


def einsum(call: LabelledCall) -> Labels:
    """One operand is moved and summed; of two, one may be a weight; activations meet, or are a product."""
    values = list(call["tensors"])
    equation = Equation.of(call["equation"], [len(value.shape) for value in values]) if len(values) <= 2 else None
    weights = [isinstance(value, TensorRef) for value in values]
    if equation is None or all(weights):
        return call.freeze_all(f"{call.where} with {call['equation']!r} has no rule")
    sides = [_Side(value, letters) for value, letters in zip(values, equation.operands, strict=True)]
    if any(weights):
        weight = sides.pop(weights.index(True))
        return _weighted(call, sides[0], weight, equation.result)
    summed = [set(side.letters) - set(equation.result) for side in sides]
    shared = set.intersection(*summed) if len(sides) == 2 else set()
    kept = [side.without(call, letters - shared) for side, letters in zip(sides, summed, strict=True)]
    if any(side is None for side in kept):
        return _mixed(call)
    sides = [side for side in kept if side is not None]
    if shared:
        return _product(call, sides, shared, equation.result)
    result = sides[0].laid(equation.result)
    for side in sides[1:]:
        result = meet(call, result, side.laid(equation.result))
    return result.expand(call.shape)


@dataclass(frozen=True)
class _Side:
    """An operand and the letters of its axes."""

    value: Tensor | TensorRef
    letters: str

    @property
    def labels(self) -> Tensor:
        assert isinstance(self.value, Tensor)
        return self.value

    def varying(self) -> set[str]:
        """Letters of the axes on which channels lie."""
        return {self.letters[dim] for dim in varying(self.labels)}

    def without(self, call: LabelledCall, letters: set[str]) -> Self | None:
        """The operand after a sum over these axes; None if that mixes channels."""
        if not letters:
            return self
        dims = [self.letters.index(letter) for letter in letters]
        kept = call.book.collapse(self.labels, dims)
        if kept is None:
            return None
        picked = kept[tuple(0 if dim in dims else slice(None) for dim in range(kept.dim()))]
        return type(self)(picked, "".join(letter for letter in self.letters if letter not in letters))

    def laid(self, order: str) -> Tensor:
        """The labels with axes in this order, of size 1 where the operand has none."""
        moved = self.labels.permute([self.letters.index(letter) for letter in order if letter in self.letters])
        return moved[tuple(slice(None) if letter in self.letters else None for letter in order)]


def _mixed(call: LabelledCall) -> Labels:
    return call.freeze_all(f"{call.where} with {call['equation']!r} mixes the channels")


def _weighted(call: LabelledCall, side: _Side, weight: _Side, result: str) -> Labels:
    """A linear layer where the channels lie on an axis that is summed; a scale where all axes of the weight stay."""
    ref, shared = weight.value, [letter for letter in weight.letters if letter in side.letters]
    assert isinstance(ref, TensorRef)
    fresh = [letter for letter in weight.letters if letter not in side.letters]
    if not set(fresh) <= set(result):
        return call.freeze_all(f"{call.where} with {call['equation']!r} sums a weight, which has no rule")
    alone = {letter for letter in side.letters if letter not in weight.letters and letter not in result}
    kept = side.without(call, alone)
    if kept is None:
        return _mixed(call)
    summed = [letter for letter in shared if letter not in result]
    if not summed and not fresh:
        scale = _Side(call.labels(ref), weight.letters)
        return meet(call, kept.laid(result), scale.laid(result)).expand(call.shape)
    read = [letter for letter in summed if letter in kept.varying()]
    if kept.varying() - set(read) or len(read) > 1 or not (fresh and summed):
        return _mixing_table(call, kept, set(summed), result)
    for letter in read or summed[:1]:
        channels = call.read(kept.labels, kept.letters.index(letter))
        call.attach(channels, call.axis(ref, weight.letters.index(letter), "consumer"))
    if len(summed) < len(shared):
        return call.freeze_all(f"{call.where} with {call['equation']!r} has a weight for each slice, which has no rule")
    rows = call.axis(ref, weight.letters.index(fresh[0]), "producer")
    return along(rows, result.index(fresh[0]), call.shape)


def _mixing_table(call: LabelledCall, side: _Side, summed: set[str], result: str) -> Labels:
    """A table that mixes positions and leaves the channels of the other side where they are."""
    kept = side.without(call, summed)
    if kept is None or not set(side.varying()) - summed:
        return _mixed(call)
    return compact(kept.laid(result).expand(call.shape))


def _product(call: LabelledCall, sides: Sequence[_Side], shared: set[str], result: str) -> Labels:
    """A product of activations: what lies in one slice of the axes that both have and that stay is one unit, a head."""
    for side, other in (sides, sides[::-1]):
        if not bool((squeezed(other.labels) != 0).any()):
            kept = side.without(call, shared)
            return _mixed(call) if kept is None else compact(kept.laid(result).expand(call.shape))
    batch = "".join(letter for letter in result if all(letter in side.letters for side in sides))
    slices = []
    for side in sides:
        rest = "".join(letter for letter in side.letters if letter not in batch)
        inside = squeezed(side.laid(batch + rest)).flatten(len(batch))
        slices.append(inside.unsqueeze(-1))
    heads = united_heads(call, slices)[..., 0, 0]
    return compact(_Side(heads, batch).laid(result).expand(call.shape))


def einsum_macs(call: ShapedCall) -> Product | None:
    """The product of all axes that two operands have; others are not counted."""
    shapes = [shape_of(operand) for operand in call.operands]
    equation = Equation.of(call["equation"], [len(shape) for shape in shapes]) if len(shapes) == 2 else None
    if equation is None:
        return None
    sizes: dict[str, int] = {}
    for letters, shape in zip(equation.operands, shapes, strict=True):
        for letter, size in zip(letters, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return Product(prod(sizes.values()), call.operands[::-1])


register_operator("einsum", einsum, macs=einsum_macs)
