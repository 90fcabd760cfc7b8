"""Average precision as Pascal VOC defines it, from the outcomes of detections: exact, per class, differentiable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from adasap.errors import DataError
from adasap.tasks.detection.matching import FOUND, IGNORED, Records, by_falling_score


def average_precision(scores: Tensor, outcomes: Tensor, num_objects: int, *, points: int | None = None) -> float:
    """Average precision of one class.

    The precision at a recall r is p(r) = max of the precisions at recalls >= r. Given is the area below it (VOC from
    2010 on), or its mean at `points` recalls from 0 to 1: 11 for VOC 2007, 101 for COCO.

    Args:
        scores: float [D].
        outcomes: [D]: 1 found, 0 false alarm, -1 ignored (`match_boxes`).
        num_objects: Objects that are to be found, difficult ones not counted.
        points: None for the area.
    Returns:
        A fraction; 0 without detections, NaN where there is nothing to be found.

    Example:
        >>> scores, outcomes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 0, 1])
        >>> round(average_precision(scores, outcomes, 2), 4)  # 1/2 * 1 + 1/2 * 2/3
        0.8333
        >>> round(average_precision(scores, outcomes, 2, points=11), 4)  # (6 * 1 + 5 * 2/3) / 11
        0.8485
    """
    if num_objects == 0:
        return float("nan")
    found, alarms, _ = _counted(scores, outcomes)
    return float(_average(found.cumsum(0), alarms.cumsum(0), torch.tensor(float(num_objects)), points))


def precision_recall(scores: Tensor, outcomes: Tensor, num_objects: int) -> tuple[Tensor, Tensor, Tensor]:
    """Recall and precision when all detections down to a score are taken, and that score: float64 [D'], falling scores.

    Example:
        >>> precision_recall(torch.tensor([0.9, 0.8]), torch.tensor([0, 1]), 1)[:2]
        (tensor([0., 1.], dtype=torch.float64), tensor([0.0000, 0.5000], dtype=torch.float64))
    """
    found, alarms, kept = _counted(scores, outcomes)
    taken = found.cumsum(0)
    return taken / max(num_objects, 1), taken / (taken + alarms.cumsum(0)), scores[kept].double()


def class_average_precisions(records: Records, *, points: int | None = None) -> Tensor:
    """Average precision of each class, float64 [K]; NaN for a class without objects.

    Raises:
        DataError: If there is no object of any class.
    """
    objects = require_objects(records)
    found = [
        average_precision(scores, outcomes, int(objects[label - 1]), points=points)
        for label, scores, outcomes, _ in by_class(records)
    ]
    return torch.tensor(found, dtype=torch.float64)


def detection_metrics(records: Records, classes: Sequence[str]) -> dict[str, float]:
    """`map50` (area), `map50_11point` (VOC 2007), and of each class that occurs `ap50:CLASS` and `ap50_11point:CLASS`.

    Means are over the classes that have objects which are not difficult.
    """
    area, eleven = class_average_precisions(records), class_average_precisions(records, points=11)
    metrics = {"map50": area.nanmean().item(), "map50_11point": eleven.nanmean().item()}
    occurring = [(name, row) for row, name in enumerate(classes) if not area[row].isnan()]
    by_class = {f"ap50:{name}": area[row].item() for name, row in occurring}
    return metrics | by_class | {f"ap50_11point:{name}": eleven[row].item() for name, row in occurring}


def image_influences(records: Records) -> Tensor:
    """One number per image whose mean is the mean average precision (area), float64 [N].

    With a weight w_i on each image, 1 for all, score_i = mAP + N d mAP / d w_i: the linear part of what happens when an
    image is drawn more than once. So the mean over resampled images is, to first order, their mAP (the infinitesimal
    jackknife; Efron, 1981), and everything that resamples one score per image, paired differences too, serves mAP.
    """
    weights = torch.ones(len(records["objects"]), dtype=torch.float64, requires_grad=True)
    value = weighted_map(records, weights)
    if value.grad_fn is None:
        return value.detach().expand(len(weights)).clone()
    (slope,) = torch.autograd.grad(value, weights)
    return value.detach() + len(weights) * slope


def weighted_map(records: Records, weights: Tensor) -> Tensor:
    """Mean average precision (area) when image i is there w_i times.

    Args:
        weights: float64 [..., N], at least 0.
    Returns:
        float64 [...]; the mean is over the classes that have objects under the weights.
    """
    require_objects(records)
    values, there = [], []
    for label, scores, outcomes, images in by_class(records):
        num_objects = weights @ records["objects"][:, label - 1].double()
        found, alarms, kept = _counted(scores, outcomes)
        weight = weights[..., images[kept]]
        taken, wrong = (weight * found).cumsum(-1), (weight * alarms).cumsum(-1)
        occurs = num_objects > 0
        average = _average(taken, wrong, num_objects.where(occurs, 1.0), None)
        values.append(average * occurs)
        there.append(occurs)
    return torch.stack(values).sum(0) / torch.stack(there).sum(0)


def by_class(records: Records) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Label, and of its detections scores, outcomes and the place of their image."""
    images = torch.arange(len(records["detections"])).repeat_interleave(records["detections"].long())
    order = torch.argsort(records["label"], stable=True)
    labels = torch.arange(1, records["objects"].shape[1] + 1)
    ends = torch.searchsorted(records["label"][order].long(), labels, right=True).tolist()
    starts = torch.searchsorted(records["label"][order].long(), labels).tolist()
    for label, start, end in zip(labels.tolist(), starts, ends, strict=True):
        mine = order[start:end]
        yield label, records["score"][mine], records["outcome"][mine], images[mine]


def require_objects(records: Records) -> Tensor:
    """Number of objects of each class, not difficult ones, int64 [K].

    Raises:
        DataError: If there is none at all.
    """
    objects = records["objects"].long().sum(dim=0)
    if not objects.any():
        raise DataError(
            f"{len(records['objects'])} images without an object that is not difficult: average precision is not "
            "defined; give more images"
        )
    return objects


def _counted(scores: Tensor, outcomes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By falling score, without the ignored ones: found and false alarms, float64 [D'], and their places."""
    order = by_falling_score(scores)
    order = order[outcomes[order] != IGNORED]
    found = (outcomes[order] == FOUND).double()
    return found, 1 - found, order


def _average(found: Tensor, alarms: Tensor, num_objects: Tensor, points: int | None) -> Tensor:
    """Average precision from running counts [..., D] and the number of objects [...]."""
    if found.shape[-1] == 0:
        return torch.zeros_like(num_objects, dtype=torch.float64)
    precision = found / (found + alarms).clamp(min=torch.finfo(torch.float64).tiny)
    best_from_here = precision.flip(-1).cummax(-1).values.flip(-1)
    if points is None:
        gained = torch.diff(found, dim=-1, prepend=torch.zeros_like(found[..., :1]))
        return (gained * best_from_here).sum(-1) / num_objects
    steps = torch.arange(points, dtype=torch.float64)
    # recall >= step / (points - 1) in whole numbers, which no rounding can break
    place = torch.searchsorted(found * (points - 1), (steps * num_objects).contiguous())
    reached = place < found.shape[-1]
    return (best_from_here[place.clamp(max=found.shape[-1] - 1)] * reached).sum() / points
