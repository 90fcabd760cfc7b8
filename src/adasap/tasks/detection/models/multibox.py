"""The loss of a single-shot detector and how its raw outputs become detections.

torchvision has both as methods of its own SSD, whose choice of rows makes the host wait for the device at every image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from adasap.tasks.detection.models.default_boxes import BOX_CODER, match
from adasap.tasks.detection.models.detector import Detections, Losses, Target

NEGATIVES_PER_POSITIVE = 3


def multibox_loss(
    offsets: Tensor, logits: Tensor, targets: Sequence[Target], anchors: Tensor, *, threshold: float = 0.5
) -> Losses:
    """Smooth-L1 of the matched offsets and cross-entropy of the classes, with hard negatives.

    L = (1 / N) (sum over matched default boxes of smoothL1(offset) + sum over matched ones and the hardest others of
    cross-entropy), N the number of matched default boxes of the batch; three negatives per match in each image, those
    with the largest loss (Liu et al., 2016, arXiv:1512.02325, eqs. 1 to 3).

    Args:
        offsets: float [B, A, 4].
        logits: float [B, A, K], 0 is background.
        targets: One per image; boxes in pixels of the network's image.
        anchors: float [A, 4].
        threshold: Overlap from which a default box has to find a true one.
    Returns:
        `bbox_regression` and `classification`, float32 scalars; zeros (with a graph) where no image shows anything.
    Example:
        >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]])
        >>> target = {"boxes": torch.tensor([[0.0, 0.0, 10.0, 10.0]]), "labels": torch.tensor([1])}
        >>> losses = multibox_loss(torch.zeros(1, 2, 4), torch.zeros(1, 2, 2), [target], anchors)
        >>> {name: round(value.item(), 4) for name, value in losses.items()}  # 0, and 2 log 2
        {'bbox_regression': 0.0, 'classification': 1.3863}
    """
    matched = torch.stack([match(target["boxes"], anchors, threshold=threshold) for target in targets])
    positive = matched >= 0
    pairs = [_matched_objects(target, row, anchors) for target, row in zip(targets, matched, strict=True)]
    boxes, classes = (torch.stack(column) for column in zip(*pairs, strict=True))
    count = positive.sum().clamp(min=1)
    wanted = BOX_CODER.encode_single(boxes.flatten(0, 1), anchors.repeat(len(targets), 1)).view_as(boxes)
    distances = F.smooth_l1_loss(offsets.float(), wanted, reduction="none").sum(dim=-1)
    errors = F.cross_entropy(logits.float().flatten(0, 1), classes.flatten(), reduction="none").view_as(classes)
    counted = positive | hard_negatives(errors.detach(), positive)
    return {
        "bbox_regression": (distances * positive).sum() / count,
        "classification": (errors * counted).sum() / count,
    }


def _matched_objects(target: Target, matched: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Of every default box the box it is to find, float [A, 4], and its class, int64 [A]: itself and 0 for background.

    Without a choice of rows, for which the host would have to wait for the device.
    """
    if len(target["boxes"]) == 0:
        return anchors, torch.zeros_like(matched)
    positive, rows = matched >= 0, matched.clamp(min=0)
    boxes = torch.where(positive[:, None], target["boxes"][rows].float(), anchors)
    return boxes, torch.where(positive, target["labels"][rows], 0)


def hard_negatives(errors: Tensor, positive: Tensor) -> Tensor:
    """The negatives with the largest loss, three per positive of each image; of equal ones the earlier.

    Args:
        errors: float [B, A].
        positive: bool [B, A].
    Returns:
        bool [B, A].
    Example:
        >>> errors = torch.tensor([[9.0, 1.0, 4.0, 2.0, 3.0]])
        >>> hard_negatives(errors, errors > 5)
        tensor([[False, False,  True,  True,  True]])
    """
    order = errors.masked_fill(positive, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    return (rank < NEGATIVES_PER_POSITIVE * positive.sum(dim=1, keepdim=True)) & ~positive


def select_detections(
    offsets: Tensor,
    logits: Tensor,
    anchors: Tensor,
    image_size: int,
    *,
    min_score: float = 0.01,
    max_overlap: float = 0.45,
    candidates: int = 400,
    count: int = 200,
) -> Detections:
    """The boxes of one image after non-maximum suppression within each class; the defaults are those of SSD.

    Args:
        offsets: float [A, 4].
        logits: float [A, K], 0 is background.
        anchors: float [A, 4].
        image_size: Side of the network's image; boxes are clipped to it.
        min_score: What is less certain is dropped.
        max_overlap: A box that overlaps a more certain one of its class by more is dropped.
        candidates: The most certain boxes of each class that take part.
        count: Boxes that are kept, over all classes.
    Returns:
        `boxes`, `labels`, `scores`, by falling score.
    Example:
        >>> anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0]])
        >>> logits = torch.tensor([[0.0, 3.0], [0.0, 2.0]])
        >>> {name: value.tolist() for name, value in select_detections(torch.zeros(2, 4), logits, anchors, 16).items()}
        {'boxes': [[0.0, 0.0, 10.0, 10.0]], 'labels': [1], 'scores': [0.9525741338729858]}
    """
    probabilities = logits.float().softmax(dim=-1)[:, 1:]
    boxes = clip_boxes_to_image(BOX_CODER.decode_single(offsets.float(), anchors), (image_size, image_size))
    scores, places = probabilities.topk(min(candidates, len(probabilities)), dim=0)
    labels = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(scores)
    certain = scores > min_score
    scores, labels, boxes = scores[certain], labels[certain], boxes[places[certain]]
    kept = batched_nms(boxes, scores, labels, max_overlap)[:count]
    return {"boxes": boxes[kept], "labels": labels[kept], "scores": scores[kept]}
