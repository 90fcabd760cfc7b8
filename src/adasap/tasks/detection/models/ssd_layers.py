"""The layers that a single-shot detector lays over its backbone: smaller maps, and a head on every map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def plain_extra(num_inputs: int, num_outputs: int) -> nn.Sequential:
    """1x1 convolution to half the width, 3x3 with stride 2, each with batch norm and ReLU: side n to ceil(n / 2)."""
    return nn.Sequential(
        *_conv(num_inputs, num_outputs // 2, 1, nn.ReLU), *_conv(num_outputs // 2, num_outputs, 3, nn.ReLU, stride=2)
    )


def separable_extra(num_inputs: int, num_outputs: int) -> nn.Sequential:
    """The same with a depthwise 3x3 convolution and ReLU6."""
    half = num_outputs // 2
    return nn.Sequential(
        *_conv(num_inputs, half, 1, nn.ReLU6),
        *_conv(half, half, 3, nn.ReLU6, stride=2, groups=half),
        *_conv(half, num_outputs, 1, nn.ReLU6),
    )


def plain_head(num_inputs: int, num_outputs: int) -> nn.Conv2d:
    """One 3x3 convolution."""
    return nn.Conv2d(num_inputs, num_outputs, 3, padding=1)


def separable_head(num_inputs: int, num_outputs: int) -> nn.Sequential:
    """Depthwise 3x3 convolution with batch norm and ReLU6, then 1x1."""
    return nn.Sequential(
        *_conv(num_inputs, num_inputs, 3, nn.ReLU6, groups=num_inputs), nn.Conv2d(num_inputs, num_outputs, 1)
    )


class MapHead(nn.Module):
    """One quantity of `size` numbers for every default box of every map.

    As torchvision's `SSDScoringHead`, with the names of tensors that files of these detectors have.

    Args:
        in_channels: Of each map.
        boxes: Default boxes per place of each map.
        size: Numbers per box: 4 offsets, or the classes.
        separable: Depthwise-separable convolutions.
    """

    def __init__(self, in_channels: Sequence[int], boxes: Sequence[int], size: int, *, separable: bool) -> None:
        super().__init__()
        layer = separable_head if separable else plain_head
        self.size = size
        self.layers = nn.ModuleList(
            layer(channels, count * size) for channels, count in zip(in_channels, boxes, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[N, C, H, W] of each map -> [N, all default boxes, size], ordered by map, row, column, shape."""
        outputs = [layer(x).permute(0, 2, 3, 1) for layer, x in zip(self.layers, maps, strict=True)]
        return torch.cat([output.reshape(output.shape[0], -1, self.size) for output in outputs], dim=1)


def initialise_(module: nn.Module) -> None:
    """Xavier weights and zero biases in every convolution, as the SSD paper starts its new layers."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _conv(
    num_inputs: int, num_outputs: int, kernel: int, activation: type[nn.Module], *, stride: int = 1, groups: int = 1
) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(num_inputs, num_outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(num_outputs), activation(inplace=True)
