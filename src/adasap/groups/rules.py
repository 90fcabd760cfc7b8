"""The registry of tracing rules: operator name -> how channels pass through it.

A rule is a function of a `Call`. It reads the arguments (as label tensors), unites or freezes labels in the
book and returns the labels of the result. To teach the tracer an operator, write one more function under
`@rule("name")`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from adasap.groups.group import Role
from adasap.groups.labels import LabelBook, along, constant, squeezed, varying

Result: TypeAlias = Any
"""The labels of one call: a label tensor, or a tuple or list of them where the operator returns several."""

Rule: TypeAlias = Callable[["Call"], Result]
RULES: dict[str, Rule] = {}


@dataclass(frozen=True)
class TensorRef:
    """A parameter or buffer as an argument: its labels depend on the operator that reads it."""

    name: str
    shape: tuple[int, ...]
    role: Role


@dataclass(frozen=True)
class Pad:
    """A constant padding along a channel axis, and the labels of the positions it created."""

    order: int
    dim: int
    rank: int
    owners: tuple[str, ...]
    where: str
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class Bound:
    """An extent along channels that the model's own code may have named: of a view, a part, a slice.

    Attributes:
        owners: Qualified names of the modules around the call, innermost first.
        labels: int64 [extent, K]: the labels at each index of that axis.
    """

    owners: tuple[str, ...]
    labels: Tensor


@dataclass
class Notes:
    """What the walk leaves for later steps.

    Attributes:
        pads: Paddings that created channels.
        num_pads: All constant paddings met so far, created channels or not.
        bounded: Operators with fixed bounds along a channel axis; a cut may shift what they take.
        bounds: The extents of these and of views; an integer attribute may have set them.
        factors: Labels of channel axes that a view split into factors, constant axes dropped; see `settle_factors`.
    """

    pads: list[Pad] = field(default_factory=list)
    num_pads: int = 0
    bounded: list[str] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    factors: list[Tensor] = field(default_factory=list)


@dataclass
class Call:
    """One node of the exported graph, arguments by name; tensors are labels or `TensorRef`s."""

    book: LabelBook
    notes: Notes
    node: fx.Node
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def module(self) -> str:
        """Qualified name of the module that made the call, `model` for the root."""
        return self.owners[0] or "model"

    @property
    def owners(self) -> tuple[str, ...]:
        """Qualified names of the modules around the call, innermost first."""
        stack = self.node.meta.get("nn_module_stack") or {"": ("", None)}
        return tuple(dict.fromkeys(path for path, _ in reversed(stack.values())))

    @property
    def where(self) -> str:
        """Operator and module, for messages."""
        return f"{self.node.target} in {self.module}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the (first) result."""
        first = next(value for value in pytree.tree_leaves(self.node.meta["val"]) if isinstance(value, Tensor))
        return tuple(first.shape)

    def labels(self, value: Any) -> Tensor:
        """A tensor argument as labels; for a parameter, labels along what looks like its channel axis.

        That is its only axis longer than 1, else the first such axis of tensors with four or more axes (a
        filter, an image-shaped embedding) and the last one of smaller ones (tokens, tables).
        """
        if isinstance(value, Tensor):
            return value
        long = [dim for dim, size in enumerate(value.shape) if size > 1]
        if not long:
            return constant(0, value.shape)
        dim = long[0] if len(value.shape) >= 4 else long[-1]
        return along(self.axis(value, dim), dim, value.shape)

    def axis(self, ref: TensorRef, dim: int, role: Role | None = None) -> Tensor:
        """The labels of one axis of a parameter or buffer."""
        return self.book.axis(ref.name, dim, ref.shape[dim], role or ref.role)

    def tensors(self) -> Iterator[Tensor | TensorRef]:
        """All tensor arguments, those in lists too."""
        for value in pytree.tree_leaves(self.arguments, is_leaf=lambda leaf: isinstance(leaf, TensorRef)):
            if isinstance(value, (Tensor, TensorRef)):
                yield value

    def read(self, labels: Tensor, dim: int) -> Tensor | None:
        """The channels along one axis, int64 [C]; None, and all frozen, if other axes carry channels."""
        others = set(range(labels.dim())) - {dim % labels.dim()}
        columns = self.book.collapse(labels, others)
        if columns is None:
            self.book.freeze(labels, f"{self.where} reads an axis that is not its channels' own")
            return None
        return columns.flatten()

    def attach(self, channels: Tensor | None, axis: Tensor) -> None:
        """Unite an axis of a parameter with the channels it works on; freeze it where they are unknown."""
        if channels is None:
            self.book.freeze(axis, f"{self.where} reads an axis that is not its channels' own")
        elif channels.shape == axis.shape:
            self.book.unite(channels, axis)
        else:
            self.book.freeze(channels, f"{self.where} has a parameter of another width")
            self.book.freeze(axis, f"{self.where} has a parameter of another width")

    def freeze_all(self, reason: str) -> Result:
        """Freeze whatever the call touches; its results carry this reason on."""
        carries = False
        for value in self.tensors():
            labels = self.labels(value)
            carries = carries or bool((labels != 0).any())
            self.book.freeze(labels, reason)
        label = self.book.source(reason) if carries else 0
        return self.like_result(label)

    def like_result(self, label: int) -> Result:
        """The same label for every element of every result."""
        return pytree.tree_map(
            lambda value: constant(label, value.shape) if isinstance(value, Tensor) else value,
            self.node.meta["val"],
        )

    def note_bounds(self, labels: Tensor, dim: int) -> None:
        """Remember a call with fixed bounds if it works along channels."""
        if dim % labels.dim() in varying(labels):
            self.notes.bounded.append(self.where)

    def note_extent(self, labels: Tensor, dim: int) -> None:
        """Remember how long an axis is on which channels lie: an attribute may have set it."""
        if dim % labels.dim() in varying(labels):
            rows = squeezed(labels).movedim(dim, 0).flatten(1) if labels.dim() > 1 else labels.unsqueeze(1)
            self.notes.bounds.append(Bound(self.owners, rows))


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a rule for operators `aten::NAME` and `aten::NAME_`; names may be separated by spaces."""

    def register(function: Rule) -> Rule:
        for name in " ".join(names).split():
            RULES[name] = function
        return function

    return register


def rule_for(target: Any) -> Rule | None:
    """The rule of an ATen operator, or None."""
    if not isinstance(target, torch._ops.OpOverload):
        return None
    namespace, _, name = target._schema.name.partition("::")
    if namespace != "aten":
        return None
    return RULES.get(name) or RULES.get(name.removesuffix("_"))


def no_rule(call: Call) -> Result:
    """What happens at an operator without a rule: everything it touches is frozen, by name."""
    return call.freeze_all(f"{call.where} has no rule")
