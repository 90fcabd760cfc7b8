"""The calls of a model's forward, read off its graph, with widths of the channel groups in place of sizes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.utils import _pytree as pytree

from adasap.groups.bare import workable
from adasap.groups.exported import ExportedGraph, export_graph
from adasap.groups.group import ChannelGroup, prunable, widths
from adasap.groups.inputs import ExampleInputs
from adasap.groups.operators import LatencyView, ShapedCall, operator_of
from adasap.groups.operators.call import shape_of
from adasap.profiling.layers import ConvolutionGroups, LayerCall, Operand, Width, described, is_template
from adasap.pruning.cost import owned_per_channel


def layer_calls(
    model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs
) -> tuple[LayerCall, ...]:
    """Every call of the forward pass that takes time, in evaluation mode, in order.

    Raises:
        TraceError: If the model cannot be exported.
    """
    model = workable(model)
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
            call, view = ShapedCall.of(node), operator_of(node.target).latency or LatencyView()
            self._follow(call, view)
            if not view.free and isinstance(node.target, torch._ops.OpOverload):
                calls.append(self._call(call, view))
        return tuple(calls)

    # Widths

    def _axis(self, name: str, dim: int, size: int) -> Width:
        owned = self.owned.get((name, dim), {})
        fixed = size - sum(k * self.whole[group] for group, k in owned.items())
        return Width(fixed, tuple(sorted((group, float(k)) for group, k in owned.items())))

    def _weight(self, call: ShapedCall, view: LatencyView) -> Node | None:
        """The parameter that a layer computes with; None for other operators, and for weights that are computed."""
        weight = call[view.weight] if view.weight else None
        return weight if isinstance(weight, Node) and weight.name in self.names else None

    def _follow(self, call: ShapedCall, view: LatencyView) -> None:
        """Which axis of the result carries channels, and how many of them."""
        node, shape = call.node, call.shape
        if (weight := self._weight(call, view)) is not None:
            rows = self._axis(self.names[weight.name], 0, shape_of(weight)[0])
            self.channels[node] = (view.channel_axis % len(shape), rows)
            return
        parents = sorted(filter(self.channels.__contains__, node.all_input_nodes), key=self.padded.__contains__)
        if not parents or not shape:
            return
        if view.joins:
            self._follow_concatenation(node, self.channels[parents[0]][0])
            return
        for parent in parents:
            dim, width = self.channels[parent]
            dense = width.at(self.whole)
            if dim < len(shape) and shape[dim] % dense == 0:
                self.channels[node] = (dim, width.times(shape[dim] / dense))
                if parent in self.padded or (view.pads and shape[dim] != dense):
                    self.padded.add(node)
                return

    def _follow_concatenation(self, node: Node, dim: int) -> None:
        total = Width(0.0)
        for parent in node.all_input_nodes:
            constant = Width(float(shape_of(parent)[dim]))
            total = total.plus(self.channels.get(parent, (dim, constant))[1])
        if total.at(self.whole) == shape_of(node)[dim]:
            self.channels[node] = (dim, total)

    # Calls

    def _call(self, call: ShapedCall, view: LatencyView) -> LayerCall:
        found: list[Width] = []

        def place_of(width: Width) -> int:
            if width not in found:
                found.append(width)
            return found.index(width)

        def template(value: Any) -> Any:
            return self._operand(value, call, view, place_of) if isinstance(value, Node) else value

        filled: Any = torch.fx.node.map_aggregate((call.node.args, call.node.kwargs), template)
        arguments, keywords = filled
        if found and view.groups and call[view.groups] > 1:
            arguments, keywords = _with_groups(call, view.groups, arguments, keywords)
        dense = tuple(width.at(self.whole) for width in found)
        text = json.dumps(pytree.tree_map(described, (arguments, keywords), is_leaf=is_template))
        return LayerCall(
            where=call.module,
            key=f"{call.operator.removesuffix('_')} {text}",
            widths=tuple(found),
            dense=dense,
            _target=call.node.target,  # type: ignore[arg-type]
            _arguments=tuple(arguments),
            _keywords=keywords,
        )

    def _read_by(self, call: ShapedCall, view: LatencyView, value: Node) -> tuple[int, Width] | None:
        """What a layer takes of its input, by its own weight; None for other operators."""
        weight = self._weight(call, view)
        if weight is None or value is not call.operands[0]:
            return None
        name, shape, inputs = self.names[weight.name], shape_of(weight), shape_of(value)
        dim = view.channel_axis % len(inputs)
        if inputs[dim] == shape[1]:
            return dim, self._axis(name, 1, shape[1])
        return dim, self._axis(name, 0, shape[0]).times(inputs[dim] / shape[0])  # grouped: whole groups go

    def _operand(self, value: Node, call: ShapedCall, view: LatencyView, place_of: Callable[[Width], int]) -> Any:
        node = call.node
        tensor = value.meta.get("val")
        if not isinstance(tensor, Tensor):
            return tensor
        shape = tuple(tensor.shape)
        widths: dict[int, Width] = {}
        if value.name in self.names:
            for dim, size in enumerate(shape):
                if (self.names[value.name], dim) in self.owned:
                    widths[dim] = self._axis(self.names[value.name], dim, size)
        elif (known := self._read_by(call, view, value) or self.channels.get(value)) is not None:
            widths[known[0]] = known[1]
            result = self.channels.get(node)
            if result and result[0] == known[0] and shape_of(node)[known[0]] == shape[known[0]]:
                # what is added to each other is equally wide
                widths.update([self._read_by(call, view, value) or result])
        moving = {dim: width for dim, width in widths.items() if width.per_channel}
        if view.joins and node in self.channels:
            moving = dict.fromkeys(moving, self.channels[node][1])  # all parts shrink alike
        follows = tuple((dim, place_of(width)) for dim, width in moving.items())
        return Operand(shape, tensor.dtype, follows, value.name in self.names)


def _with_groups(
    call: ShapedCall, name: str, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments, with its number of groups to be filled in."""
    groups, place = ConvolutionGroups(call[name], 0), list(call.arguments).index(name)
    if place < len(arguments):
        return (*arguments[:place], groups, *arguments[place + 1 :]), keywords
    return arguments, {**keywords, name: groups}
