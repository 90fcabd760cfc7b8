"""U-Nets (Ronneberger et al., 2015, arXiv:1505.04597): a small one from scratch, and one on MobileNet V2."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adasap.errors import ModelError
from adasap.models.mobilenet import mobilenet_v2_tf


def double_conv(num_inputs: int, num_outputs: int, stride: int = 1) -> nn.Sequential:
    """Two 3x3 convolutions, each with batch norm and ReLU; the first one strides."""
    layers: list[nn.Module] = []
    for inputs, step in ((num_inputs, stride), (num_outputs, 1)):
        layers += [
            nn.Conv2d(inputs, num_outputs, 3, step, padding=1, bias=False),
            nn.BatchNorm2d(num_outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class Decoder(nn.Module):
    """From the coarsest of several maps up to the finest: enlarge, join with the next one, convolve twice.

    Args:
        channels: Of the maps, the finest first.
        widths: Channels after each joint, the finest first: one fewer than maps.
    """

    def __init__(self, channels: Sequence[int], widths: Sequence[int]) -> None:
        super().__init__()
        below = [*widths[1:], channels[-1]]
        joints = zip(channels[:-1], below, widths, strict=True)
        self.joints = nn.ModuleList(double_conv(skip + coarse, width) for skip, coarse, width in joints)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps [N, C_k, H_k, W_k], the finest first -> [N, widths[0], H_0, W_0]."""
        x = maps[-1]
        for joint, skip in zip(reversed(self.joints), reversed(maps[:-1]), strict=True):
            x = F.interpolate(x, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            x = joint(torch.cat([skip, x], dim=1))
        return x


class UNet(nn.Module):
    """A small U-Net: `depth` levels, each half as large and twice as wide as the one above.

    Args:
        num_classes: Classes.
        width: Channels of the finest level.
        depth: Number of levels.
        stride: Of the first convolution; logits are so many times smaller than the image.
        channels: Of the image.
    """

    def __init__(self, num_classes: int, width: int, depth: int, stride: int, channels: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        inputs = [channels, *widths[:-1]]
        self.encoder = nn.ModuleList(
            double_conv(before, after, stride if level == 0 else 2)
            for level, (before, after) in enumerate(zip(inputs, widths, strict=True))
        )
        self.decoder = Decoder(widths, widths[:-1])
        self.head = nn.Conv2d(width, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images float [N, C, H, W] -> logits [N, num_classes, H / stride, W / stride]."""
        maps = []
        for level in self.encoder:
            x = level(x)
            maps.append(x)
        logits: Tensor = self.head(self.decoder(maps))
        return logits


def unet(num_classes: int = 21, width: int = 32, depth: int = 5, stride: int = 1, channels: int = 3) -> UNet:
    """A U-Net from scratch; strided convolutions in place of pooling, and any height and width.

    Example:
        >>> unet(4, width=8, depth=3, stride=2)(torch.zeros(2, 3, 33, 40)).shape
        torch.Size([2, 4, 17, 20])
    """
    if depth < 2 or stride < 1:
        raise ModelError(f"depth is {depth} and stride {stride}; give 2 levels or more, and a stride of 1 or more")
    return UNet(num_classes, width, depth, stride, channels)


_TAPS = (1, 3, 6, 13, 17)
"""MobileNet V2's last layers at strides 2, 4, 8, 16 and 32."""
_DECODER = (32, 48, 64, 96)


class MobileNetUNet(nn.Module):
    """A U-Net whose way down is MobileNet V2 with TensorFlow's padding, without its last convolution.

    Args:
        num_classes: Classes.
        width: Multiplies MobileNet's channels.
    """

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        features = mobilenet_v2_tf(1, width).features
        assert isinstance(features, nn.Sequential)
        self.features = features[: _TAPS[-1] + 1]
        channels = [_out_channels(self.features[tap]) for tap in _TAPS]
        self.decoder = Decoder(channels, _DECODER)
        self.head = nn.Conv2d(_DECODER[0], num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images float [N, 3, H, W] -> logits [N, num_classes, H / 2, W / 2]."""
        maps = []
        for place, layer in enumerate(self.features):
            x = layer(x)
            if place in _TAPS:
                maps.append(x)
        logits: Tensor = self.head(self.decoder(maps))
        return logits

    def backbone_tensors(self) -> dict[str, str]:
        """Names in a MobileNet V2 classifier's file -> names here, which are the same."""
        return {name: name for name in self.state_dict() if name.startswith("features.")}


def _out_channels(layer: nn.Module) -> int:
    return [module for module in layer.modules() if isinstance(module, nn.BatchNorm2d)][-1].num_features


def unet_mobilenet_v2(num_classes: int = 21, width: float = 1.0) -> MobileNetUNet:
    """A U-Net on MobileNet V2, which an ImageNet classifier's weights can fill (`backbone_weights`).

    Example:
        >>> unet_mobilenet_v2(11, width=0.35)(torch.zeros(1, 3, 45, 60)).shape
        torch.Size([1, 11, 23, 30])
    """
    return MobileNetUNet(num_classes, width)
