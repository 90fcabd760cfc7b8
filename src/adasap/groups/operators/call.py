"""One call of an operator in an exported graph: as label rules see it, and as MACs and latency do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from adasap.groups.group import Role
from adasap.groups.labels import LabelBook, along, constant, squeezed, varying

Labels: TypeAlias = Any
"""The labels of one call: a label tensor, or a tuple or list of them where the operator returns several."""


def operator_name(target: Any) -> str:
    """The name in the registry of what a node calls: ATen's operators without a namespace, others with theirs.

    Example:
        >>> operator_name(torch.ops.aten.relu_.default), operator_name(torch.ops.prims.add.default)
        ('relu_', 'prims::add')
    """
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.removeprefix("aten::")
    return getattr(target, "__name__", str(target))


def arguments_by_name(node: fx.Node, carried: Callable[[fx.Node], Any]) -> dict[str, Any]:
    """Arguments by schema name, defaults filled in, nodes replaced by what they carry."""

    def replaced(value: Any) -> Any:
        return carried(value) if isinstance(value, fx.Node) else value

    args: Any = fx.node.map_aggregate(node.args, replaced)
    kwargs: Any = fx.node.map_aggregate(node.kwargs, replaced)
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {**{str(place): value for place, value in enumerate(args)}, **kwargs}
    named = {}
    for place, argument in enumerate(schema.arguments):
        if place < len(args):
            named[argument.name] = args[place]
        else:
            named[argument.name] = kwargs.get(argument.name, argument.default_value)
    return named


@dataclass
class OperatorCall:
    """One node of an exported graph, arguments by name."""

    node: fx.Node
    arguments: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    @property
    def operator(self) -> str:
        """Name of the operator, as `register_operator` takes it."""
        return operator_name(self.node.target)

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


@dataclass
class ShapedCall(OperatorCall):
    """A call as MACs and latency see it: tensors are nodes of the graph, of which the shapes are known."""

    @classmethod
    def of(cls, node: fx.Node) -> Self:
        """The call of a `call_function` node."""
        return cls(node, arguments_by_name(node, lambda value: value))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result; empty if it is not one tensor."""
        return shape_of(self.node)

    @property
    def operands(self) -> tuple[fx.Node, ...]:
        """The tensor arguments in order, those in lists too."""
        return tuple(value for value in pytree.tree_leaves(self.arguments) if isinstance(value, fx.Node))

    def sizes(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor argument."""
        return shape_of(self[name])


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Shape of what a node computes; empty if that is not one tensor."""
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()


@dataclass(frozen=True)
class TensorRef:
    """A parameter or buffer as an argument: its labels depend on the operator that reads it.

    Attributes:
        name: Its qualified name.
        shape: As the operator gets it.
        role: Of its axes, unless the operator knows better.
        dims: The stored axis of each axis, if it was transposed.
        rows: Of a part of a parameter: its first row, and how many the whole has.
    """

    name: str
    shape: tuple[int, ...]
    role: Role
    dims: tuple[int, ...] = ()
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Pad:
    """A constant padding along a channel axis, and the labels of the positions it created.

    Attributes:
        before: Labels of what was created before the channels, int64 [count * L].
        after: Of what was created behind them.
        lines: Where L > 1 lines of channels were padded, as by a padding of each head: their labels, int64 [L, C].
    """

    order: int
    dim: int
    rank: int
    owners: tuple[str, ...]
    where: str
    before: Tensor
    after: Tensor
    lines: Tensor | None = None


@dataclass(frozen=True)
class Bound:
    """An extent along channels that the model's own code may have named: of a view, a part, a slice.

    Attributes:
        owners: Qualified names of the modules around the call, innermost first.
        labels: int64 [extent, K]: the labels at each index of that axis.
    """

    owners: tuple[str, ...]
    labels: Tensor


@dataclass(frozen=True)
class Mixer:
    """A call that sees all channels of one axis at once, such as a norm over them.

    Attributes:
        node: Of the graph.
        labels: int64 [C]: the channels.
        over: `over(target, arguments, index)` is the call's result where the channels `index`, int64 [k], are all.
    """

    node: fx.Node
    labels: Tensor
    over: Callable[[Any, dict[str, Any], Tensor], Any]


Tie = tuple[str, int, int]
"""A weight, its axis of channels that are made, and its axis of channels that are read."""


@dataclass
class Notes:
    """What the walk leaves for later steps.

    Attributes:
        pads: Paddings that created channels.
        num_pads: All constant paddings met so far, created channels or not.
        bounded: Operators with fixed bounds along a channel axis; a cut may shift what they take.
        bounds: The extents of these and of views; an integer attribute may have set them.
        norm_sizes: Channels in a group of every group norm met; a cut takes whole groups and leaves them.
        across: Weights of grouped convolutions that are cut across their groups: a unit takes one of each.
        grouped: Weights of those that are cut by whole groups and could be cut across.
        entries: Module -> channels, int64 [C], of each activation that enters it.
        input_wide: Modules that give a tensor as many channels as one that enters them: forward may read them off it.
        heads: Module and labels of each product that made heads.
        by_value: Modules whose heads lose channels of their values, each with the same channels of what enters, in
            place of going whole.
        tied: Layers, by their weights, that make as many channels as they read, each one with its like: forward takes
            their number from what is read.
        factors: Labels of channel axes that a view split into factors, constant axes dropped; see `settle_factors`.
        fans: Calls at which each channel of one side meets several of the other, and the labels of that side.
        fixed: Those at which that side stays whatever the other does: the other is not tied to it.
        trained: Whether the graph of training mode was followed, too.
        mixers: Calls that see all channels at once, where the book allows inexact groups.
    """

    pads: list[Pad] = field(default_factory=list)
    num_pads: int = 0
    bounded: list[str] = field(default_factory=list)
    bounds: list[Bound] = field(default_factory=list)
    norm_sizes: list[int] = field(default_factory=list)
    across: frozenset[str] = frozenset()
    grouped: set[str] = field(default_factory=set)
    entries: dict[str, list[Tensor]] = field(default_factory=dict)
    input_wide: set[str] = field(default_factory=set)
    heads: list[tuple[str, Tensor]] = field(default_factory=list)
    by_value: frozenset[str] = frozenset()
    tied: frozenset[Tie] = frozenset()
    factors: list[Tensor] = field(default_factory=list)
    fans: list[tuple[fx.Node, Tensor]] = field(default_factory=list)
    fixed: frozenset[fx.Node] = frozenset()
    trained: bool = False
    mixers: list[Mixer] = field(default_factory=list)

    @property
    def plain(self) -> bool:
        """Whether no call's meaning depends on how many channels there are.

        The same calls with the same integers then join the same channels at any width.
        """
        told = (self.pads, self.bounded, self.norm_sizes, self.across, self.grouped, self.by_value, self.heads)
        return not any((*told, self.tied, self.factors, self.trained, self.mixers))

    def anew(self, fixed: frozenset[fx.Node]) -> Notes:
        """Empty notes for another walk in the same manner."""
        return Notes(across=self.across, by_value=self.by_value, tied=self.tied, fixed=fixed)


@dataclass
class LabelledCall(OperatorCall):
    """A call as label rules see it: tensors are labels of the activations' shapes, or a `TensorRef` for parameters.

    A rule reads the arguments, unites or freezes labels and returns the labels of the result.
    """

    book: LabelBook
    notes: Notes

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
        if value.dims:
            stored = TensorRef(
                value.name,
                tuple(value.shape[value.dims.index(dim)] for dim in sorted(value.dims)),
                value.role,
                rows=value.rows,
            )
            return self.labels(stored).permute(value.dims)
        long = [dim for dim, size in enumerate(value.shape) if size > 1]
        if not long:
            return constant(0, value.shape)
        dim = long[0] if len(value.shape) >= 4 else long[-1]
        return along(self.axis(value, dim), dim, value.shape)

    def axis(self, ref: TensorRef, dim: int, role: Role | None = None) -> Tensor:
        """The labels of one axis of a parameter or buffer."""
        stored = ref.dims[dim] if ref.dims else dim
        if stored or ref.rows is None:
            return self.book.axis(ref.name, stored, ref.shape[dim], role or ref.role)
        first, count = ref.rows
        return self.book.axis(ref.name, 0, count, role or ref.role)[first : first + ref.shape[dim]]

    def tensors(self) -> Iterator[Tensor | TensorRef]:
        """All tensor arguments, those in lists too."""
        for value in pytree.tree_leaves(self.arguments, is_leaf=lambda leaf: isinstance(leaf, TensorRef)):
            if isinstance(value, (Tensor, TensorRef)):
                yield value

    def read(self, labels: Tensor, dim: int) -> Tensor | None:
        """The channels along one axis, int64 [C]; None, and all frozen, if other axes carry channels."""
        others = set(range(labels.dim())) - {dim % labels.dim()}
        columns = self.book.collapse(labels, others, alone=labels.shape[dim] == 1)
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

    def freeze_all(self, reason: str) -> Labels:
        """Freeze whatever the call touches; its results carry this reason on."""
        carries = False
        for value in self.tensors():
            labels = self.labels(value)
            carries = carries or bool((labels != 0).any())
            self.book.freeze(labels, reason)
        label = self.book.source(reason) if carries else 0
        return self.like_result(label)

    def mix(self, labels: Tensor, dim: int, kind: str, over: Callable[[Any, dict[str, Any], Tensor], Any]) -> bool:
        """Channels along one axis see each other: marks them inexact where that is allowed; whether it is.

        Args:
            labels: Of the operand.
            dim: Axis of the channels.
            kind: What sees them, such as `LayerNorm`.
            over: As of a `Mixer`.
        """
        if not self.book.allow_inexact:
            return False
        channels = self.read(labels, dim)
        if channels is not None:
            self.book.mark_inexact(labels, f"{kind} in {self.module}")
            if not any(isinstance(value, TensorRef) for value in self.arguments.values()):
                self.note_extent(labels, dim)  # no parameter of the norm tells its width
            self.notes.mixers.append(Mixer(self.node, channels, over))
        return True

    def like_result(self, label: int) -> Labels:
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
