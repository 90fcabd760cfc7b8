"""torchvision's detectors with a traced part: their own code, weights and names, called as `Detector` says.

| model | traced: raw outputs of | kept |
|---|---|---|
| `ssd300_vgg16`, `ssdlite320_mobilenet_v3_large` | backbone, heads | offsets, classes |
| `retinanet_resnet50_fpn` (and `_v2`) | backbone, FPN, both towers | offsets, classes |
| `fcos_resnet50_fpn` | backbone, FPN, both towers | offsets, centre-ness, classes |
| `fasterrcnn_resnet50_fpn` (and its kin) | backbone, FPN, proposal head, box head | all four outputs |

The box head of Faster R-CNN reads regions that its proposals choose. Which channel a number of a region belongs to does
not depend on the region, so the trace pools every level to the size of a region in place of aligning them, as many
times as there are proposals: groups and the proof are those of the real path, and costs count the head once for
each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.ssd import SSD, SSDFeatureExtractorVGG

from adasap.errors import ModelError
from adasap.groups.fake_model import copied
from adasap.tasks.detection.models.detector import (
    Detections,
    Detector,
    Losses,
    RawOutputs,
    Target,
    below,
    containers_training,
)


class _TorchvisionDetector(Detector):
    """Their forward behind ours. Stands before a detector class of torchvision in the order of resolution."""

    backbone: Any
    head: Any
    transform: Any

    def losses(self, images: Sequence[Tensor], targets: Sequence[Target]) -> Losses:
        """torchvision's own, by its names."""
        with containers_training(self):
            losses: Losses = super(Detector, self).forward(list(images), list(targets))
        return losses

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """torchvision's own."""
        if self.training:
            raise ModelError("a detector finds boxes in evaluation mode only; call model.eval() first")
        found: list[Detections] = super(Detector, self).forward(list(images))
        return found

    def computed_by(self, raw: Callable[[Tensor], RawOutputs]) -> Detector:
        """torchvision's own way to boxes, behind a function that computes what the heads do."""
        changed: Any = copied(self).eval()
        changed.backbone = _Sizes(changed.backbone, raw)
        changed.head = _Computed(changed.backbone)
        return changed  # type: ignore[no-any-return]

    def post_processing(self) -> dict[str, Any]:
        """torchvision's class, and the numbers by which it chooses boxes."""
        names = ("score_thresh", "nms_thresh", "topk_candidates", "detections_per_img")
        return {"kind": f"torchvision:{type(self).__mro__[2].__name__}"} | {name: getattr(self, name) for name in names}

    def _maps(self, images: Tensor) -> list[Tensor]:
        return list(self.backbone(images).values())

    def raw(self, images: Tensor) -> RawOutputs:
        """The head's dictionary on all levels of the backbone."""
        outputs: RawOutputs = self.head(self._maps(images))
        return outputs

    def backbone_tensors(self) -> dict[str, str]:
        """Those below the body of a feature pyramid."""
        return below(self, "backbone.body")


class _Sizes(nn.Module):
    """In the place of a backbone: maps that have its sizes and hold nothing; a function computes the heads' outputs."""

    def __init__(self, backbone: nn.Module, raw: Callable[[Tensor], RawOutputs]) -> None:
        super().__init__()
        self.backbone, self.raw = backbone, raw
        self.outputs: RawOutputs = {}
        self.sizes: dict[torch.Size, list[torch.Size]] = {}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Maps, by number."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        self.outputs = self.raw(images)
        if images.shape not in self.sizes:
            with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
                maps = self.backbone(torch.zeros(images.shape)).values()
            self.sizes[images.shape] = [one.shape for one in maps]
        return {str(place): images.new_zeros(()).expand(size) for place, size in enumerate(self.sizes[images.shape])}


class _Computed(nn.Module):
    """In the place of heads: what was computed meanwhile."""

    def __init__(self, sizes: _Sizes) -> None:
        super().__init__()
        self.sizes = sizes

    def forward(self, maps: Sequence[Tensor]) -> RawOutputs:
        """Raw outputs of all maps."""
        return self.sizes.outputs


class TracedSSD(_TorchvisionDetector, SSD):  # type: ignore[misc]  # torchvision has no types
    """SSD300 with VGG-16, SSDLite320 with MobileNet V3."""

    def backbone_tensors(self) -> dict[str, str]:
        """VGG-16's convolutions, which lie in two sequences here; nothing fits the narrower tail of SSDLite."""
        if not isinstance(self.backbone, SSDFeatureExtractorVGG):
            return {}
        first = below(self, "backbone.features")
        found = {f"features.{name}": here for name, here in first.items() if name[0].isdigit()}
        for name, here in below(self, "backbone.extra.0").items():
            place, _, kind = name.partition(".")
            if kind in ("weight", "bias"):
                found[f"features.{int(place) + len(self.backbone.features)}.{kind}"] = here
        return found


class TracedRetinaNet(_TorchvisionDetector, RetinaNet):  # type: ignore[misc]
    """RetinaNet with a feature pyramid."""


class TracedFCOS(_TorchvisionDetector, FCOS):  # type: ignore[misc]
    """FCOS with a feature pyramid."""


class TracedFasterRCNN(_TorchvisionDetector, FasterRCNN):  # type: ignore[misc]
    """Faster R-CNN with a feature pyramid; see the head of this file for its box head."""

    rpn: Any
    roi_heads: Any

    def computed_by(self, raw: Callable[[Tensor], RawOutputs]) -> Detector:
        """Not possible.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            "the traced part of Faster R-CNN pools whole maps where its box head reads the regions that its proposals "
            "choose, so no boxes can be found in what a file of it computes; take one of adasap's SSDs, or SSD300, "
            "SSDLite, RetinaNet or FCOS of torchvision"
        )

    def post_processing(self) -> dict[str, Any]:
        """None."""
        return {"kind": "none", "why": "regions are pooled in place of those that proposals choose"}

    def raw(self, images: Tensor) -> RawOutputs:
        """`objectness` and `proposal_deltas` by level; `class_logits` [R N, K] and `box_regression` [R N, 4 K], R the
        number of proposals per image."""
        features = self.backbone(images)
        objectness, deltas = self.rpn.head(list(features.values()))
        pool = self.roi_heads.box_roi_pool
        levels = [features[name] for name in pool.featmap_names]
        regions = self._regions(levels, pool.output_size)
        logits, boxes = self.roi_heads.box_predictor(self.roi_heads.box_head(regions))
        named = {f"objectness.{level}": x for level, x in enumerate(objectness)}
        named |= {f"proposal_deltas.{level}": x for level, x in enumerate(deltas)}
        return named | {"class_logits": logits, "box_regression": boxes}

    def _regions(self, levels: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """As many regions as proposals at inference, [R N, C, h, w], spread evenly over the levels."""
        count = self.rpn._post_nms_top_n["testing"]
        pooled = [F.adaptive_avg_pool2d(level, (size[0], size[1])) for level in levels]
        copies = -(-count // len(levels))
        return torch.cat([x for x in pooled for _ in range(copies)][:count])


_TRACED: dict[type[nn.Module], type[nn.Module]] = {
    SSD: TracedSSD,
    RetinaNet: TracedRetinaNet,
    FCOS: TracedFCOS,
    FasterRCNN: TracedFasterRCNN,
}


def traced(model: nn.Module) -> nn.Module:
    """A detector of torchvision as `Detector`: the same object, the same modules; any other model comes back as it is.

    It takes images that are already normalised, as all models of this package do, so its own normalisation becomes the
    identity. torchvision's weights want its numbers: the ImageNet ones, except mean (0.48235, 0.45882, 0.40784) and
    std 1 / 255 for `ssd300_vgg16`, and 0.5 and 0.5 for `ssdlite320_mobilenet_v3_large`.

    Example:
        >>> from torchvision.models.detection import retinanet_resnet50_fpn
        >>> model = traced(retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3))
        >>> {name: tuple(x.shape) for name, x in model.eval()(torch.zeros(1, 3, 64, 64)).items()}
        {'cls_logits': (1, 774, 3), 'bbox_regression': (1, 774, 4)}
    """
    found = _TRACED.get(type(model))
    if found is not None:
        model.__class__ = found  # a subclass that adds no attribute
        vars(model.get_submodule("transform")).update(image_mean=[0.0] * 3, image_std=[1.0] * 3)
    return model
