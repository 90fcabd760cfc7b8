"""The demo's model: a small residual network that learns the digits in under a minute on two CPU cores."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from adasap.errors import ModelError


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a 1x1 one as shortcut, so that every width is free to shrink.

    Args:
        num_inputs: Channels that come in.
        num_outputs: Channels that go out.
        stride: Of the first convolution and of the shortcut.
    """

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(num_outputs)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)
        self.shortcut = nn.Sequential(
            nn.Conv2d(num_inputs, num_outputs, 1, stride, bias=False), nn.BatchNorm2d(num_outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, num_inputs, H, W] to [N, num_outputs, H / stride, W / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class DigitsNet(nn.Module):
    """A stem at half resolution, one residual block per width, global average pooling, a linear head.

    3.1 M MACs and 78 k parameters at 32 x 32 with the default widths.

    Args:
        num_classes: Rows of the head.
        widths: Channels of the stem and first block, and of the blocks at a half and a quarter of that
            resolution.
        in_channels: Of the images.
    """

    def __init__(self, num_classes: int, widths: Sequence[int], in_channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, widths[0], 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        inputs = (widths[0], *widths[:-1])
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(before, after, stride=1 if number == 0 else 2)
                for number, (before, after) in enumerate(zip(inputs, widths, strict=True))
            )
        )
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images float [N, C, H, W] to logits [N, num_classes]."""
        x = F.relu(self.bn(self.conv(x)))
        logits: Tensor = self.head(self.blocks(x).mean(dim=(2, 3)))
        return logits


def digits_net(num_classes: int = 10, widths: Sequence[int] = (16, 32, 64), in_channels: int = 3) -> DigitsNet:
    """The demo's dense network for 32 x 32 images.

    Raises:
        ModelError: Unless there is at least one class and channel, and every width is positive.

    Example:
        >>> import torch
        >>> digits_net()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    if min(num_classes, in_channels) < 1 or not widths or min(widths) < 1:
        raise ModelError(
            f"num_classes is {num_classes}, widths are {list(widths)} and in_channels is {in_channels}; give numbers "
            "of 1 or more"
        )
    return DigitsNet(num_classes, widths, in_channels)
