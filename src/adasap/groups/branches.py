"""Finding residual branches that can be taken out whole: in the exported graph, tried before they are offered.

An addition is residual if one operand, the branch, is computed from the other, the skip. The branch can go if its last
layer's parameters at zero make it zero (a convolution's, a linear layer's, a norm's scale and shift, a layer scale).
Its block passes its input on then if nothing but such additions, dropout and a ReLU of what is not negative anyway lies
between; where a block holds several branches, or no module is the block, the layers of each branch go by themselves.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from adasap.groups.check import MAX_RELATIVE_ERROR, cut_matches_mask
from adasap.groups.exported import ExportedGraph
from adasap.groups.fake_model import copied, shared_copy
from adasap.groups.inputs import Arguments
from adasap.groups.operators.call import ShapedCall, operator_name, shape_of
from adasap.groups.redraw import redraw_, scale_statistics_
from adasap.groups.stand_ins import Branch, StandIn, is_within, take_out_
from adasap.groups.walk import writes

ADDS = ("add", "add_")
RELUS = ("relu", "relu_")
SAME = ("dropout", "dropout_", "feature_dropout", "clone", "contiguous", "alias", "detach")
"""In evaluation mode, the values of the first argument in its shape."""

ZERO_AT_ZERO = (
    *RELUS,
    *SAME,
    *("relu6", "relu6_", "leaky_relu", "leaky_relu_", "silu", "silu_", "gelu", "hardswish", "hardswish_", "tanh"),
    *("view", "reshape", "_unsafe_view", "flatten", "unflatten", "permute", "transpose", "squeeze", "unsqueeze"),
    *("slice", "select", "roll", "expand", "mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "movedim"),
)
"""Zeros in, zeros out, of the first argument."""

NEVER_NEGATIVE = (*RELUS, "relu6", "relu6_", "sigmoid", "sigmoid_", "softmax")
KEEPS_SIGN = (*SAME, "max_pool2d", "adaptive_avg_pool2d", "avg_pool2d")
LAYERS = ("conv1d", "conv2d", "conv3d", "linear", "batch_norm", "layer_norm", "group_norm")


def find_branches(
    model: nn.Module, exported: ExportedGraph, inputs: Arguments, *, keep: Iterable[str] = ()
) -> tuple[Branch, ...]:
    """The branches of a model that can be taken out, in the order of forward; no two share a module.

    Each is tried on a re-drawn float64 copy: the model without it must equal the model with the branch at zero.

    Args:
        model: Left as it is; a plain module.
        exported: Its graph in evaluation mode.
        inputs: As it was exported with.
        keep: Parameters whose modules must stay.
    """
    kept = set(keep)
    graph = _Graph(model, exported)
    found = [b for b in graph.branches() if not any(is_within(name, b.modules) for name in kept)]
    return _tried(model, inputs, found)


@dataclass(frozen=True)
class _Residual:
    """An addition, and what is added to what."""

    add: fx.Node
    skip: fx.Node
    branch: fx.Node
    zeroed: tuple[str, ...]


class _Graph:
    """The calls of a model's forward, by the modules that make them."""

    def __init__(self, model: nn.Module, exported: ExportedGraph) -> None:
        self.model, self.parameters = model, exported.parameters
        self.calls = [node for node in exported.graph.nodes if node.op == "call_function"]
        self.returned = set(exported.outputs)
        self.unused = {node for node in self.calls if not node.users and node not in self.returned}
        self.inside: dict[str, set[fx.Node]] = defaultdict(set)
        keys: dict[str, set[str]] = defaultdict(set)
        for node in self.calls:
            for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
                self.inside[path].add(node)
                keys[path].add(key)
        self.once = {path for path, ways in keys.items() if len(ways) == 1 and path and self._stands_alone(path)}
        self._behind: dict[fx.Node, set[fx.Node]] = {}
        self.residuals = {node: found for node in self.calls if (found := self._residual(node)) is not None}

    def branches(self) -> list[Branch]:
        """Blocks of one branch as a whole, else the branches by themselves."""
        found: dict[fx.Node, Branch] = {}
        done: set[fx.Node] = set()
        for path in sorted(self.once, key=lambda path: len(self.inside[path])):
            adds = self._passes_on(path)
            if adds is None or done & self.inside[path]:
                continue
            done |= self.inside[path]
            single = {add: self._layers(self.residuals[add]) for add in adds} if len(adds) > 1 else {}
            if single and all(single.values()):
                found |= {add: branch for add, branch in single.items() if branch is not None}
            else:
                zeroed = tuple(dict.fromkeys(name for add in adds for name in self.residuals[add].zeroed))
                found[adds[0]] = Branch(path, {path: "input"}, zeroed)
        for add, residual in self.residuals.items():
            if add not in done and (branch := self._layers(residual)) is not None:
                found[add] = branch
        place = {node: index for index, node in enumerate(self.calls)}
        return _disjoint([found[add] for add in sorted(found, key=place.__getitem__)])

    def _stands_alone(self, path: str) -> bool:
        """Whether a module has one name and shares no parameter or buffer with others."""
        module = self.model.get_submodule(path)
        names = [n for n, other in self.model.named_modules(remove_duplicate=False) if other is module]
        own = {id(t) for t in (*module.parameters(), *module.buffers())}
        outside = (
            tensor
            for named in (self.model.named_parameters, self.model.named_buffers)
            for name, tensor in named(remove_duplicate=False)
            if not is_within(name, {path: "input"})
        )
        return len(names) == 1 and not any(id(tensor) in own for tensor in outside)

    def _residual(self, node: fx.Node) -> _Residual | None:
        if operator_name(node.target) not in ADDS or node.kwargs.get("alpha", 1) != 1:
            return None
        left, right = node.args[0], node.args[1]
        if not (isinstance(left, fx.Node) and isinstance(right, fx.Node) and shape_of(left) == shape_of(right)):
            return None
        for skip, branch in ((left, right), (right, left)):
            if skip in self._ancestors(branch) and (zeroed := self._zeroed(branch, skip)):
                return _Residual(node, skip, branch, zeroed)
        return None

    def _ancestors(self, node: fx.Node) -> set[fx.Node]:
        if node not in self._behind:
            waiting, seen = [node], set[fx.Node]()
            while waiting:
                for parent in waiting.pop().all_input_nodes:
                    if parent not in seen:
                        seen.add(parent)
                        waiting.append(parent)
            self._behind[node] = seen
        return self._behind[node]

    def _parameter(self, node: object) -> str | None:
        """The parameter that a node is, perhaps in another shape."""
        while isinstance(node, fx.Node) and node.op == "call_function" and len(node.all_input_nodes) == 1:
            if operator_name(node.target) not in (*SAME, "view", "reshape", "unsqueeze", "expand", "flatten"):
                return None
            node = node.all_input_nodes[0]
        return self.parameters.get(node.name) if isinstance(node, fx.Node) else None

    def _zeroed(self, node: fx.Node, skip: fx.Node) -> tuple[str, ...]:
        """Parameters whose zeros make a node zero; empty if there are none behind the skip."""
        if node is skip or node.op != "call_function" or skip not in self._ancestors(node):
            return ()
        name = operator_name(node.target)
        if name in LAYERS:
            call = ShapedCall.of(node)
            weight, bias = self._parameter(call["weight"]), call["bias"]
            shift = None if bias is None else self._parameter(bias)
            is_norm = name.endswith("norm")
            if weight is None or (bias is not None and shift is None) or (is_norm and shift is None):
                return ()
            return (weight, shift) if shift is not None else (weight,)
        operands = [arg for arg in node.args if isinstance(arg, fx.Node)]
        if name in ("mul", "mul_"):
            scale = next(filter(None, map(self._parameter, operands)), None)
            return (scale,) if scale else next(filter(None, (self._zeroed(arg, skip) for arg in operands)), ())
        if name in ADDS:
            parts = [self._zeroed(arg, skip) for arg in operands]
            return tuple(dict.fromkeys(n for part in parts for n in part)) if len(parts) == 2 and all(parts) else ()
        return self._zeroed(operands[0], skip) if name in ZERO_AT_ZERO and operands else ()

    def _passes_on(self, path: str) -> list[fx.Node] | None:
        """The residual additions of a module that gives its input once their branches are zero; None for others."""
        inside = self.inside[path]
        leaving = [n for n in inside if n in self.returned or any(user not in inside for user in n.users)]
        if len(leaving) != 1 or any(map(writes, leaving[0].users)):
            return None  # what writes into the block's result would write into its input
        adds: list[fx.Node] = []
        node, rectified = leaving[0], False
        while node in inside:
            name = operator_name(node.target)
            if (residual := self.residuals.get(node)) is not None:
                adds.append(node)
                node = residual.skip
            elif name in (*SAME, *RELUS):
                rectified = rectified or name in RELUS
                node = node.all_input_nodes[0]
            else:
                return None
        entering = {parent for n in inside for parent in n.all_input_nodes if parent not in inside}
        is_input = node in entering and node.name not in self.parameters
        return adds[::-1] if adds and is_input and (not rectified or _never_negative(node)) else None

    def _layers(self, residual: _Residual) -> Branch | None:
        """The modules that compute nothing but a branch: the one it ends in gives zeros, the others their input."""
        own = self._own_calls(residual)
        whole = {path for path in self.once if self.inside[path] and self.inside[path] <= own | self.unused}
        outermost = [p for p in whole if not any(p != q and is_within(p, {q: "input"}) for q in whole)]
        last: fx.Node | None = residual.branch
        while last is not None and not any(last in self.inside[path] for path in outermost):
            last = last.all_input_nodes[0] if last in own and last.all_input_nodes else None
        if last is None:
            return None
        first = {node: place for place, node in enumerate(self.calls)}
        outermost.sort(key=lambda path: min(first[node] for node in self.inside[path]))
        between = own - set().union(*(self.inside[path] for path in outermost))
        unsafe = any(map(writes, between))  # into the skip, if that were passed on
        modules: dict[str, StandIn] = {}
        for path in outermost:
            attends = isinstance(self.model.get_submodule(path), nn.MultiheadAttention)
            zeros: StandIn = "zeros and none" if attends else "zeros"
            passed: StandIn = "input and none" if attends else "input"
            modules[path] = zeros if unsafe or last in self.inside[path] else passed
        largest = max(outermost, key=lambda path: len(self.inside[path]))
        return Branch(largest, modules, residual.zeroed)

    def _own_calls(self, residual: _Residual) -> set[fx.Node]:
        """The calls whose results go nowhere but through the branch into its addition."""
        own: set[fx.Node] = set()
        for node in reversed(self.calls):
            users = set(node.users) - self.unused
            if node is not residual.skip and node not in self.returned and users and users <= {*own, residual.add}:
                own.add(node)
        return own


def _never_negative(node: fx.Node) -> bool:
    while node.op == "call_function":
        name = operator_name(node.target)
        if name in NEVER_NEGATIVE:
            return True
        if name not in KEEPS_SIGN:
            return False
        node = node.all_input_nodes[0]
    return False


def _disjoint(branches: Sequence[Branch]) -> list[Branch]:
    """Without those that share a module with an earlier one."""
    taken: dict[str, StandIn] = {}
    found = []
    for branch in branches:
        if not any(is_within(n, taken) or any(is_within(t, {n: "input"}) for t in taken) for n in branch.modules):
            taken |= branch.modules
            found.append(branch)
    return found


def _tried(model: nn.Module, inputs: Arguments, branches: Sequence[Branch]) -> tuple[Branch, ...]:
    """Those without which the model is what it is with the branch at zero: all together, else one by one."""
    if not branches or any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
        return ()
    generator = torch.Generator().manual_seed(0)
    dense = copied(model).cpu().double()
    redraw_(dense, generator)
    drawn = inputs.rows(2).map(
        lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64) if t.is_floating_point() else t.cpu()
    )
    scale_statistics_(dense, drawn)

    def fits(some: Sequence[Branch]) -> bool:
        bare = shared_copy(dense)
        take_out_(bare, {name: gives for branch in some for name, gives in branch.modules.items()})
        try:
            return cut_matches_mask(dense, bare, (), {}, drawn, branches=some) <= MAX_RELATIVE_ERROR
        except Exception:  # whatever the model's own code raises without a layer
            return False

    if fits(branches):
        return tuple(branches)
    alone = [branch for branch in branches if fits([branch])]
    return tuple(alone) if alone and fits(alone) else ()
