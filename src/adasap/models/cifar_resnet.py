"""The residual networks for CIFAR of He et al. (2015, arXiv:1512.03385, section 4.2): 6n + 2 layers.

Images are float [N, 3, 32, 32]. Parameter names are those of the weights in wide use (`conv1`, `bn1`,
`layer1.0.conv1`, ..., `linear`), so that a `state_dict` of them loads as it is.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PaddedShortcut(nn.Module):
    """Shortcut without parameters (option A): every `stride`-th pixel, new channels filled with zeros.

    Attributes:
        before: Number of zero channels in front of the input's.
        after: Number of zero channels behind them.
    """

    def __init__(self, stride: int, before: int, after: int) -> None:
        super().__init__()
        self.stride, self.before, self.after = stride, before, after

    def forward(self, x: Tensor) -> Tensor:
        """float [N, C, H, W] -> [N, before + C + after, H / stride, W / stride]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"stride={self.stride}, before={self.before}, after={self.after}"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm and a shortcut around them."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        new = channels - in_channels
        plain = stride == 1 and new == 0
        self.shortcut = nn.Identity() if plain else PaddedShortcut(stride, new // 2, new - new // 2)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, in_channels, H, W] -> [N, channels, H / stride, W / stride]."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    """Stem, three stages of `num_blocks` blocks, average pool, linear classifier.

    Args:
        num_blocks: n, blocks per stage; the network has 6n + 2 layers with parameters.
        num_classes: Rows of the classifier.
        in_channels: Of the images.
    Example:
        >>> CifarResNet(3)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_blocks: int, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _stage(16, 16, num_blocks, stride=1)
        self.layer2 = _stage(16, 32, num_blocks, stride=2)
        self.layer3 = _stage(32, 64, num_blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """float [N, C, H, W] -> logits [N, num_classes]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def _stage(in_channels: int, channels: int, num_blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, channels, stride)
    return nn.Sequential(first, *(BasicBlock(channels, channels, 1) for _ in range(num_blocks - 1)))


def cifar_resnet20(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-20: 269,722 parameters with ten classes."""
    return CifarResNet(3, num_classes, in_channels)


def cifar_resnet32(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-32."""
    return CifarResNet(5, num_classes, in_channels)


def cifar_resnet44(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-44."""
    return CifarResNet(7, num_classes, in_channels)


def cifar_resnet56(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-56: 853,018 parameters with ten classes."""
    return CifarResNet(9, num_classes, in_channels)


def cifar_resnet110(num_classes: int = 10, in_channels: int = 3) -> CifarResNet:
    """ResNet-110."""
    return CifarResNet(18, num_classes, in_channels)
