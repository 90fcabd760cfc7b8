"""Small detectors with random weights, and images with boxes for them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from adasap.groups import ChannelGroup, trace_groups
from adasap.groups.inputs import as_arguments
from adasap.groups.redraw import redraw_, scale_statistics_
from adasap.models import ModelSpec, open_model
from adasap.tasks.detection.models.detector import Detector

SMALL: dict[str, ModelSpec] = {
    "ssd_mobilenet_v1": ModelSpec(
        "adasap:ssd_mobilenet_v1", {"num_classes": 4, "image_size": 64, "width": 0.25}, (3, 64, 64)
    ),
    "ssd_mobilenet_v2": ModelSpec(
        "adasap:ssd_mobilenet_v2", {"num_classes": 4, "image_size": 64, "width": 0.25}, (3, 64, 64)
    ),
    "ssd_resnet50": ModelSpec("adasap:ssd_resnet50", {"num_classes": 4, "image_size": 64}, (3, 64, 64)),
    "ssd300_vgg16": ModelSpec("torchvision:ssd300_vgg16", {"num_classes": 4}, (3, 300, 300)),
    "ssdlite320": ModelSpec("torchvision:ssdlite320_mobilenet_v3_large", {"num_classes": 4}, (3, 320, 320)),
    "retinanet": ModelSpec(
        "torchvision:retinanet_resnet50_fpn", {"num_classes": 4, "min_size": 64, "max_size": 96}, (3, 64, 64)
    ),
    "fcos": ModelSpec("torchvision:fcos_resnet50_fpn", {"num_classes": 4, "min_size": 64, "max_size": 96}, (3, 64, 64)),
    "fasterrcnn": ModelSpec(
        "torchvision:fasterrcnn_resnet50_fpn",
        {
            "num_classes": 4,
            "min_size": 64,
            "max_size": 96,
            "rpn_post_nms_top_n_test": 10,
            "box_batch_size_per_image": 16,
        },
        (3, 64, 64),
    ),
}
"""Small enough for the tests; torchvision's at small images where their options allow it."""


LAST = ("cls_logits", "bbox_reg", "bbox_pred", "bbox_ctrness", "cls_score")
"""Layers of torchvision's pyramids, whose outputs would be so large that all scores were 1 and boxes had no area."""


def small_detector(name: str, seed: int = 0) -> Detector:
    """One of them in evaluation mode, drawn such that every channel matters; the same for the same seed."""
    torch.manual_seed(seed)
    model = open_model(SMALL[name]).eval()
    assert isinstance(model, Detector)
    boxes = getattr(model, "default_boxes", None)
    before = None if boxes is None else boxes.clone()
    generator = torch.Generator().manual_seed(seed)
    redraw_(model, generator)
    if boxes is not None:
        boxes.copy_(before)
    seen = model.get_submodule("transform")(scenes()[0])[0].tensors
    scale_statistics_(model, as_arguments((seen,)))
    scale_outputs_(model, seen)
    return model


@torch.no_grad()
def scale_outputs_(model: Detector, images: Tensor) -> None:
    """Gives the last layers outputs with a standard deviation of about 1."""
    spread: dict[nn.Module, float] = {}

    def measure(layer: nn.Module, _: object, output: Tensor) -> None:
        spread[layer] = max(spread.get(layer, 0.0), output.std().item())

    last = [module for key, module in model.named_modules() if key.rpartition(".")[2] in LAST]
    handles = [module.register_forward_hook(measure) for module in last]
    model(images)
    for handle in handles:
        handle.remove()
    for layer, found in spread.items():
        for parameter in layer.parameters():
            parameter.div_(found)


@functools.cache
def small_groups(name: str) -> tuple[ChannelGroup, ...]:
    """Its groups; SSDLite is followed at a smaller size, of which they do not depend."""
    return trace_groups(small_detector(name), example(name))


def example(name: str) -> Tensor:
    """One image of the size that it is traced at, noise."""
    side = 64 if name == "ssdlite320" else SMALL[name].input_size[-1]
    return torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def scenes(count: int = 2, *, seed: int = 0) -> tuple[list[Tensor], list[dict[str, Any]]]:
    """Noise images of different sizes, float, and one to three boxes in each."""
    generator = torch.Generator().manual_seed(seed)
    images, targets = [], []
    for number in range(count):
        height, width = 60 + 8 * number, 90 - 4 * number
        images.append(torch.randn(3, height, width, generator=generator))
        corner = torch.rand(1 + number % 3, 2, generator=generator) * 30
        size = 12 + torch.rand(len(corner), 2, generator=generator) * 15
        labels = torch.randint(1, 4, (len(corner),), generator=generator)
        flags = torch.zeros(len(corner), dtype=torch.bool)
        boxes = torch.cat([corner, corner + size], dim=1)
        targets.append({"boxes": boxes, "labels": labels, "difficult": flags, "image_id": number})
    return images, targets
