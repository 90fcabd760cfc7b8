"""Batch norms folded into the layers before them, which removes a scale that the function does not depend on."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from adasap.groups.bare import unwrap
from adasap.groups.fake_model import copied
from adasap.groups.inputs import ExampleInputs
from adasap.groups.norms_behind import norms_behind

_LAYERS = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)


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
        >>> import torch
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        >>> folded, names = fold_batch_norms(net, torch.zeros(1, 3, 2, 2))
        >>> folded[0].bias.shape, names
        (torch.Size([4]), ('1',))
    """
    folded = copied(unwrap(model)).eval()
    behind = norms_behind(folded, example_inputs)
    pairs = {layer: norm for layer, norm in behind.items() if type(folded.get_submodule(layer)) in _LAYERS}
    for layer_name, norm_name in pairs.items():
        layer, norm = folded.get_submodule(layer_name), folded.get_submodule(norm_name)
        assert isinstance(norm, _BatchNorm)
        if isinstance(layer, nn.Linear):
            fused: nn.Module = fuse_linear_bn_eval(layer, norm)
        else:
            assert isinstance(layer, _ConvNd)
            fused = fuse_conv_bn_eval(layer, norm, transpose=isinstance(layer, _ConvTransposeNd))
        folded.set_submodule(layer_name, fused)
        folded.set_submodule(norm_name, nn.Identity())
    return folded.requires_grad_(True), tuple(pairs.values())
