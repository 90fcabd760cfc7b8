"""Backbones of the single-shot detectors: ImageNet classifiers that give maps at falling resolution.

Parameter names are those of the classifiers, so their weights load.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50

from adasap.models.mobilenet import MobileNetV1, mobilenet_v2_tf

BackboneName = Literal["resnet50", "mobilenet_v1", "mobilenet_v2"]


class ResNet50Features(nn.Module):
    """ResNet-50 up to its third stage, which keeps a stride of 8: one map of 1,024 channels.

    The fourth stage and the classifier are left out, and the third does not halve the resolution: the extra layers of
    the detector go down from there.
    """

    def __init__(self) -> None:
        super().__init__()
        whole = resnet50(weights=None)
        self.conv1, self.bn1, self.relu, self.maxpool = whole.conv1, whole.bn1, whole.relu, whole.maxpool
        self.layer1, self.layer2, self.layer3 = whole.layer1, whole.layer2, whole.layer3
        self.layer3[0].conv2.stride = (1, 1)
        self.layer3[0].downsample[0].stride = (1, 1)
        self.out_channels = (1024,)

    def forward(self, x: Tensor) -> list[Tensor]:
        """float [N, 3, H, W] -> [N, 1024, H / 8, W / 8]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return [self.layer3(self.layer2(self.layer1(x)))]


class MobileNetV1Features(MobileNetV1):
    """MobileNet V1 with TensorFlow's padding: maps of 512 and 1,024 channels (times the width) at strides 16 and 32."""

    def __init__(self, width: float) -> None:
        super().__init__(1, width)
        del self.classifier
        self.out_channels = (round(512 * width), round(1024 * width))

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]  # maps in place of logits
        """float [N, 3, H, W] -> [N, C1, H / 16, W / 16] and [N, C2, H / 32, W / 32]."""
        x = F.relu6(self.bn1(self.conv_stem(x)))
        first, last = len(self.blocks) - 2, len(self.blocks) - 1
        maps = []
        for place, stage in enumerate(self.blocks):
            x = stage(x)
            if place in (first, last):
                maps.append(x)
        return maps


class MobileNetV2Features(nn.Module):
    """MobileNet V2 with TensorFlow's padding: the widened input of the last stage with stride 2 (576 channels at width
    1, stride 16) and the last convolution's output (1,280, stride 32), as SSDLite takes them (Sandler et al., 2018,
    arXiv:1801.04381, section 6.2)."""

    LAST_STRIDED = 14

    def __init__(self, width: float) -> None:
        super().__init__()
        features = mobilenet_v2_tf(1, width).features
        assert isinstance(features, nn.Sequential)
        self.features = features
        convolutions = [module for module in features[self.LAST_STRIDED].modules() if isinstance(module, nn.Conv2d)]
        last = [module for module in features.modules() if isinstance(module, nn.Conv2d)][-1]
        self.out_channels = (convolutions[0].out_channels, last.out_channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """float [N, 3, H, W] -> [N, C1, H / 16, W / 16] and [N, C2, H / 32, W / 32]."""
        layers = list(self.features)
        for layer in layers[: self.LAST_STRIDED]:
            x = layer(x)
        widen, *rest = layers[self.LAST_STRIDED].get_submodule("conv").children()
        wide = widen(x)
        x = wide
        for layer in (*rest, *layers[self.LAST_STRIDED + 1 :]):
            x = layer(x)
        return [wide, x]


def ssd_backbone(name: BackboneName, width: float) -> ResNet50Features | MobileNetV1Features | MobileNetV2Features:
    """The backbone of that name; `width` multiplies a MobileNet's channels.

    Example:
        >>> ssd_backbone("mobilenet_v1", 0.5).out_channels
        (256, 512)
    """
    match name:
        case "resnet50":
            return ResNet50Features()
        case "mobilenet_v1":
            return MobileNetV1Features(width)
        case "mobilenet_v2":
            return MobileNetV2Features(width)
