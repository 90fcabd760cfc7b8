"""Multiply-accumulates of a model as a function of its widths, read from its exported graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.fx import Node

from adasap.groups.bare import workable
from adasap.groups.exported import export_program
from adasap.groups.group import ChannelGroup, prunable
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.operators import Product, ShapedCall, operator_of
from adasap.pruning.cost import Term, WidthPolynomial


class MACs:
    """Multiply-accumulates per image of convolutions, linear layers and attention products, in evaluation
    mode.

    A call with a parameter as its weight costs output positions x entries of the weight and follows the widths.
    Products between activations follow the rows of the layer that made an operand, as whole heads go; if these rows
    cannot be cut, they count as they are at the model's present widths and `constant_operators` lists them. Additions
    of biases, norms, activation functions and pooling do not count; `uncounted` lists them with everything else that
    computes. Output positions are those of `example_inputs`, so name the image size with the number.

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
        graph = _Calls(model, export_program(model, inputs), _rows_that_can_go(groups))
        terms = [Term(term.coefficient / batch, term.name, term.shape) for term in graph.weighted]
        self.constant_operators: dict[str, float] = {at: n / batch for at, n in graph.constants.items()}
        self.uncounted: dict[str, int] = dict(sorted(graph.uncounted.items()))
        self._sum = WidthPolynomial(groups, terms, constant=sum(self.constant_operators.values()))
        self.dense = self.total({})

    def total(self, widths: Mapping[str, float]) -> float:
        """MACs per image at these widths (group name -> channels); a group that is not named is whole."""
        return self._sum.at(widths)

    def along(self, widths: Mapping[str, float], group: str, choices: Sequence[int]) -> Tensor:
        """The costs where one group takes each of these widths and the others stay, float64 [choices]."""
        return self._sum.along(widths, group, choices)


class _Calls:
    """The calls of an exported graph, by how their cost depends on the widths; for the whole batch."""

    def __init__(self, model: nn.Module, exported: torch.export.ExportedProgram, rows: frozenset[str]) -> None:
        self.rows = rows
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
            if name and prod(shape) == prod(operand.meta["val"].shape):
                self.weighted.append(Term(counted.macs / prod(shape), name, shape))
                return
        if made_by := next(filter(None, map(self._maker, call.node.all_input_nodes)), None):
            self.weighted.append(Term(counted.macs / made_by[1], made_by[0], (made_by[1],)))
            return
        self.constants[f"{call.module}: {call.operator}"] += counted.macs

    def _maker(self, node: Node) -> tuple[str, int] | None:
        """The weight of the layer that an activation comes from through its first operands, and the number of rows;
        None if rows of it cannot go."""
        while node.op == "call_function":
            counted = _product(node)
            for operand in counted.weights if counted else ():
                name, shape = self._weights.get(operand, ("", ()))
                if name:
                    return (name, shape[0]) if name in self.rows else None
            if not node.all_input_nodes:
                return None
            node = node.all_input_nodes[0]
        return None


def _rows_that_can_go(groups: Sequence[ChannelGroup]) -> frozenset[str]:
    return frozenset(slot.name for group in prunable(groups) for slot in group.with_role("producer") if slot.dim == 0)


def _product(node: Node) -> Product | None:
    """MACs of a call; None if they are not known."""
    count = operator_of(node.target).macs
    return count(ShapedCall.of(node)) if count else None


def _weight_sources(
    model: nn.Module, exported: torch.export.ExportedProgram
) -> dict[Node, tuple[str, tuple[int, ...]]]:
    """Node that is computed from one parameter of its size, and from no input -> that parameter's name and
    shape.

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
        fitting = [s for s in found if isinstance(value, Tensor) and prod(s[1]) == value.numel()]
        if len(fitting) == 1:
            result[node] = fitting[0]
    return result
