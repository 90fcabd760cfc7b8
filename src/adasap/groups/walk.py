"""One walk over the exported graph that hands label tensors from operator to operator."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from adasap.errors import TraceError
from adasap.groups.cutting import named_tensors
from adasap.groups.exported import ExportedGraph, export_graph
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.labels import LabelBook, constant
from adasap.groups.operators import operator_of
from adasap.groups.operators.call import LabelledCall, Notes, TensorRef, arguments_by_name
from adasap.groups.operators.operator import no_rule
from adasap.groups.operators.shapes import settle_factors

OUTPUT = "output of the model"
INPUT = "input of the model"
KEPT = "kept by request"


@dataclass(frozen=True)
class Walked:
    """What one walk learned: which labels are one (the book) and what is to be tried (the notes)."""

    book: LabelBook
    notes: Notes


def walk_model(model: nn.Module, example_inputs: ExampleInputs) -> Walked:
    """Export the model and follow its channels.

    Where trainable parameters are not reached in evaluation mode (auxiliary heads), the graph of training mode is
    followed too, into the same book.

    Raises:
        TraceError: If the model cannot be exported.
    """
    exported = export_graph(model, example_inputs)
    walked = Walked(LabelBook(), Notes())
    walk_graph(exported, model, walked)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    hidden = [name for name in exported.unreached if name in trainable]
    if hidden:
        _walk_training(model, example_inputs, walked, hidden)
    settle_factors(walked.book, walked.notes.factors)
    return walked


def _walk_training(model: nn.Module, example_inputs: ExampleInputs, walked: Walked, hidden: Sequence[str]) -> None:
    book, notes = walked.book, Notes()
    # batch statistics need two examples
    given = as_arguments(example_inputs)
    inputs = given.rows(2) if given.batch_size == 1 else given
    try:
        exported = export_graph(model, inputs, training=True)
    except TraceError as error:
        reason = f"{hidden[0]} is not reached in evaluation mode, and in training mode: {error}"
        for axis in tuple(book.axes.values()):
            book.freeze(book.axis(axis.name, axis.dim, axis.size, axis.role), reason)
        return
    walk_graph(exported, model, Walked(book, notes))
    walked.notes.factors.extend(notes.factors)
    walked.notes.bounds.extend(notes.bounds)
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
    waiting = [node for node in exported.graph.nodes if _writes(node)] + list(exported.outputs)
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
    result = (operator_of(node.target).rule or no_rule)(call)
    _update_mutated(call, result, values)
    return result


def _update_mutated(call: LabelledCall, result: Any, values: dict[fx.Node, Any]) -> None:
    """An in-place operator changes what its first argument carries, and what a view of it would show."""
    node = call.node
    if not _writes(node) or not isinstance(result, Tensor) or not node.args:
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


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and any(
        argument.alias_info is not None and not argument.alias_info.is_write for argument in schema.arguments
    )
