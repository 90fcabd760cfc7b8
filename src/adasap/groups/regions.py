"""Regions of an exported graph, such as `with torch.autocast(...)`: their calls take the region's place."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

REGIONS = frozenset({"wrap_with_autocast", "wrap_with_set_grad_enabled"})


def inline_regions_(program: torch.export.ExportedProgram) -> None:
    """Replace each region of the program's graph by the calls inside, in place.

    `torch.export` puts what runs under another autocast or gradient mode than its surroundings into a graph of its
    own, called by one node. Which channel a number belongs to, and how many numbers there are, does not depend on
    these modes; number types in the nodes' `meta` stay those of the region.

    Example:
        >>> class Net(torch.nn.Module):
        ...     def forward(self, x):
        ...         with torch.autocast("cpu", enabled=False):
        ...             return x.relu() + 1
        >>> program = torch.export.export(Net(), (torch.zeros(2),))
        >>> inline_regions_(program)
        >>> [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        ['aten.relu.default', 'aten.add.Tensor']
    """
    for before, after in _inlined(program.graph_module).items():
        program.graph_signature.replace_all_uses(before, after)


def _inlined(module: fx.GraphModule) -> dict[str, str]:
    """Inline the regions of one graph; names of their results -> names of the nodes that compute them now."""
    renamed: dict[str, str] = {}
    for node in list(module.graph.nodes):
        if node.op == "call_function" and getattr(node.target, "__name__", "") in REGIONS:
            renamed.update(_inline_(module, node))
    return renamed


def _inline_(module: fx.GraphModule, region: fx.Node) -> dict[str, str]:
    arguments: Any = region.args
    is_body = [isinstance(argument, fx.Node) and argument.op == "get_attr" for argument in arguments]
    attribute, *operands = arguments[is_body.index(True) :]
    body: Any = module.get_submodule(attribute.target)
    _inlined(body)
    inputs = [node for node in body.graph.nodes if node.op == "placeholder"]
    with module.graph.inserting_before(region):
        results: Any = module.graph.graph_copy(body.graph, dict(zip(inputs, operands, strict=True)))
    renamed = {}
    for picked in list(region.users):
        place: Any = picked.args[1]
        computed: fx.Node = results[place]
        picked.replace_all_uses_with(computed)
        renamed[picked.name] = computed.name
        module.graph.erase_node(picked)
    module.graph.erase_node(region)
    if not attribute.users:
        module.graph.erase_node(attribute)
    return renamed
