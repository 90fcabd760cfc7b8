"""Batch norms right behind a layer, which read it alone: together they are one affine map."""

from __future__ import annotations

from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from adasap.groups.exported import export_graph
from adasap.groups.inputs import ExampleInputs


def norms_behind(model: nn.Module, example_inputs: ExampleInputs) -> dict[str, str]:
    """Convolution or linear layer -> batch norm behind it, where nothing else reads it and both are called once.

    Args:
        model: Left as it is.
        example_inputs: As for `trace_groups`.
    Raises:
        TraceError: If the model cannot be exported.
    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> norms_behind(net, torch.zeros(1, 3, 2, 2))
        {'0': '1'}
    """
    exported = export_graph(model, example_inputs)
    owners: dict[str, list[fx.Node]] = {}
    for node in exported.graph.nodes:
        names = {
            exported.parameters[a.name].rpartition(".")[0]
            for a in node.all_input_nodes
            if a.name in exported.parameters
        }
        for name in names:
            owners.setdefault(name, []).append(node)
    found = {}
    for name, nodes in owners.items():
        if len(nodes) != 1 or not isinstance(model.get_submodule(name), _BatchNorm):
            continue
        before = nodes[0].all_input_nodes[0]
        layers = [n for n, calls in owners.items() if calls == [before]]
        if (
            len(layers) == 1
            and len(before.users) == 1
            and isinstance(model.get_submodule(layers[0]), nn.Linear | _ConvNd)
        ):
            found[layers[0]] = name
    return found
