"""Average precision as COCO defines it, by torchmetrics with faster-coco-eval."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from adasap.errors import DataError
from adasap.tasks.detection.data.boxes import Target
from adasap.tasks.detection.matching import Detection


def coco_average_precisions(
    detections: Sequence[Detection], targets: Sequence[Target], classes: Sequence[str]
) -> dict[str, float]:
    """`coco_ap` (mean over IoU 0.50, 0.55, ..., 0.95), `coco_ap50`, `coco_ap75`, and `coco_ap:CLASS` of each class.

    Precision is averaged over 101 recalls, of the 100 highest scores of each image. Difficult objects are handed over
    as crowds: detections that lie on one are ignored, whatever their number.

    Args:
        detections: One per image, on any device.
        targets: The same images.
        classes: Names of the labels 1, 2, ...
    Raises:
        DataError: If the extra `detection` is not installed.
    """
    metric = _metric()
    metric.update([_plain(detection) for detection in detections], [_with_crowds(target) for target in targets])
    found = metric.compute()
    values = {"coco_ap": found["map"], "coco_ap50": found["map_50"], "coco_ap75": found["map_75"]}
    labels, per_class = found["classes"].reshape(-1).tolist(), found["map_per_class"].reshape(-1).tolist()
    # a class that has no object, or that the data do not know, has no average precision: -1
    named = {f"coco_ap:{classes[n - 1]}": value for n, value in zip(labels, per_class, strict=True) if value >= 0}
    return {name: float(value) for name, value in values.items()} | named


def _metric() -> Any:
    try:
        import faster_coco_eval  # noqa: F401 - torchmetrics imports it only when it computes
        from torchmetrics.detection import MeanAveragePrecision
    except ImportError as error:
        raise DataError(
            "COCO's average precision comes with torchmetrics and faster-coco-eval; install them: pip install "
            "'adasap[detection]'"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metric = MeanAveragePrecision(class_metrics=True, backend="faster_coco_eval")
    metric.warn_on_many_detections = False  # the cut at 100 is the definition
    return metric


def _plain(detection: Detection) -> dict[str, Tensor]:
    return {key: detection[key].detach().cpu() for key in ("boxes", "scores", "labels")}


def _with_crowds(target: Target) -> dict[str, Tensor]:
    boxes, labels, difficult = (target[key].cpu() for key in ("boxes", "labels", "difficult"))
    return {"boxes": boxes, "labels": labels, "iscrowd": difficult.long()}
