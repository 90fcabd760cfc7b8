"""Collects what a detector finds over one pass: average precision of Pascal VOC, and on demand that of COCO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adasap.errors import DataError
from adasap.tasks.detection.coco_metrics import coco_average_precisions
from adasap.tasks.detection.data.boxes import DetectionBatch, Target
from adasap.tasks.detection.matching import Detection, detection_records
from adasap.tasks.detection.metrics import detection_metrics, image_influences


class DetectionEvaluator:
    """Keeps the outcome of every detection (`detection_records`).

    Args:
        classes: Names of the labels 1, 2, ...
        coco: Also compute COCO's average precision, for which all boxes are kept until then.

    Example:
        >>> from adasap.tasks.detection.data.boxes import make_target
        >>> target = make_target(torch.tensor([[0, 0, 9, 9]]), torch.tensor([1]), image_id=0)
        >>> detector = lambda images: [{**target, "scores": torch.tensor([0.8])} for _ in images]
        >>> evaluator = DetectionEvaluator(["cat"])
        >>> evaluator.update(detector, DetectionBatch([torch.zeros(3, 9, 9)], [target]))
        >>> evaluator.compute()["map50"], evaluator.per_image()
        (1.0, tensor([1.], dtype=torch.float64))
    """

    def __init__(self, classes: Sequence[str], *, coco: bool = False) -> None:
        self.classes, self.coco = tuple(classes), coco
        self._batches: list[dict[str, Tensor]] = []
        self._boxes: list[tuple[Detection, Target]] = []

    def update(self, model: nn.Module | Any, batch: DetectionBatch) -> None:
        """Adds a prepared batch: `model(images)` gives boxes, labels and scores of each image."""
        detections = model(batch.images)
        self._batches.append(detection_records(detections, batch.targets, len(self.classes)))
        if self.coco:
            self._boxes += zip(detections, batch.targets, strict=True)

    def records(self) -> dict[str, Tensor]:
        """`detection_records` of all images, in their order."""
        if not self._batches:
            raise DataError("the evaluation saw no images; check that the data set is not empty")
        return {name: torch.cat([batch[name] for batch in self._batches]) for name in self._batches[0]}

    def metrics_of(self, records: Mapping[str, Tensor]) -> dict[str, float]:
        """`detection_metrics`: also of records that several processes gathered."""
        return detection_metrics(records, self.classes)

    def compute(self) -> dict[str, float]:
        """Those of `detection_metrics`; with `coco` also those of `coco_average_precisions`."""
        metrics = self.metrics_of(self.records())
        if self.coco:
            detections, targets = zip(*self._boxes, strict=True)
            metrics |= coco_average_precisions(detections, targets, self.classes)
        return metrics

    def per_image(self) -> Tensor:
        """What each image contributes to `map50`, float64 [N] with that mean (`image_influences`)."""
        return image_influences(self.records())
