"""Multiply-accumulates of a model as a function of its widths, read from its exported graph."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from adasap.groups.bare import workable
from adasap.groups.components import distinct
from adasap.groups.exported import export_program
from adasap.groups.group import ChannelGroup, prunable
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.operators import Product, ShapedCall, operator_of
from adasap.groups.operators.call import shape_of
from adasap.pruning.cost import Term, WidthPolynomial


class MACs:
    """Multiply-accumulates per image of convolutions, linear layers and attention products, in evaluation
    mode.

    A call with a parameter as its weight costs output positions x entries of the weight and follows the widths.
    Products between activations follow the rows of the layer that made an operand: heads go whole, or get narrower. If
    these rows cannot be cut, they count as they are at the model's present widths and `constant_operators` lists them.
    Additions of biases, norms, activation functions and pooling do not count; `uncounted` lists them with everything
    else that computes. Output positions are those of `example_inputs`, so name the image size with the number.

    Group names survive cuts, so the object built on the dense model stays valid for every later event.

    Args:
        model: Left as it is; parameters by qualified name, as in the groups' slots.
        groups: Its channel groups.
        example_inputs: As `trace_groups` takes them; the first axis of the first tensor is the batch.
    Attributes:
        constant_operators: Where in the model, with the operator -> MACs per image that do not follow the widths.
        uncounted: Operator -> number of calls that compute something and add nothing to the total.
    Raises:
        TraceError: If the model does not take the inputs, or cannot be exported.
    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
        >>> MACs(model, (), torch.zeros(2, 3, 4, 4)).dense == 16 * 8 * 3 * 9 + 8 * 16 * 10
        True
    """

    unit = "MACs"

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs) -> None:
        model, inputs = workable(model), as_arguments(example_inputs)
        batch = inputs.batch_size
        graph = _Calls(model, export_program(model, inputs), groups)
        terms = [replace(term, coefficient=term.coefficient / batch) for term in graph.weighted]
        self.constant_operators: dict[str, float] = {at: n / batch for at, n in graph.constants.items()}
        self.uncounted: dict[str, int] = dict(sorted(graph.uncounted.items()))
        fixed: dict[str, float] = defaultdict(float)
        for at, count in self.constant_operators.items():
            fixed[at.partition(": ")[0]] += count
        self._sum = WidthPolynomial(groups, terms, fixed)
        self.dense = self.total({})

    def total(self, widths: Mapping[str, float]) -> float:
        """MACs per image at these widths (group name -> channels); a group that is not named is whole."""
        return self._sum.at(widths)

    def along(self, widths: Mapping[str, float], group: str, choices: Sequence[int]) -> Tensor:
        """The costs where one group takes each of these widths and the others stay, float64 [choices]."""
        return self._sum.along(widths, group, choices)


class _Calls:
    """The calls of an exported graph, by how their cost depends on the widths; for the whole batch."""

    def __init__(
        self, model: nn.Module, exported: torch.export.ExportedProgram, groups: Sequence[ChannelGroup]
    ) -> None:
        self.owners = _owners_of_rows(groups)
        self.weighted: list[Term] = []
        self.constants: Counter[str] = Counter()
        self.uncounted: Counter[str] = Counter()
        self._weights = _weight_sources(model, exported)
        for node in exported.graph.nodes:
            if node.op == "call_function":
                self._sort(node)

    def _sort(self, node: Node) -> None:
        call, counted = ShapedCall.of(node), _product(node)
        if counted is None:
            self.uncounted[call.operator] += 1
        elif counted.macs:
            self._count(call, counted)

    def _count(self, call: ShapedCall, counted: Product) -> None:
        for operand in counted.weights:
            name, shape = self._weights.get(operand, ("", ()))
            if name and _is_of(operand.meta["val"], shape):
                self.weighted.append(Term(counted.macs / prod(shape), name, shape))
                return
        makers = list(filter(None, map(self._maker, call.node.all_input_nodes)))
        for name, rows in sorted(makers, key=lambda maker: maker[1] is None):  # stable: those with known rows first
            owned = self.owners[name]
            groups = {*owned} if rows is None else {owned[row] for row in rows.tolist()}
            count = sum(owner in groups for owner in owned)
            self.weighted.append(Term(counted.macs / count, name, (len(owned),), tuple(sorted(groups))))
            return
        self.constants[f"{call.module}: {call.operator}"] += counted.macs

    def _maker(self, node: Node) -> tuple[str, Tensor | None] | None:
        """The weight of the layer that an activation comes from through its first operands, and those of its rows that
        made it, None if they are not known; None if no row of it can go."""
        path: list[Node] = []
        while node.op == "call_function":
            counted = _product(node)
            for operand in counted.weights if counted else ():
                name, _ = self._weights.get(operand, ("", ()))
                if name:
                    return (name, _rows_behind(node, path, len(self.owners[name]))) if name in self.owners else None
            if not node.all_input_nodes:
                return None
            path.insert(0, node)
            node = node.all_input_nodes[0]
        return None


def _rows_behind(layer: Node, path: Sequence[Node], num_rows: int) -> Tensor | None:
    """Which rows of a layer's weight the result of the calls behind it comes from; None behind a call that may mix."""
    shape, view = shape_of(layer), operator_of(layer.target).latency
    axis = view.channel_axis % len(shape) if view is not None and view.weight else 0
    if shape[axis] != num_rows:
        return None
    rows: Any = torch.arange(num_rows).view([-1 if dim == axis else 1 for dim in range(len(shape))]).expand(shape)
    for node in path:
        known = operator_of(node.target).latency
        if known is not None and known.free and len(node.all_input_nodes) == 1:
            rows = node.target(rows, *node.args[1:], **node.kwargs)  # type: ignore[operator]  # a view, or a part
        elif not isinstance(rows, Tensor) or shape_of(node) != rows.shape:
            return None
    return distinct(rows.flatten()) if isinstance(rows, Tensor) else None


def _owners_of_rows(groups: Sequence[ChannelGroup]) -> dict[str, list[str]]:
    """Weight of which rows can go -> the group of each row."""
    names = {slot.name for group in prunable(groups) for slot in group.with_role("producer") if slot.dim == 0}
    owners: dict[str, dict[int, str]] = {name: {} for name in names}
    for group in groups:
        for slot in group.slots:
            if slot.dim == 0 and slot.name in names:
                owners[slot.name].update(dict.fromkeys(slot.positions.flatten().tolist(), group.name))
    return {name: [of_row[row] for row in sorted(of_row)] for name, of_row in owners.items()}


def _is_of(value: Tensor, shape: tuple[int, ...]) -> bool:
    """Whether a tensor has as many entries as a parameter of this shape, or is some of its rows."""
    return value.numel() == prod(shape) or (value.dim() > 1 and tuple(value.shape[1:]) == shape[1:])


def _product(node: Node) -> Product | None:
    """MACs of a call; None if they are not known."""
    count = operator_of(node.target).macs
    return count(ShapedCall.of(node)) if count else None


def _weight_sources(
    model: nn.Module, exported: torch.export.ExportedProgram
) -> dict[Node, tuple[str, tuple[int, ...]]]:
    """Node that is computed from one parameter of its size, and from no input -> that parameter's name and
    shape. Some of a parameter's rows will do: those of query, key and value fall alike.

    A weight may reach its convolution through a view or a standardisation, which keep the number of its
    entries.
    """
    first_name = {id(p): name for name, p in model.named_parameters()}
    named = {n: (first_name[id(p)], tuple(p.shape)) for n, p in model.named_parameters(remove_duplicate=False)}
    parameters = exported.graph_signature.inputs_to_parameters
    inputs = set(exported.graph_signature.user_inputs)
    varying: set[Node] = set()
    sources: dict[Node, set[tuple[str, tuple[int, ...]]]] = {}
    for node in exported.graph.nodes:
        if node.name in inputs or any(parent in varying for parent in node.all_input_nodes):
            varying.add(node)
        elif node.name in parameters and parameters[node.name] in named:
            sources[node] = {named[parameters[node.name]]}
        else:
            sources[node] = set().union(*(sources.get(parent, set()) for parent in node.all_input_nodes))
    result = {}
    for node, found in sources.items():
        value = node.meta.get("val")
        fitting = [s for s in found if isinstance(value, Tensor) and _is_of(value, s[1])]
        if len(fitting) == 1:
            result[node] = fitting[0]
    return result
