"""The calls of a model's forward, read off its graph, with widths of the channel groups in place of sizes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from adasap.profiling.layers import BEFORE, Count, LayerCall, Operand, Width, described, is_template, run_chain
from adasap.pruning.cost import owned_per_channel


def layer_calls(
    model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs, *, fused: bool = False
) -> tuple[LayerCall, ...]:
    """Every call of the forward pass that takes time, in evaluation mode, in order.

    Args:
        model: Left as it is.
        groups: Its channel groups.
        example_inputs: A batch.
        fused: Take a layer and what follows it element by element for one call, and a batch norm behind it for a bias,
            as runtimes do.
    Raises:
        TraceError: If the model cannot be exported.
    """
    model = workable(model)
    reader = _Reader(export_graph(model, example_inputs), model, groups)
    return tuple(_Chains(reader).calls()) if fused else reader.calls()


class _Reader:
    """Follows the number of channels through the graph."""

    def __init__(self, exported: ExportedGraph, model: nn.Module, groups: Sequence[ChannelGroup]) -> None:
        self.exported = exported
        self.whole = widths(groups)
        self.owned = owned_per_channel(prunable(groups))  # frozen widths never change
        self.names = {**exported.parameters, **exported.buffers}
        self.channels: dict[Node, tuple[int, Width]] = {}
        self.padded: set[Node] = set()  # channels that padding has added: how many will be left is not known here

    def nodes(self) -> Iterator[tuple[ShapedCall, LatencyView]]:
        """The calls that take time, in order; the channels up to each of them are known when it comes."""
        for node in self.exported.graph.nodes:
            if node.op != "call_function":
                continue
            call, view = ShapedCall.of(node), operator_of(node.target).latency or LatencyView()
            self._follow(call, view)
            if not view.free and isinstance(node.target, torch._ops.OpOverload):
                yield call, view

    def calls(self) -> tuple[LayerCall, ...]:
        return tuple(self._call(call, view) for call, view in self.nodes())

    # Widths

    def _axis(self, name: str, dim: int, size: int) -> Width:
        owned = self.owned.get((name, dim), {})
        fixed = size - sum(k * self.whole[group] for group, k in owned.items())
        return Width(fixed, tuple(sorted((group, float(k)) for group, k in owned.items())))

    def weight(self, call: ShapedCall, view: LatencyView) -> Node | None:
        """The parameter that a layer computes with; None for other operators, and for weights that are computed."""
        weight = call[view.weight] if view.weight else None
        return weight if isinstance(weight, Node) and weight.name in self.names else None

    def _follow(self, call: ShapedCall, view: LatencyView) -> None:
        """Which axis of the result carries channels, and how many of them."""
        node, shape = call.node, call.shape
        if (weight := self.weight(call, view)) is not None:
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
        arguments, keywords = self.templates(call, view, found)
        text = json.dumps(pytree.tree_map(described, (arguments, keywords), is_leaf=is_template))
        return LayerCall(
            where=call.module,
            key=f"{call.operator.removesuffix('_')} {text}",
            widths=tuple(found),
            dense=tuple(width.at(self.whole) for width in found),
            _target=call.node.target,  # type: ignore[arg-type]
            _arguments=arguments,
            _keywords=keywords,
        )

    def templates(
        self, call: ShapedCall, view: LatencyView, found: list[Width], before: Node | None = None
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The call's arguments and keywords, widths in place of sizes.

        Args:
            call: After the calls before it.
            view: Of its operator.
            found: The widths that templates count by; changed in place.
            before: The operand for which `BEFORE` stands.
        """

        def place_of(width: Width) -> int:
            if width not in found:
                found.append(width)
            return found.index(width)

        def template(value: Any) -> Any:
            if value is before and before is not None:
                return BEFORE
            return self._operand(value, call, view, place_of) if isinstance(value, Node) else value

        filled: Any = torch.fx.node.map_aggregate((call.node.args, call.node.kwargs), template)
        arguments, keywords = filled
        if found and view.groups and call[view.groups] > 1 and not self._across(call, view):
            arguments, keywords = _with(call, view.groups, Count(call[view.groups], 0), arguments, keywords)
        if name := view.sizes or view.parts:
            axis = len(call.shape) - 1 if view.sizes else 1
            place = dict(arguments[0].follows).get(axis)
            if place is not None:
                size = call.shape[axis]
                count: Any = [Count(size, place)] if view.sizes else Count(call[name], place, parts_of=size)
                arguments, keywords = _with(call, name, count, arguments, keywords)
        return tuple(arguments), keywords

    def _across(self, call: ShapedCall, view: LatencyView) -> bool:
        """Whether a grouped convolution loses channels of all of its groups and keeps their number."""
        weight = self.weight(call, view)
        if weight is None:
            return False
        name, per_group = self.names[weight.name], shape_of(weight)[0] // call[view.groups]
        return (name, 1) in self.owned or any(k % per_group for k in self.owned.get((name, 0), {}).values())

    def _read_by(self, call: ShapedCall, view: LatencyView, value: Node) -> tuple[int, Width] | None:
        """What a layer takes of its input, by its own weight; None for other operators."""
        weight = self.weight(call, view)
        if weight is None or value is not call.operands[0]:
            return None
        name, shape, inputs = self.names[weight.name], shape_of(weight), shape_of(value)
        dim = view.channel_axis % len(inputs)
        if inputs[dim] == shape[1]:
            return dim, self._axis(name, 1, shape[1])
        if self._across(call, view):
            return dim, self._axis(name, 1, shape[1])  # of each of its groups: the same width as the weight's
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


NORMS = ("batch_norm",)
SHARES = (0.03, 0.26, 0.47, 0.6, 0.87, 0.98)
"""Of a width, at which calls that become one are tried."""
MOST_WIDTHS = 2
"""That the time of a call may depend on: a grid of three has too many points."""


@dataclass
class _Chain:
    """Calls that become one."""

    where: str
    steps: list[Any] = field(default_factory=list)
    widths: list[Width] = field(default_factory=list)
    first: ShapedCall | None = None
    is_layer: bool = False

    def copy(self) -> _Chain:
        return replace(self, steps=[*self.steps], widths=[*self.widths])

    def bias_for(self, norm: ShapedCall, reader: _Reader) -> bool:
        """Whether the layer takes a bias in place of the norm, by which runtimes compute it."""
        layer, (target, arguments, keywords) = self.first, self.steps[0]
        if layer is None or not self.is_layer or len(self.steps) > 1:
            return False
        if "bias" not in layer.arguments or norm.arguments.get("running_mean") is None:
            return False
        if layer["bias"] is None:
            rows = arguments[list(layer.arguments).index("weight")]
            follows = tuple((0, place) for axis, place in rows.follows if axis == 0)
            bias = Operand(rows.shape[:1], rows.dtype, follows, is_weight=True)
            if rows.shape[0] != norm.shape[1]:
                return False  # a transposed layer's weight has its inputs first
            arguments, keywords = _with(layer, "bias", bias, arguments, keywords)
            self.steps[0] = (target, arguments, keywords)
        return True

    def call(self, whole: Mapping[str, int]) -> LayerCall:
        assert self.first is not None
        steps = tuple(self.steps)
        text = json.dumps(pytree.tree_map(described, steps, is_leaf=is_template))
        return LayerCall(
            where=self.where,
            key=f"{self.first.operator.removesuffix('_')} {text}",
            widths=tuple(self.widths),
            dense=tuple(width.at(whole) for width in self.widths),
            _target=run_chain,
            _arguments=(steps,),
            _keywords={},
        )


class _Chains:
    """Layers with what a runtime computes in the same pass: a bias in place of a norm, sums, activations."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.open: dict[Node, _Chain] = {}  # by what they have computed so far

    def calls(self) -> Iterator[LayerCall]:
        chains: list[_Chain] = []
        for call, view in self.reader.nodes():
            if view == LatencyView() and self._joined(call, view):
                continue
            chain = _Chain(call.module)
            self._add(chain, call, view, None)
            chain.is_layer = self.reader.weight(call, view) is not None
            chains.append(chain)
        return (chain.call(self.reader.whole) for chain in chains)

    def _joined(self, call: ShapedCall, view: LatencyView) -> bool:
        """Whether an open chain goes on with a call that has no weight and keeps the shape."""
        for before in reversed(call.operands):  # the last that was computed
            chain = self.open.get(before)
            if chain is None or len(before.users) > 1 or shape_of(before) != call.shape:
                continue
            if call.operator in NORMS and chain.bias_for(call, self.reader):
                self.open[call.node] = self.open.pop(before)
                return True
            trial = chain.copy()
            self._add(trial, call, view, before)
            if len(trial.widths) <= MOST_WIDTHS and _fits(trial.call(self.reader.whole)):
                chain.steps, chain.widths = trial.steps, trial.widths
                self.open[call.node] = self.open.pop(before)
                return True
            del self.open[call.node]
        return False

    def _add(self, chain: _Chain, call: ShapedCall, view: LatencyView, before: Node | None) -> None:
        arguments, keywords = self.reader.templates(call, view, chain.widths, before)
        chain.steps.append((call.node.target, arguments, keywords))
        chain.first = chain.first or call
        self.open[call.node] = chain


def _fits(call: LayerCall) -> bool:
    """Whether its tensors go together also where one of its widths alone is smaller, as at points of a table.

    They do not where a step makes channels of its own, as padding does: its result then follows another width than what
    it is added to; nor where several parts, each rounded, meet what is rounded as a whole.
    """
    for place, share in itertools.product(range(len(call.dense)), SHARES):
        at = [*call.dense]
        at[place] = max(1, round(share * at[place]))
        ratios = call.ratios(at)
        tensors = [torch.empty(one.sizes(ratios), dtype=one.dtype, device="meta") for one in call.operands]
        try:
            call.on(tensors, at)
        except (RuntimeError, IndexError):
            return False
    return True


def _with(
    call: ShapedCall, name: str, value: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments, with another value for one of them."""
    place = list(call.arguments).index(name)
    if place < len(arguments):
        return (*arguments[:place], value, *arguments[place + 1 :]), keywords
    return arguments, {**keywords, name: value}
