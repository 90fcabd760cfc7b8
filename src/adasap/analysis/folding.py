"""Batch norms folded into the layers before them, which removes a scale that the function does not depend on."""

from __future__ import annotations

import copy

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from adasap.groups.exported import ExampleInputs, export_graph


def fold_batch_norms(model: nn.Module, example_inputs: ExampleInputs) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy in which each batch norm right behind a convolution or linear layer is part of that layer.

    In evaluation mode the copy computes the same. A filter and the scale behind it can be multiplied and divided by
    the same number without changing the function, and sharpness in a euclidean ball changes by it; a folded model has
    no such freedom left within a layer. Batch norms elsewhere stay, with frozen statistics, and so do layers that are
    called more than once.

    Args:
        model: Stays as it is.
        example_inputs: As for `trace_groups`.
    Returns:
        The copy, and the names of the batch norms that are now part of a layer.
    Raises:
        TraceError: If the model cannot be exported.
    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        >>> folded, names = fold_batch_norms(net, torch.zeros(1, 3, 2, 2))
        >>> folded[0].bias.shape, names
        (torch.Size([4]), ('1',))
    """
    folded = copy.deepcopy(model).eval()
    pairs = _pairs(folded, example_inputs)
    for layer_name, norm_name in pairs:
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        assert isinstance(norm, _BatchNorm)
        if isinstance(layer, nn.Linear):
            fused: nn.Module = fuse_linear_bn_eval(layer, norm)
        else:
            assert isinstance(layer, _ConvNd)
            fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _ConvTransposeNd))
        folded.set_submodule(layer_name, fused)
        folded.set_submodule(norm_name, nn.Identity())
    return folded.requires_grad_(True), tuple(norm for _, norm in pairs)


def _pairs(model: nn.Module, example_inputs: ExampleInputs) -> list[tuple[str, str]]:
    """Layer and batch norm behind it, where nothing else reads the layer and both are called once."""
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
    found = []
    for name, nodes in owners.items():
        if len(nodes) != 1 or not isinstance(model.get_submodule(name), _BatchNorm):
            continue
        before = nodes[0].all_input_nodes[0]
        layers = [n for n, calls in owners.items() if calls == [before]]
        if len(layers) == 1 and len(before.users) == 1 and _can_take(model.get_submodule(layers[0])):
            found.append((layers[0], name))
    return found


def _can_take(layer: nn.Module) -> bool:
    return type(layer) in _LAYERS


_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


def folds_exactly(model: nn.Module, folded: nn.Module, inputs: torch.Tensor) -> float:
    """Largest difference of the two outputs relative to the largest output, in evaluation mode."""
    with torch.no_grad():
        before, after = model(inputs), folded(inputs)
    scale = before.abs().max().clamp_min(torch.finfo(before.dtype).tiny)
    return float((before - after).abs().max() / scale)
