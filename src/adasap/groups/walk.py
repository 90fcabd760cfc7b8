"""One walk over the exported graph that hands label tensors from operator to operator."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from adasap.errors import TraceError
from adasap.groups.components import distinct
from adasap.groups.cutting import named_tensors
from adasap.groups.exported import ExportedGraph, export_graph
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.labels import LabelBook, constant, squeezed, varying
from adasap.groups.operators import operator_of
from adasap.groups.operators.call import LabelledCall, Notes, OperatorCall, TensorRef, Tie, arguments_by_name
from adasap.groups.operators.operator import no_rule
from adasap.groups.operators.shapes import settle_factors

OUTPUT = "output of the model"
INPUT = "input of the model"
KEPT = "kept by request"


@dataclass(frozen=True)
class Walked:
    """What one walk learned: which labels are one (the book), what is to be tried (the notes), what is returned."""

    book: LabelBook
    notes: Notes
    output_shapes: list[tuple[int, ...]]
    graphs: Graphs | None = None


def walk_model(
    graphs: Graphs,
    *,
    allow_inexact: bool = False,
    by_value: frozenset[str] = frozenset(),
    tied: frozenset[Tie] = frozenset(),
) -> Walked:
    """Follow the channels of a model through its graphs.

    Where trainable parameters are not reached in evaluation mode (auxiliary heads), the graph of training mode is
    followed too, into the same book. Grouped convolutions whose groups are all bound together, by a shuffle behind
    them (ShuffleNet) or a sum over the groups (ResNeSt), are followed again, cut across their groups, if that frees
    them.

    Args:
        graphs: Of the model.
        allow_inexact: Whether channels under a norm over them may go.
        by_value: Modules whose heads lose channels of their values, tied to those of the module's input.
        tied: Layers that make as many channels as they read, each tied to its like.
    """
    asked = Notes(by_value=by_value, tied=tied)
    walked = _walk(graphs, asked, allow_inexact)
    bound = _bound(walked, frozenset(walked.notes.grouped))
    if bound:
        other = _walk(graphs, replace(asked.anew(frozenset()), across=bound), allow_inexact)
        freed = bound - _bound(other, bound)
        if freed and freed != bound:
            other = _walk(graphs, replace(asked.anew(frozenset()), across=freed), allow_inexact)
        walked = other if freed else walked
    fixed = _fixed(walked)
    return _walk(graphs, walked.notes.anew(fixed), allow_inexact) if fixed else walked


class Graphs:
    """The exported graphs of a model, which is left as it is: of evaluation, and of training when it is asked for.

    Raises:
        TraceError: If the model cannot be exported.
    """

    def __init__(self, model: nn.Module, example_inputs: ExampleInputs, *, like: Graphs | None = None) -> None:
        self.model, self.given = model, as_arguments(example_inputs)
        self.plain = export_graph(model, self.given)
        trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        self.hidden = tuple(name for name in self.plain.unreached if name in trainable)
        self.modes: tuple[bool | frozenset[str], ...] = (True, _around(self.hidden)) if like is None else like.modes

    @cached_property
    def training(self) -> ExportedGraph | TraceError | None:
        """The graph of training mode; None if it would say nothing more.

        Where forward looks at numbers in training, as for what is not finite, only the modules around the parameters
        that evaluation does not reach are in training mode. What is found so is known to graphs that are made like
        these.
        """
        if not self.hidden or not self.modes:
            return None
        # batch statistics need two examples
        inputs = self.given.rows(2) if self.given.batch_size == 1 else self.given
        errors = []
        for mode in self.modes:
            try:
                found = export_graph(self.model, inputs, training=mode)
            except TraceError as error:
                errors.append(error)
                continue
            more = mode is True or not set(self.hidden) <= set(found.unreached)
            self.modes = (mode,) if more else ()
            return found if more else None
        return errors[0]


def _around(names: Iterable[str]) -> frozenset[str]:
    """The modules that own these parameters, and all around them.

    Example:
        >>> sorted(_around(["aux.fc.weight"]))
        ['', 'aux', 'aux.fc']
    """
    parts = [name.split(".")[:-1] for name in names]
    return frozenset(".".join(part[:length]) for part in parts for length in range(len(part) + 1))


def _fixed(walked: Walked) -> frozenset[fx.Node]:
    """The calls at which channels meet several others each and stay whatever these do."""
    book, roots = walked.book, walked.book.roots()
    stays = torch.zeros(len(roots), dtype=torch.bool)
    for labels, reason in book.frozen:
        if book.reasons[reason] not in book.inexact:
            stays[roots[labels]] = True
    return frozenset(node for node, labels in walked.notes.fans if bool(stays[roots[squeezed(labels)]].all()))


def _bound(walked: Walked, names: frozenset[str]) -> frozenset[str]:
    """Those of these weights whose rows have become one unit."""
    roots, axes = walked.book.roots(), walked.book.axes
    rows = {name: axes[name, 0] for name in names}
    return frozenset(
        name for name, axis in rows.items() if len(distinct(roots[axis.start : axis.start + axis.size])) == 1
    )


def _walk(graphs: Graphs, notes: Notes, allow_inexact: bool) -> Walked:
    """One walk, with a book of its own."""
    walked = Walked(LabelBook(allow_inexact=allow_inexact), notes, graphs.plain.output_shapes, graphs)
    walk_graph(graphs.plain, graphs.model, walked)
    if graphs.training is not None:
        _walk_training(graphs, graphs.training, walked)
    settle_factors(walked.book, walked.notes.factors)
    for weight, made, read in notes.tied:
        axes = [walked.book.axes[weight, dim] for dim in (made, read)]
        walked.book.unite(*(torch.arange(axis.start, axis.start + axis.size) for axis in axes))
    return walked


def _walk_training(graphs: Graphs, exported: ExportedGraph | TraceError, walked: Walked) -> None:
    book, notes, model = walked.book, walked.notes.anew(walked.notes.fixed), graphs.model
    if isinstance(exported, TraceError):
        reason = f"{graphs.hidden[0]} is not reached in evaluation mode, and in training mode: {exported}"
        for axis in tuple(book.axes.values()):
            book.freeze(book.axis(axis.name, axis.dim, axis.size, axis.role), reason)
        return
    walk_graph(exported, model, Walked(book, notes, exported.output_shapes))
    walked.notes.trained = True
    walked.notes.factors.extend(notes.factors)
    walked.notes.bounds.extend(notes.bounds)
    walked.notes.norm_sizes.extend(notes.norm_sizes)
    walked.notes.grouped.update(notes.grouped)
    walked.notes.fans.extend(notes.fans)
    for pad in notes.pads:
        reason = f"{pad.where} creates a fixed number of channels in training mode"
        book.freeze(torch.cat([pad.before, pad.after]), reason)


def walk_graph(exported: ExportedGraph, model: nn.Module, walked: Walked) -> None:
    """Apply the rule of every operator in order; freeze what reaches an operator without one."""
    book, notes = walked.book, walked.notes
    values = _placeholders(exported, model, book)
    used = _used(exported)
    for node in exported.graph.nodes:
        if node.op == "call_function":
            frozen_before = len(book.frozen)
            values[node] = _visit(node, values, book, notes)
            if node not in used:  # its parameters are cut along, but what it computes need not stay the same
                del book.frozen[frozen_before:]
    for node in exported.outputs:
        for labels in pytree.tree_leaves(values.get(node)):
            if isinstance(labels, Tensor):
                book.freeze(labels, OUTPUT)


def _used(exported: ExportedGraph) -> set[fx.Node]:
    """Nodes that an output depends on, and operators that write in place."""
    used: set[fx.Node] = set()
    waiting = [node for node in exported.graph.nodes if writes(node)] + list(exported.outputs)
    while waiting:
        node = waiting.pop()
        if node not in used:
            used.add(node)
            waiting.extend(node.all_input_nodes)
    return used


def _placeholders(exported: ExportedGraph, model: nn.Module, book: LabelBook) -> dict[fx.Node, Any]:
    shapes = {name: tuple(tensor.shape) for name, tensor in named_tensors(model).items()}
    values: dict[fx.Node, Any] = {}
    for node in exported.graph.nodes:
        if node.op != "placeholder":
            continue
        if node.name in exported.parameters:
            name = exported.parameters[node.name]
            values[node] = TensorRef(name, shapes[name], "producer")
        elif node.name in exported.buffers:
            name = exported.buffers[node.name]
            values[node] = TensorRef(name, shapes[name], "statistic")
        elif isinstance(node.meta.get("val"), Tensor):
            label = book.source(INPUT) if node.name in exported.inputs else 0
            values[node] = constant(label, node.meta["val"].shape)
    return values


def _visit(node: fx.Node, values: dict[fx.Node, Any], book: LabelBook, notes: Notes) -> Any:
    if node.target is operator.getitem:
        source: Any = node.args[0]
        container = values.get(source)
        return None if container is None else container[node.args[1]]
    if not any(isinstance(value, Tensor) for value in pytree.tree_leaves(node.meta.get("val"))):
        return node.meta.get("val")
    call = LabelledCall(node, arguments_by_name(node, values.get), book, notes)
    _note_entries(call, values)
    result = (operator_of(node.target).rule or no_rule)(call)
    _update_mutated(call, result, values)
    return result


def _note_entries(call: LabelledCall, values: dict[fx.Node, Any]) -> None:
    """Remember the channels that enter the modules around a call."""
    for source in call.node.all_input_nodes:
        labels = values.get(source)
        if isinstance(labels, Tensor) and len(varying(labels)) == 1:
            inside = OperatorCall(source, {}).owners
            for owner in call.owners:
                if owner not in inside:
                    call.notes.entries.setdefault(owner, []).append(squeezed(labels).flatten())


def _update_mutated(call: LabelledCall, result: Any, values: dict[fx.Node, Any]) -> None:
    """An in-place operator changes what its first argument carries, and what a view of it would show."""
    node = call.node
    if not writes(node) or not isinstance(result, Tensor) or not node.args:
        return
    target = node.args[0]
    if not isinstance(target, fx.Node):
        return
    before = values.get(target)
    seen_through_views = _is_view(target) or any(_is_view(user) for user in target.users if user in values)
    if isinstance(before, Tensor) and seen_through_views and bool(((before == 0) & (result != 0)).any()):
        call.book.freeze(result, f"{call.where} writes into a view")
    if not isinstance(before, TensorRef):
        values[target] = result


def writes(node: fx.Node) -> bool:
    """Whether a call changes one of its arguments in place."""
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(
        argument.alias_info is not None and not argument.alias_info.is_write for argument in schema.arguments
    )
