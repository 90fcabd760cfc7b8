"""What is known of every operator: how channels pass through it, how its MACs count, and how it is timed.

The three stand side by side in the file of the operator's family, and under one name in this registry. Tracing, `MACs`
and latency tables read nothing else, so an operator of your own needs one call of `register_operator`.
"""

from __future__ import annotations

import operator as python
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx

from adasap.errors import ArgumentError
from adasap.groups.operators.call import LabelledCall, Labels, ShapedCall, operator_name
from adasap.registry import Registry


@dataclass(frozen=True)
class Product:
    """Multiply-accumulates of one call.

    Attributes:
        macs: For the whole batch, at the shapes of the call.
        weights: Operands that may be a layer's weight, whose widths the number follows; the first that is a parameter
            counts.
    """

    macs: int
    weights: tuple[fx.Node, ...] = ()


@dataclass(frozen=True)
class LatencyView:
    """How latency tables see an operator; by default its time depends on the channels that its operands have.

    Attributes:
        free: It only changes how memory is looked at, and takes no time.
        weight: Argument that is the weight of a layer [outputs, inputs, ...]; empty for operators without one.
        channel_axis: Of a layer: the axis of its input and result on which the channels lie.
        groups: Argument of a layer that counts its groups of channels, which go whole.
        sizes: Of a norm over its last axis: argument that lists its length.
        parts: Of a norm over parts of the channels: argument that counts these.
        joins: The result has the channels of all operands, side by side.
        pads: The result may have more channels than the operand, how many after a cut is not known.
    """

    free: bool = False
    weight: str = ""
    channel_axis: int = 1
    groups: str = ""
    sizes: str = ""
    parts: str = ""
    joins: bool = False
    pads: bool = False


Rule: TypeAlias = Callable[[LabelledCall], Labels]
"""How channels pass through: reads the arguments' labels and returns those of the result."""

CountMACs: TypeAlias = Callable[[ShapedCall], Product | None]
"""MACs of one call; None where they cannot be counted."""

FREE = LatencyView(free=True)


@dataclass
class Operator:
    """What is known of one operator; None where nothing is."""

    rule: Rule | None = None
    macs: CountMACs | None = None
    latency: LatencyView | None = None


OPERATORS: Registry[Operator] = Registry("operator", error=ArgumentError)
_UNKNOWN = Operator()


def no_macs(call: ShapedCall) -> Product:
    """Of operators that move or fill numbers and compute none; dropout does so in evaluation mode."""
    return Product(0)


def register_operator(
    names: str, rule: Rule | None = None, *, macs: CountMACs | None = None, latency: LatencyView | None = None
) -> None:
    """Teaches tracing, `MACs` and latency tables an operator.

    An operator without a rule freezes the channels that reach it, by name. Without `macs` it adds nothing to the total
    and is listed in `MACs.uncounted`; without `latency` it is timed as one whose operands' channels pass through.

    Args:
        names: One operator, or several separated by spaces: `relu` of ATen, `namespace::name` of any other library,
            such as one made with `torch.library.custom_op`. In-place variants (`relu_`) are covered.
        rule: Function of a `LabelledCall` that returns the labels of the result; ready-made ones are in
            `adasap.groups.operators`, such as `elementwise` where numbers that meet belong to one channel.
        macs: Function of a `ShapedCall` that returns a `Product`; `no_macs` where nothing is computed.
        latency: `FREE` for an operator that takes no time, or a `LatencyView`.
    Raises:
        ArgumentError: For a name that ATen does not have, or if what is given is known of the operator already.
    Example:
        >>> @torch.library.custom_op("example::halve", mutates_args=())
        ... def halve(x: torch.Tensor) -> torch.Tensor:
        ...     return x / 2
        >>> @halve.register_fake
        ... def _(x):
        ...     return torch.empty_like(x)
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.first, self.last = torch.nn.Linear(3, 8), torch.nn.Linear(8, 2)
        ...     def forward(self, x):
        ...         return self.last(halve(self.first(x)))
        >>> from adasap.groups import trace_groups
        >>> trace_groups(Net(), torch.zeros(1, 3))[0].frozen
        ('example.halve.default in model has no rule',)
        >>> from adasap.groups.operators import elementwise
        >>> register_operator("example::halve", elementwise)
        >>> trace_groups(Net(), torch.zeros(1, 3))[0].frozen
        ()
    """
    given = {"rule": rule, "macs": macs, "latency": latency}
    given = {part: value for part, value in given.items() if value is not None}
    if not given:
        raise ArgumentError(f"nothing is given about {names!r}; give a rule, macs or latency")
    _require_kinds(names, rule, macs, latency)
    for name in names.split():
        known = _entry(name.removeprefix("aten::"))
        if double := [part for part in given if getattr(known, part) is not None]:
            raise ArgumentError(f"operator {name!r} has {' and '.join(double)} already, which cannot be replaced")
        for part, value in given.items():
            setattr(known, part, value)


def operator_of(target: Any) -> Operator:
    """What is known of the operator that a node calls."""
    if target is python.getitem:
        return _PICK
    name = operator_name(target)
    for known in (name, name.removesuffix("_")):
        if known in OPERATORS:
            return OPERATORS.get(known)
    return _UNKNOWN


_PICK = Operator(macs=no_macs, latency=FREE)


def no_rule(call: LabelledCall) -> Labels:
    """What happens at an operator without a rule: everything it touches is frozen, by name."""
    return call.freeze_all(f"{call.where} has no rule")


def _entry(name: str) -> Operator:
    if name in OPERATORS:
        return OPERATORS.get(name)
    if "::" not in name and not (hasattr(torch.ops.aten, name) or hasattr(torch.ops.aten, f"{name}_")):
        raise ArgumentError(
            f"ATen has no operator {name!r}; one of another library is named with its namespace: 'library::{name}'"
        )
    OPERATORS.register(name, Operator())
    return OPERATORS.get(name)


def _require_kinds(names: str, rule: object, macs: object, latency: object) -> None:
    for part, value in (("rule", rule), ("macs", macs)):
        if value is not None and not callable(value):
            raise ArgumentError(f"{part} of operator {names!r} is {value!r}; give a function of the call")
    if latency is not None and not isinstance(latency, LatencyView):
        raise ArgumentError(f"latency of operator {names!r} is {latency!r}; give a LatencyView, such as FREE")
