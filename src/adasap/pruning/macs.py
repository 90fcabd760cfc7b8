"""Multiply-accumulates of a model as a function of its widths, read from its exported graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node

from adasap.errors import TraceError
from adasap.groups.exported import evaluating
from adasap.groups.group import ChannelGroup, prunable
from adasap.pruning.cost import Term, WidthPolynomial

_MOVES = """
    view reshape _unsafe_view view_as unflatten flatten squeeze unsqueeze permute transpose t numpy_T
    movedim swapaxes expand expand_as repeat repeat_interleave contiguous clone detach detach_ alias
    lift_fresh_copy to _to_copy type_as copy copy_ cat stack chunk split split_with_sizes unbind select
    slice narrow index index_select gather unfold select_scatter slice_scatter pad constant_pad_nd roll flip
    pixel_shuffle pixel_unshuffle channel_shuffle im2col col2im arange linspace meshgrid eye zeros ones full
    zeros_like ones_like full_like new_zeros new_ones new_full empty scalar_tensor tril triu masked_fill
    masked_fill_ where dropout dropout_ feature_dropout sym_size getitem _assert_tensor_metadata
"""
MOVES = frozenset(_MOVES.split())
"""Operators that move or fill numbers and compute none; dropout does so in evaluation mode."""


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
        example_inputs: A batch, or the tuple of the model's arguments; its first tensor's first axis is the batch.
    Attributes:
        constant_operators: Where in the model, with the operator -> MACs per image that do not follow the widths.
        uncounted: Operator -> number of calls that compute something and add nothing to the total.
    Raises:
        TraceError: If the model cannot be exported.
    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Flatten(), nn.Linear(8 * 16, 10))
        >>> MACs(model, (), torch.zeros(2, 3, 4, 4)).dense == 16 * 8 * 3 * 9 + 8 * 16 * 10
        True
    """

    unit = "MACs"

    def __init__(
        self, model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: Tensor | tuple[Any, ...]
    ) -> None:
        model = getattr(model, "_orig_mod", model)
        inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
        batch = next((len(x) for x in inputs if isinstance(x, Tensor) and x.ndim), 1)
        graph = _Calls(model, _export(model, inputs), _rows_that_can_go(groups))
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
        operator = _operator(node)
        product = _product(node, operator)
        if product is None:
            if operator not in MOVES:
                self.uncounted[operator] += 1
            return
        macs, operands = product
        for operand in operands:
            name, shape = self._weights.get(operand, ("", ()))
            if name and prod(shape) == prod(operand.meta["val"].shape):
                self.weighted.append(Term(macs / prod(shape), name, shape))
                return
        if made_by := next(filter(None, map(self._maker, node.all_input_nodes)), None):
            self.weighted.append(Term(macs / made_by[1], made_by[0], (made_by[1],)))
            return
        self.constants[f"{_place(node)}: {operator}"] += macs

    def _maker(self, node: Node) -> tuple[str, int] | None:
        """The weight of the layer that an activation comes from through its first operands, and the number of rows;
        None if rows of it cannot go."""
        while node.op == "call_function":
            product = _product(node, _operator(node))
            for operand in product[1] if product else ():
                name, shape = self._weights.get(operand, ("", ()))
                if name:
                    return (name, shape[0]) if name in self.rows else None
            if not node.all_input_nodes:
                return None
            node = node.all_input_nodes[0]
        return None


def _rows_that_can_go(groups: Sequence[ChannelGroup]) -> frozenset[str]:
    return frozenset(slot.name for group in prunable(groups) for slot in group.with_role("producer") if slot.dim == 0)


def _product(node: Node, operator: str) -> tuple[int, list[Node]] | None:
    """MACs of the call, and its operands that may be the weight; None if it is no product."""
    args, out = node.args, _shape(node)
    match operator:
        case "conv1d" | "conv2d" | "conv3d" | "convolution" if not (operator == "convolution" and args[6]):
            return prod(out) // out[1] * prod(_shape(args[1])), [_node(args[1])]
        case "conv_transpose1d" | "conv_transpose2d" | "conv_transpose3d" | "convolution":
            x = _shape(args[0])
            return prod(x) // x[1] * prod(_shape(args[1])), [_node(args[1])]
        case "linear":
            return prod(out) * _shape(args[1])[-1], [_node(args[1])]
        case "matmul" | "mm" | "bmm" | "mv" | "dot":
            return prod(out) * _shape(args[0])[-1], [_node(args[1]), _node(args[0])]
        case "addmm" | "baddbmm" | "addmv":
            return prod(out) * _shape(args[1])[-1], [_node(args[2]), _node(args[1])]
        case "scaled_dot_product_attention":
            keys = _shape(args[1])[-2]
            return prod(_shape(args[0])) * keys + prod(out) * keys, []
        case "einsum":
            return _einsum_product(str(args[0]), args[1])
        case _:
            return None


def _einsum_product(equation: str, arguments: Any) -> tuple[int, list[Node]] | None:
    operands = [_node(argument) for argument in arguments]
    letters = equation.replace(" ", "").partition("->")[0].split(",")
    if len(operands) != 2 or "." in equation:
        return None
    sizes = {x: n for names, o in zip(letters, operands, strict=True) for x, n in zip(names, _shape(o), strict=True)}
    return prod(sizes.values()), operands[::-1]


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


def _export(model: nn.Module, inputs: tuple[Any, ...]) -> torch.export.ExportedProgram:
    with evaluating(model):
        try:
            return torch.export.export(model, inputs)
        except Exception as error:
            raise TraceError(
                f"{type(model).__name__} could not be exported to count its MACs: {error}; budget by "
                f"Parameters(model, groups), or export the part of the model that can be"
            ) from error


def _operator(node: Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        namespace, _, name = node.target._schema.name.partition("::")
        return name if namespace == "aten" else f"{namespace}::{name}"
    return getattr(node.target, "__name__", str(node.target))


def _place(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return str(list(stack.values())[-1][0]) or "model"


def _node(argument: Any) -> Node:
    assert isinstance(argument, Node)
    return argument


def _shape(argument: Any) -> tuple[int, ...]:
    value = _node(argument).meta["val"]
    return tuple(value.shape) if isinstance(value, Tensor) else ()
