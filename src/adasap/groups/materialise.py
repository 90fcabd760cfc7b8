"""Layers whose weight is computed in forward, as under weight standardisation, made plain: the values stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from adasap.groups.exported import ExampleInputs, as_arguments, evaluating, export_program

_LAYERS: dict[str, type[nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "linear": nn.Linear,
}


@dataclass(frozen=True)
class _Computed:
    """A convolution or linear layer whose weight depends on parameters alone, but is none."""

    module: str
    call: fx.Node
    arguments: dict[str, Any]


def materialise_weights_(model: nn.Module, example_inputs: ExampleInputs) -> tuple[str, ...]:
    """Replace layers that compute their weight in forward by plain ones with that weight, in place.

    A weight that is standardised over its fan-in cannot lose an input channel without changing what the others do,
    so such a layer cannot be cut as it is. The plain layer gives the same outputs and can, but it trains another
    parametrisation; make optimizers after this call. A layer that does more than one convolution or linear map of
    its input stays as it is, and tracing freezes it by name.

    Args:
        model: Any module that `torch.export` can follow, in any mode; values are those of evaluation mode.
        example_inputs: As for `trace_groups`.
    Returns:
        Qualified names of the layers that were replaced; none if all weights are plain.
    Raises:
        TraceError: If the model cannot be exported.
    Example:
        >>> net = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU())
        >>> materialise_weights_(net, torch.zeros(1, 3, 8, 8)), type(net[0]).__name__
        (('0',), 'Conv2d')
    """
    program = export_program(model, as_arguments(example_inputs))
    found = _computed_layers(model, program)
    if not found:
        return ()
    values = _Values(model, program)
    with evaluating(model), torch.no_grad():
        plain = [_plain(layer, values) for layer in found]
    for layer, module in zip(found, plain, strict=True):
        parent, _, name = layer.module.rpartition(".")
        module.train(model.get_submodule(layer.module).training)
        setattr(model.get_submodule(parent), name, module)
    return tuple(layer.module for layer in found)


def _computed_layers(model: nn.Module, program: torch.export.ExportedProgram) -> list[_Computed]:
    varying, found = _varying(program), []
    inside: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and node in varying:
            inside.setdefault(_owner(node), []).append(node)
    for module, nodes in inside.items():
        call = nodes[0]
        name = getattr(call.target, "_schema", None)
        if len(nodes) > 1 or name is None or name.name.partition("::")[2] not in _LAYERS or not module:
            continue
        arguments = _by_name(call)
        weight = arguments["weight"]
        computed = [
            isinstance(arguments[key], fx.Node) and arguments[key].op != "placeholder" for key in ("weight", "bias")
        ]
        if any(computed) and weight not in varying and _is_last_layer(model.get_submodule(module)):
            found.append(_Computed(module, call, arguments))
    return found


def _varying(program: torch.export.ExportedProgram) -> set[fx.Node]:
    """Nodes that depend on the model's inputs."""
    inputs = set(program.graph_signature.user_inputs)
    varying: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.name in inputs or any(parent in varying for parent in node.all_input_nodes):
            varying.add(node)
    return varying


def _owner(node: fx.Node) -> str:
    """The module that made the call; of a parametrised layer, the layer itself."""
    stack = node.meta.get("nn_module_stack") or {"": ("", None)}
    return str(list(stack.values())[-1][0])


def _is_last_layer(module: nn.Module) -> bool:
    """Whether a module computes by itself, parametrisations aside."""
    return all(name == "parametrizations" for name, _ in module.named_children())


def _by_name(call: fx.Node) -> dict[str, Any]:
    schema: Any = call.target._schema  # type: ignore[union-attr]
    named = {argument.name: argument.default_value for argument in schema.arguments}
    return named | dict(zip(named, call.args, strict=False)) | dict(call.kwargs)


class _Values:
    """Numbers of the graph's nodes that depend on parameters and buffers alone."""

    def __init__(self, model: nn.Module, program: torch.export.ExportedProgram) -> None:
        signature, state = program.graph_signature, {**dict(model.named_parameters()), **dict(model.named_buffers())}
        names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.known: dict[fx.Node, Any] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                self.known[node] = state.get(names[node.name], program.state_dict.get(names[node.name]))

    def of(self, node: fx.Node) -> Any:
        """The node's value, computed with what it depends on."""
        if node not in self.known:
            args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), self.of)
            self.known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self.known[node]


def _plain(layer: _Computed, values: _Values) -> nn.Module:
    arguments = layer.arguments
    weight: Tensor = values.of(arguments["weight"]).detach().clone()
    bias = None if arguments["bias"] is None else values.of(arguments["bias"]).detach().clone()
    plain: nn.Module = _plain_layer(layer.call, arguments, weight, bias is not None).to(weight.device, weight.dtype)
    plain.get_parameter("weight").data = weight
    if bias is not None:
        plain.get_parameter("bias").data = bias
    return plain


def _plain_layer(call: fx.Node, arguments: dict[str, Any], weight: Tensor, has_bias: bool) -> Any:
    kind: Any = _LAYERS[call.target._schema.name.partition("::")[2]]  # type: ignore[union-attr]
    if kind is nn.Linear:
        return nn.Linear(weight.shape[1], weight.shape[0], bias=has_bias)
    own = {key: arguments[key] for key in ("stride", "padding", "dilation")}
    own = {key: value if isinstance(value, str) else tuple(value) for key, value in own.items()}
    rank, groups = weight.dim() - 2, arguments["groups"]
    own = {key: value * rank if isinstance(value, tuple) and len(value) == 1 else value for key, value in own.items()}
    return kind(weight.shape[1] * groups, weight.shape[0], weight.shape[2:], groups=groups, bias=has_bias, **own)
