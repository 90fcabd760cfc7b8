"""Which detections find an object, by the rule of Pascal VOC; what is kept of each image for all later numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from adasap.errors import DataError
from adasap.tasks.detection.data.boxes import Target

FOUND, FALSE_ALARM, IGNORED = 1, 0, -1
"""Outcomes of a detection; the ignored ones lie on a difficult object and count neither for nor against."""

Detection = Mapping[str, Tensor]
"""`boxes` float [D, 4] (x_min, y_min, x_max, y_max in pixels of the image), `labels` int64 [D] from 1, `scores` [D]."""

Records = Mapping[str, Tensor]
"""`detections` int32 [N] and `objects` int32 [N, K] per image (not difficult ones, per class); of all detections, image
by image, each by falling score, `label` int16, `score` float32 and `outcome` int8 [D]."""


def match_boxes(detection: Detection, target: Target, *, min_iou: float = 0.5) -> Tensor:
    """What each detection of one image is worth, int8 [D] in the order of the detections.

    By falling score each detection takes the object of its class that it overlaps most. From `min_iou` on it has found
    it; if the object was found before it is a false alarm, if it is difficult the detection is ignored (the development
    kit of Everingham et al., 2010; COCO instead goes on to the next best object that is still free).

    Example:
        >>> boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10]])
        >>> detection = {"boxes": boxes, "labels": torch.tensor([1, 1]), "scores": torch.tensor([0.6, 0.9])}
        >>> from adasap.tasks.detection.data.boxes import make_target
        >>> match_boxes(detection, make_target(boxes[:1], torch.tensor([1]), image_id=0))
        tensor([0, 1], dtype=torch.int8)
    """
    from torchvision.ops import box_iou

    outcome = torch.full((len(detection["scores"]),), FALSE_ALARM, dtype=torch.int8)
    if len(outcome) == 0 or len(target["labels"]) == 0:
        return outcome
    order = by_falling_score(detection["scores"])
    overlap = box_iou(detection["boxes"][order].double(), target["boxes"].double())
    overlap[detection["labels"][order][:, None] != target["labels"][None, :]] = -1.0
    best, taken = overlap.max(dim=1)
    meets = best >= min_iou
    place = torch.arange(len(order))
    # of the detections that take an object, the first finds it
    first = torch.full((len(target["labels"]),), len(order)).scatter_reduce(0, taken[meets], place[meets], "amin")
    found = meets & (first[taken] == place)
    in_order = torch.where(found, FOUND, FALSE_ALARM)
    in_order[meets & target["difficult"][taken]] = IGNORED
    outcome[order] = in_order.to(torch.int8)
    return outcome


def by_falling_score(scores: Tensor) -> Tensor:
    """Indices of the scores, the highest first; equal ones keep their order."""
    return torch.sort(scores, descending=True, stable=True).indices


def detection_records(
    detections: Sequence[Detection], targets: Sequence[Target], num_classes: int, *, min_iou: float = 0.5
) -> dict[str, Tensor]:
    """What is kept of some images (`Records`); records of more images are these, concatenated.

    Args:
        detections: One per image.
        targets: The same images.
        num_classes: K, without the background.
    Raises:
        DataError: For another number of detections than images, or scores or boxes that are not finite.
    """
    if len(detections) != len(targets):
        raise DataError(f"the detector answered with {len(detections)} results for {len(targets)} images; one for each")
    labels, scores, outcomes = [], [], []
    objects = torch.zeros(len(targets), num_classes, dtype=torch.int32)
    for row, (given, wanted) in enumerate(zip(detections, targets, strict=True)):
        detection, target = _on_cpu(given), _on_cpu(wanted)
        _check(detection, target["image_id"])
        order = by_falling_score(detection["scores"])
        labels.append(detection["labels"][order].to(torch.int16))
        scores.append(detection["scores"][order].float())
        outcomes.append(match_boxes(detection, target, min_iou=min_iou)[order])
        objects[row] = torch.bincount(target["labels"][~target["difficult"]] - 1, minlength=num_classes)
    return {
        "detections": torch.tensor([len(of_image) for of_image in labels], dtype=torch.int32),
        "objects": objects,
        "label": torch.cat([torch.empty(0, dtype=torch.int16), *labels]),
        "score": torch.cat([torch.empty(0), *scores]),
        "outcome": torch.cat([torch.empty(0, dtype=torch.int8), *outcomes]),
    }


def _on_cpu(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value.detach().cpu() if isinstance(value, Tensor) else value for key, value in entry.items()}


def _check(detection: Detection, image_id: int) -> None:
    boxes, scores = detection["boxes"], detection["scores"]
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not len(boxes) == len(scores) == len(detection["labels"]):
        raise DataError(
            f"image {image_id}: the detector gave boxes {list(boxes.shape)}, {len(scores)} scores and "
            f"{len(detection['labels'])} labels; wanted [D, 4], [D] and [D]"
        )
    if not (boxes.isfinite().all() and scores.isfinite().all()):
        raise DataError(f"image {image_id}: a box or score of the detector is not finite; look at its weights")
