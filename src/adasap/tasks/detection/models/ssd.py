"""Single-shot detectors: SSD512 with a ResNet-50 backbone, and small ones with MobileNets.

Liu et al. (2016), arXiv:1512.02325. Maps: those of the backbone, then extra layers that halve the side until one place
is left; on each map a head for offsets and one for classes. Images of any size are brought to the network's square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from adasap.errors import ModelError
from adasap.tasks.detection.models.default_boxes import BOX_CODER, box_shapes, default_boxes
from adasap.tasks.detection.models.detector import Detections, Detector, Losses, RawOutputs, Target
from adasap.tasks.detection.models.multibox import multibox_loss, select_detections
from adasap.tasks.detection.models.ssd_backbones import BackboneName, ssd_backbone
from adasap.tasks.detection.models.ssd_layers import MapHead, initialise_, plain_extra, separable_extra


class SSD(Detector):
    """A single-shot detector; see `ssd_resnet50` and its siblings.

    Args:
        backbone: Which one.
        num_classes: Background included, so 21 for Pascal VOC.
        image_size: Side of the square that the network sees, in pixels.
        width: Multiplier of a MobileNet's channels.
        extra_channels: Of the extra maps in order; the last one holds for all that follow.
        smallest_box: Scale of the second map's square default box, a fraction of the image; the first map has half.
    Attributes:
        default_boxes: float [A, 4] in pixels of that square, no part of the state.
        map_sides: Side of each map.
        boxes_per_place: Default boxes at a place of each map.
    """

    default_boxes: Tensor

    def __init__(
        self,
        backbone: BackboneName,
        *,
        num_classes: int,
        image_size: int,
        width: float = 1.0,
        extra_channels: Sequence[int],
        smallest_box: float,
    ) -> None:
        super().__init__()
        if num_classes < 2 or image_size < 32:
            raise ModelError(
                f"num_classes is {num_classes} and image_size {image_size}; give at least 2 classes (background "
                "counts) and 32 pixels"
            )
        separable = backbone != "resnet50"
        self.backbone = ssd_backbone(backbone, width)
        self.image_size = image_size
        sides, channels = _sides(self.backbone, image_size), list(self.backbone.out_channels)
        self.extras = nn.ModuleList()
        while sides[-1] > 1:
            wanted = extra_channels[min(len(self.extras), len(extra_channels) - 1)]
            self.extras.append((separable_extra if separable else plain_extra)(channels[-1], wanted))
            channels.append(wanted)
            sides.append(-(-sides[-1] // 2))
        shapes = box_shapes(len(sides), smallest_box)
        counts = shapes.num_anchors_per_location()
        self.map_sides, self.boxes_per_place = tuple(sides), tuple(counts)
        self.box_head = MapHead(channels, counts, 4, separable=separable)
        self.class_head = MapHead(channels, counts, num_classes, separable=separable)
        for part in (self.extras, self.box_head, self.class_head):
            initialise_(part)
        self.register_buffer("default_boxes", default_boxes(shapes, sides, image_size), persistent=False)
        square = (image_size, image_size)
        self.transform = GeneralizedRCNNTransform(
            image_size, image_size, [0.0] * 3, [1.0] * 3, size_divisible=1, fixed_size=square
        )

    def raw(self, images: Tensor) -> RawOutputs:
        """`bbox_regression` [N, A, 4] and `cls_logits` [N, A, K] of float [N, 3, image_size, image_size]."""
        maps = self.backbone(images)
        for extra in self.extras:
            maps.append(extra(maps[-1]))
        return {"bbox_regression": self.box_head(maps), "cls_logits": self.class_head(maps)}

    def post_processing(self) -> dict[str, Any]:
        """Default boxes by map, in fractions of the image, the scales of offsets, and the numbers of suppression."""
        shapes, start = [], 0
        for side, count in zip(self.map_sides, self.boxes_per_place, strict=True):
            boxes = self.default_boxes[start : start + count].double() / self.image_size
            shapes.append([[round(number, 6) for number in size] for size in (boxes[:, 2:] - boxes[:, :2]).tolist()])
            start += side * side * count
        return {
            "kind": "ssd",
            "resize": "bilinear, to a square of image_size, after mean and std",
            "image_size": self.image_size,
            "map_sides": list(self.map_sides),
            "box_sizes": shapes,
            "offset_scales": list(BOX_CODER.weights),
            "largest_growth": BOX_CODER.bbox_xform_clip,
            **(select_detections.__kwdefaults__ or {}),
        }

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Losses:
        """`bbox_regression` and `classification` (`multibox_loss`)."""
        squares, resized = self.transform(list(images), list(targets))
        raw = self.raw(squares.tensors)
        return multibox_loss(raw["bbox_regression"], raw["cls_logits"], resized, self.default_boxes)

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """At most 200 boxes per image, in pixels of the image as it was given (`select_detections`)."""
        squares, _ = self.transform(list(images))
        raw = self.raw(squares.tensors)
        found = [
            select_detections(offsets, logits, self.default_boxes, self.image_size)
            for offsets, logits in zip(raw["bbox_regression"], raw["cls_logits"], strict=True)
        ]
        before = [(image.shape[-2], image.shape[-1]) for image in images]
        detections: list[Detections] = self.transform.postprocess(found, squares.image_sizes, before)
        return detections


def ssd_resnet50(num_classes: int = 21, image_size: int = 512) -> SSD:
    """SSD512 with ResNet-50: maps of 64, 32, 16, 8, 4, 2 and 1 places a side, 24,564 default boxes.

    In training mode a batch needs two images or more: the last map has one place, of which a batch norm makes nothing.

    Example:
        >>> ssd_resnet50(image_size=64).map_sides
        (8, 4, 2, 1)
    """
    return SSD(
        "resnet50",
        num_classes=num_classes,
        image_size=image_size,
        extra_channels=(512, 512, 256, 256, 256, 256),
        smallest_box=0.15,
    )


def ssd_mobilenet_v1(
    num_classes: int = 21, image_size: int = 224, width: float = 1.0, smallest_box: float = 0.2
) -> SSD:
    """A small SSD on MobileNet V1 with TensorFlow's padding; separable extras and heads.

    Args:
        smallest_box: As of `SSD`; raise it where no object is small, for all those of a size then share a finer map.

    Example:
        >>> model = ssd_mobilenet_v1(width=0.25)
        >>> model.map_sides, len(model.default_boxes)
        ((14, 7, 4, 2, 1), 1194)
    """
    return SSD(
        "mobilenet_v1",
        num_classes=num_classes,
        image_size=image_size,
        width=width,
        extra_channels=(512, 256, 256, 128),
        smallest_box=smallest_box,
    )


def ssd_mobilenet_v2(num_classes: int = 21, image_size: int = 224, width: float = 1.0) -> SSD:
    """The same on MobileNet V2: SSDLite.

    Example:
        >>> ssd_mobilenet_v2(image_size=256, width=0.25).map_sides
        (16, 8, 4, 2, 1)
    """
    return SSD(
        "mobilenet_v2",
        num_classes=num_classes,
        image_size=image_size,
        width=width,
        extra_channels=(512, 256, 256, 128),
        smallest_box=0.2,
    )


def _sides(backbone: nn.Module, image_size: int) -> list[int]:
    """Rows of each map of the backbone, found without computing on numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    training = backbone.training
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        maps = backbone.eval()(torch.zeros(1, 3, image_size, image_size))
    backbone.train(training)
    return [int(x.shape[-2]) for x in maps]
