"""The calls of a model's forward, read off its graph, with widths of the channel groups in place of sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from adasap.groups.exported import ExampleInputs, ExportedGraph, export_graph
from adasap.groups.group import ChannelGroup, prunable, widths
from adasap.pruning.cost import owned_per_channel
from adasap.pruning.latency.layers import ConvolutionGroups, LayerCall, Operand, Width, described, is_template

_FREE = """
    view reshape _unsafe_view flatten unflatten squeeze unsqueeze permute transpose t numpy_T movedim expand expand_as
    detach alias dropout feature_dropout chunk split split_with_sizes unbind select slice narrow getitem sym_size
    _assert_tensor_metadata contiguous lift_fresh_copy
"""
FREE = frozenset(_FREE.split())
"""Operators that only change how memory is looked at, in evaluation mode."""

OVER_GROUPS = frozenset(["conv1d", "conv2d", "conv3d"])
CONCATENATIONS = frozenset(["cat", "concat", "concatenate"])


def layer_calls(
    model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs
) -> tuple[LayerCall, ...]:
    """Every call of the forward pass that takes time, in evaluation mode, in order.

    Raises:
        TraceError: If the model cannot be exported.
    """
    return _Reader(export_graph(model, example_inputs), model, groups).calls()


class _Reader:
    """Follows the number of channels through the graph."""

    def __init__(self, exported: ExportedGraph, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        self.exported = exported
        self.whole = widths(groups)
        self.owned = owned_per_channel(prunable(groups))  # frozen widths never change
        self.names = {**exported.parameters, **exported.buffers}
        self.channels: dict[Node, tuple[int, Width]] = {}
        self.padded: set[Node] = set()  # channels that padding has added: how many will be left is not known here

    def calls(self) -> tuple[LayerCall, ...]:
        calls = []
        for node in self.exported.graph.nodes:
            if node.op != "call_function":
                continue
            self._follow(node)
            if _operator(node) not in FREE and isinstance(node.target, torch._ops.OpOverload):
                calls.append(self._call(node))
        return tuple(calls)

    # Widths

    def _axis(self, name: str, dim: int, size: int) -> Width:
        owned = self.owned.get((name, dim), {})
        fixed = size - sum(k * self.whole[group] for group, k in owned.items())
        return Width(fixed, tuple(sorted((group, float(k)) for group, k in owned.items())))

    def _follow(self, node: Node) -> None:
        """Which axis of the result carries channels, and how many of them."""
        shape = _shape(node)
        weight = node.args[1] if len(node.args) > 1 else None
        if _operator(node) in (*OVER_GROUPS, "linear") and isinstance(weight, Node) and weight.name in self.names:
            dim = 1 if _operator(node) != "linear" else len(shape) - 1
            self.channels[node] = (dim, self._axis(self.names[weight.name], 0, _shape(weight)[0]))
            return
        parents = sorted(filter(self.channels.__contains__, node.all_input_nodes), key=self.padded.__contains__)
        if not parents or not shape:
            return
        if _operator(node) in CONCATENATIONS:
            self._follow_concatenation(node, self.channels[parents[0]][0])
            return
        for parent in parents:
            dim, width = self.channels[parent]
            dense = width.at(self.whole)
            if dim < len(shape) and shape[dim] % dense == 0:
                self.channels[node] = (dim, width.times(shape[dim] / dense))
                if parent in self.padded or ("pad" in _operator(node) and shape[dim] != dense):
                    self.padded.add(node)
                return

    def _follow_concatenation(self, node: Node, dim: int) -> None:
        total = Width(0.0)
        for parent in node.all_input_nodes:
            constant = Width(float(_shape(parent)[dim]))
            total = total.plus(self.channels.get(parent, (dim, constant))[1])
        if total.at(self.whole) == _shape(node)[dim]:
            self.channels[node] = (dim, total)

    # Calls

    def _call(self, node: Node) -> LayerCall:
        found: list[Width] = []

        def place_of(width: Width) -> int:
            if width not in found:
                found.append(width)
            return found.index(width)

        def template(value: Any) -> Any:
            return self._operand(value, node, place_of) if isinstance(value, Node) else value

        filled: Any = torch.fx.node.map_aggregate((node.args, node.kwargs), template)
        arguments, keywords = filled
        if found and _operator(node) in OVER_GROUPS and len(arguments) > 6 and arguments[6] > 1:
            arguments = (*arguments[:6], ConvolutionGroups(arguments[6], 0), *arguments[7:])
        dense = tuple(width.at(self.whole) for width in found)
        text = json.dumps(pytree.tree_map(described, (arguments, keywords), is_leaf=is_template))
        return LayerCall(
            where=_place(node),
            key=f"{_operator(node)} {text}",
            widths=tuple(found),
            dense=dense,
            _target=node.target,  # type: ignore[arg-type]
            _arguments=tuple(arguments),
            _keywords=keywords,
        )

    def _read_by(self, node: Node, value: Node) -> tuple[int, Width] | None:
        """What a convolution or linear layer takes of its input, by its own weight; None for other operators."""
        weight = node.args[1] if len(node.args) > 1 else None
        if _operator(node) not in (*OVER_GROUPS, "linear") or value is not node.args[0]:
            return None
        if not isinstance(weight, Node) or weight.name not in self.names:
            return None
        name, shape, inputs = self.names[weight.name], _shape(weight), _shape(value)
        dim = len(inputs) - 1 if _operator(node) == "linear" else len(inputs) - len(shape) + 1
        if inputs[dim] == shape[1]:
            return dim, self._axis(name, 1, shape[1])
        return dim, self._axis(name, 0, shape[0]).times(inputs[dim] / shape[0])  # grouped: whole groups go

    def _operand(self, value: Node, node: Node, place_of: Callable[[Width], int]) -> Any:
        tensor = value.meta.get("val")
        if not isinstance(tensor, Tensor):
            return tensor
        shape = tuple(tensor.shape)
        widths: dict[int, Width] = {}
        if value.name in self.names:
            for dim, size in enumerate(shape):
                if (self.names[value.name], dim) in self.owned:
                    widths[dim] = self._axis(self.names[value.name], dim, size)
        elif (known := self._read_by(node, value) or self.channels.get(value)) is not None:
            widths[known[0]] = known[1]
            result = self.channels.get(node)
            if result and result[0] == known[0] and _shape(node)[known[0]] == shape[known[0]]:
                widths.update([self._read_by(node, value) or result])  # what is added to each other is equally wide
        moving = {dim: width for dim, width in widths.items() if width.per_channel}
        if _operator(node) in CONCATENATIONS and node in self.channels:
            moving = dict.fromkeys(moving, self.channels[node][1])  # all parts shrink alike
        follows = tuple((dim, place_of(width)) for dim, width in moving.items())
        return Operand(shape, tensor.dtype, follows, value.name in self.names)


def _operator(node: Node) -> str:
    if isinstance(node.target, torch._ops.OpOverload):
        return node.target._schema.name.partition("::")[2].removesuffix("_")
    return getattr(node.target, "__name__", str(node.target))


def _place(node: Node) -> str:
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return str(list(stack.values())[-1][0]) or "model"


def _shape(node: Node) -> tuple[int, ...]:
    value = node.meta.get("val")
    return tuple(value.shape) if isinstance(value, Tensor) else ()
