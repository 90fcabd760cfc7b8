"""Layers whose weight is computed from other tensors, made plain: the values stay.

Two kinds: weights that torch computes before forward (parametrisations, `weight_norm` and `spectral_norm` of either
form, pruning masks), and weights that the layer's own forward computes, as under weight standardisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from adasap.errors import ModelError
from adasap.groups.bare import workable
from adasap.groups.exported import evaluating, export_program
from adasap.groups.inputs import ExampleInputs, as_arguments
from adasap.groups.past import past_of, remember

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


def materialise_weights_(model: nn.Module, example_inputs: ExampleInputs | None = None) -> tuple[str, ...]:
    """Replace weights that are computed from other tensors by plain ones with their values, in place.

    A weight that is normalised or standardised cannot lose an input channel without changing what the others do, so
    such a layer cannot be cut as it is. The plain layer gives the same outputs in evaluation mode and can, but it
    trains another parametrisation: `weight_norm` and its like are gone, and entries that a pruning mask held at zero
    may grow again. Make optimizers after this call. A layer whose forward does more than one convolution or linear
    map of its input stays as it is, and tracing freezes it by name.

    Args:
        model: In any mode; values are those of evaluation mode. Wrappers are looked through.
        example_inputs: As for `trace_groups`; without them, layers that compute their weight in their own forward
            (weight standardisation) are not looked for.
    Returns:
        Qualified names of the layers that were made plain; none if all weights are.
    Raises:
        TraceError: If example inputs are given and the model cannot be exported.
    Example:
        >>> net = nn.Sequential(torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.ReLU())
        >>> materialise_weights_(net), type(net[0]).__name__
        (('0',), 'Conv2d')
    """
    model = workable(model)
    names = tuple(dict.fromkeys(name for name, _ in computed_weights(model)))
    with evaluating(model):
        for module in dict.fromkeys(model.modules()):
            _remove_computations_(module)
    if example_inputs is not None:
        names += _materialise_forward_(model, example_inputs)
    if names:
        remember(model, replace(past_of(model), plain_weights=True))
    return names


def computed_weights(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Qualified name of each module whose weights torch computes before forward, and by what."""
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            kinds = {type(step).__name__.strip("_") for steps in module.parametrizations.values() for step in steps}
            yield name, f"parametrised ({', '.join(sorted(kinds))})"
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm | SpectralNorm):
                yield name, f"under torch.nn.utils.{'weight' if isinstance(hook, WeightNorm) else 'spectral'}_norm"
            elif isinstance(hook, prune.BasePruningMethod):
                yield name, "under a mask of torch.nn.utils.prune"


def plain_model(model: nn.Module) -> nn.Module:
    """The plain module inside wrappers, if it can be cut as it is.

    Raises:
        ModelError: For weights that are lazy, quantised or complex, or that torch computes from others.
    Example:
        >>> plain_model(nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2))))
        Traceback (most recent call last):
        adasap.errors.ModelError: 0 is parametrised (SpectralNorm): its weights are computed from other tensors, which
        cannot be cut with its channels; call adasap.groups.materialise_weights_(model) first, which puts plain weights
        of the same values there
    """
    bare = workable(model)
    found = list(computed_weights(bare))
    if found:
        name, kind = found[0]
        others = f" and {len(found) - 1} more" if len(found) > 1 else ""
        raise ModelError(
            f"{name or 'the model'} is {kind}{others}: its weights are computed from other tensors, which cannot be "
            "cut with its channels; call adasap.groups.materialise_weights_(model) first, which puts plain weights of "
            "the same values there"
        )
    return bare


def _remove_computations_(module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        _remove_parametrisations_(module)
    hooks = list(module._forward_pre_hooks.values())
    for hook in reversed(hooks):
        if isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    for hook in reversed(hooks):
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
            _accept_plain_state_(module)


def _accept_plain_state_(module: nn.Module) -> None:
    """torch forgets to remove the hook that looks for the parts of a spectral norm in every state that is loaded."""
    hooks = module._load_state_dict_pre_hooks
    for key, hook in list(hooks.items()):
        if isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook):
            del hooks[key]


def _remove_parametrisations_(module: nn.Module) -> None:
    """torch's own removal edits the class, which copies of the layer share, and would break the original's."""
    lists: Any = module.parametrizations
    with torch.no_grad():
        values = {name: getattr(module, name).detach().clone() for name in lists}
    trained = {name: [p.requires_grad for p in steps.parameters()] for name, steps in lists.items()}
    del module.parametrizations
    module.__class__ = type(module).__bases__[0]
    for name, value in values.items():
        if trained[name]:
            module.register_parameter(name, nn.Parameter(value, requires_grad=any(trained[name])))
        else:
            module.register_buffer(name, value)


def _materialise_forward_(model: nn.Module, example_inputs: ExampleInputs) -> tuple[str, ...]:
    """Replace layers whose own forward computes their weight by plain ones."""
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
