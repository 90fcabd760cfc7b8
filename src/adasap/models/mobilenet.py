"""MobileNet V1 and V2 as TensorFlow pads them, for weights that were trained there.

At stride 2 an even side gets its extra row and column of zeros on the right and at the bottom; PyTorch's `padding=1`
puts one on all sides and reads every second pixel from another start, which costs such weights some ten points.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EndPaddedConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding `SAME`: ceil(side / stride) outputs, the odd zero at the end."""

    def forward(self, input: Tensor) -> Tensor:
        """float [N, C, H, W] -> [N, out_channels, ceil(H / stride), ceil(W / stride)]."""
        zeros = [
            max((-(-side // stride) - 1) * stride + dilation * (kernel - 1) + 1 - side, 0)
            for side, kernel, stride, dilation in zip(
                input.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
            )
        ]
        (above, left), (below, right) = [n // 2 for n in zeros], [n - n // 2 for n in zeros]
        padded = F.pad(input, (left, right, above, below))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def end_padded(conv: nn.Conv2d) -> EndPaddedConv2d:
    """The same layer, freshly initialised, with that padding."""
    return EndPaddedConv2d(
        conv.in_channels,
        conv.out_channels,
        (conv.kernel_size[0], conv.kernel_size[1]),
        (conv.stride[0], conv.stride[1]),
        groups=conv.groups,
        bias=conv.bias is not None,
    )


class SeparableBlock(nn.Module):
    """3x3 depthwise and 1x1 convolution, each with batch norm and ReLU6."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_dw = EndPaddedConv2d(num_inputs, num_inputs, 3, stride, groups=num_inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(num_inputs)
        self.conv_pw = nn.Conv2d(num_inputs, num_outputs, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(num_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, num_inputs, H, W] -> [N, num_outputs, H / stride, W / stride]."""
        x = F.relu6(self.bn1(self.conv_dw(x)))
        return F.relu6(self.bn2(self.conv_pw(x)))


class MobileNetV1(nn.Module):
    """Howard et al. (2017, arXiv:1704.04861), table 1; parameter names are those of timm's `mobilenetv1_100`.

    Args:
        num_classes: Rows of the classifier.
        width: Multiplier of all widths.
    """

    def __init__(self, num_classes: int, width: float) -> None:
        super().__init__()
        inputs = round(32 * width)
        self.conv_stem = EndPaddedConv2d(3, inputs, 3, 2, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        stages = []
        for place, (channels, count) in enumerate(((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))):
            blocks = []
            for number in range(count):
                stride = 2 if number == 0 and place > 0 else 1
                blocks.append(SeparableBlock(inputs, round(channels * width), stride))
                inputs = round(channels * width)
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.classifier = nn.Linear(inputs, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images float [N, 3, H, W] -> logits [N, num_classes]."""
        x = self.blocks(F.relu6(self.bn1(self.conv_stem(x))))
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def mobilenet_v1_tf(num_classes: int = 1000, width: float = 1.0) -> MobileNetV1:
    """MobileNet V1 with TensorFlow's padding.

    Example:
        >>> sum(parameter.numel() for parameter in mobilenet_v1_tf(width=0.75).parameters())
        2585560
    """
    return MobileNetV1(num_classes, width)


def mobilenet_v2_tf(num_classes: int = 1000, width: float = 1.0) -> nn.Module:
    """torchvision's MobileNet V2 (Sandler et al., 2018, arXiv:1801.04381) with TensorFlow's padding at stride 2.

    Example:
        >>> sum(parameter.numel() for parameter in mobilenet_v2_tf().parameters())
        3504872
    """
    from torchvision.models import MobileNetV2

    model: nn.Module = MobileNetV2(num_classes, width_mult=width)
    for module in [*model.modules()]:
        for name, layer in [*module.named_children()]:
            if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2):
                setattr(module, name, end_padded(layer))
    return model
