"""Intersection over union, pixel accuracy and boundary F from a few counts of each image, which processes can join."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from adasap.errors import DataError
from adasap.tasks.segmentation.data.segmentation_set import IGNORED

Records = Mapping[str, Tensor]
"""Pixels of each image and class, int32 [N, C]: `intersection`, `predicted`, `labelled`; of its boundaries
`edge_predicted`, `edge_right` (of those predicted), `edge_labelled`, `edge_found` (of those labelled)."""

BOUNDARY_TOLERANCE = 0.0075
"""Of an image's diagonal: how far apart boundaries may lie and still match (Csurka et al., 2013, section 3.3)."""
_BITS = 62
CLASS = "iou:"
"""How the metrics of one class begin."""


def segmentation_records(answers: Tensor, masks: Tensor, num_classes: int) -> dict[str, Tensor]:
    """The counts of a batch, on the CPU.

    Args:
        answers: Class of each pixel, int64 [N, H, W]; those of ignored pixels do not matter.
        masks: int64 [N, H, W], `IGNORED` where a pixel takes no part.
        num_classes: C.

    Example:
        >>> records = segmentation_records(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]), 2)
        >>> {name: records[name].tolist() for name in ("intersection", "predicted", "labelled")}
        {'intersection': [[1, 1]], 'predicted': [[1, 2]], 'labelled': [[2, 1]]}
    """
    counted = masks != IGNORED
    answers, masks = answers.masked_fill(~counted, IGNORED), masks.long()
    tolerance = max(1, round(BOUNDARY_TOLERANCE * math.hypot(*masks.shape[-2:])))
    edges = [(labels, boundary(labels)) for labels in (answers, masks)]
    right, found = matched(*edges[0], *edges[1], tolerance), matched(*edges[1], *edges[0], tolerance)
    pixels = {
        "intersection": (masks, counted & (answers == masks)),
        "predicted": (answers, counted),
        "labelled": (masks, counted),
        "edge_predicted": edges[0],
        "edge_right": (answers, right),
        "edge_labelled": edges[1],
        "edge_found": (masks, found),
    }
    return {name: _counts(labels, chosen, num_classes) for name, (labels, chosen) in pixels.items()}


def _counts(labels: Tensor, chosen: Tensor, num_classes: int) -> Tensor:
    """Number of chosen pixels of each class in each image, int32 [N, C]."""
    number = len(labels)
    images = torch.arange(number, device=labels.device).view(-1, 1, 1) * num_classes
    places = (labels + images)[chosen]
    return torch.bincount(places, minlength=number * num_classes).view(number, num_classes).int().cpu()


def boundary(labels: Tensor) -> Tensor:
    """Pixels with a neighbour above, below, left or right of another class; ignored ones are no neighbours.

    Args:
        labels: int64 [N, H, W].
    Returns:
        bool [N, H, W].

    Example:
        >>> boundary(torch.tensor([[[0, 0, 1, 255, 2]]]))
        tensor([[[False,  True,  True, False, False]]])
    """
    edge = torch.zeros_like(labels, dtype=torch.bool)
    for dim in (1, 2):
        count = labels.shape[dim] - 1
        before, after = labels.narrow(dim, 0, count), labels.narrow(dim, 1, count)
        differ = (before != after) & (before != IGNORED) & (after != IGNORED)
        edge.narrow(dim, 0, count).logical_or_(differ)
        edge.narrow(dim, 1, count).logical_or_(differ)
    return edge


def matched(labels: Tensor, edge: Tensor, others: Tensor, other_edge: Tensor, tolerance: int) -> Tensor:
    """Boundary pixels with one of the same class among the others' within a distance.

    Args:
        labels: Class of each pixel, int64 [N, H, W].
        edge: Its boundary pixels, bool [N, H, W].
        others: Of the other segmentation.
        other_edge: Its boundary pixels.
        tolerance: Largest Euclidean distance, pixels.
    Returns:
        bool [N, H, W].

    Example:
        >>> labels, edge = torch.tensor([[[1, 1, 1, 1]]]), torch.tensor([[[True, False, False, True]]])
        >>> matched(labels, edge, labels, edge.roll(1, dims=2), 1)
        tensor([[[ True, False, False, False]]])
    """
    found = torch.zeros_like(edge)
    if not bool(edge.any()) or not bool(other_edge.any()):
        return found
    largest = int(torch.maximum(labels[edge].max(), others[other_edge].max()))
    for start in range(0, largest + 1, _BITS):  # one bit of a whole number for each class: all spread at once
        near = _spread(_bits(others, other_edge, start), tolerance)
        found |= (_bits(labels, edge, start) & near) != 0
    return found


def _bits(labels: Tensor, edge: Tensor, start: int) -> Tensor:
    shift = labels - start
    inside = edge & (shift >= 0) & (shift < _BITS)
    return torch.where(inside, torch.ones_like(labels) << shift.clamp(0, _BITS - 1), 0)


def _spread(bits: Tensor, radius: int) -> Tensor:
    """Each pixel's bits given to all pixels within a Euclidean distance, int64 [N, H, W]."""
    spread, row, reach = torch.zeros_like(bits), bits.clone(), 0
    for down in range(radius, -1, -1):  # the disk's rows from its tips to its middle, each as wide as the one before
        width = math.isqrt(radius * radius - down * down)
        for step in range(reach + 1, width + 1):
            _or_shifted(row, bits, step, dim=2)
        reach = width
        _or_shifted(spread, row, down, dim=1)
    return spread


def _or_shifted(target: Tensor, bits: Tensor, step: int, *, dim: int) -> None:
    """Adds bits shifted by a step forwards and backwards along an axis, in place."""
    count = target.shape[dim] - step
    if count > 0:
        target.narrow(dim, step, count).bitwise_or_(bits.narrow(dim, 0, count))
        target.narrow(dim, 0, count).bitwise_or_(bits.narrow(dim, step, count))


def segmentation_metrics(records: Records, classes: Sequence[str]) -> dict[str, float]:
    """`miou`, `iou:CLASS`, `pixel_accuracy` and `boundary_f`, fractions.

    IoU_c = sum_i I_ic / sum_i U_ic over all images; `miou` is the mean over the classes that the masks or the answers
    show anywhere. `pixel_accuracy` is the share of right pixels. `boundary_f` is the mean over classes of the mean over
    the images where either shows a boundary of the class, of F = 2 P R / (P + R), P the share of predicted boundary
    pixels with a labelled one near (`BOUNDARY_TOLERANCE`) and R the reverse (Csurka et al., 2013). It is left out
    where there is no boundary at all.

    Raises:
        DataError: For no images, or no pixel that counts.

    Example:
        >>> records = segmentation_records(torch.tensor([[[0, 1, 1]]]), torch.tensor([[[0, 0, 1]]]), 2)
        >>> segmentation_metrics(records, ["sky", "road"])
        {'miou': 0.5, 'iou:sky': 0.5, 'iou:road': 0.5, 'pixel_accuracy': 0.666..., 'boundary_f': 1.0}
    """
    if not len(records["labelled"]) or not int(records["labelled"].sum()):
        raise DataError("the evaluation saw no pixel that counts; check that the data set is not empty and its masks")
    shares = class_shares(records)
    named = {CLASS + name: share for name, share in zip(classes, shares.tolist(), strict=True) if not math.isnan(share)}
    accuracy = records["intersection"].sum().item() / records["labelled"].sum().item()
    metrics = {"miou": shares.nanmean().item(), **named, "pixel_accuracy": accuracy}
    edges = boundary_f(records)
    return metrics if math.isnan(edges) else {**metrics, "boundary_f": edges}


def class_shares(records: Records) -> Tensor:
    """IoU of each class over all images, float64 [C]; NaN for one that neither masks nor answers show."""
    return records["intersection"].sum(0).double() / unions(records).sum(0)


def unions(records: Records) -> Tensor:
    """Pixels of each image that the mask or the answer gives to a class, float64 [N, C]."""
    return (records["predicted"] + records["labelled"] - records["intersection"]).double()


def boundary_f(records: Records) -> float:
    """`boundary_f` of `segmentation_metrics`; NaN where there is no boundary."""
    sums = (records["edge_predicted"] + records["edge_labelled"]).double()
    precision = records["edge_right"].double() / records["edge_predicted"].clamp(min=1)
    recall = records["edge_found"].double() / records["edge_labelled"].clamp(min=1)
    scores = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    by_class = torch.where(sums > 0, scores, math.nan).nanmean(dim=0)
    return by_class.nanmean().item()


def image_influences(records: Records) -> Tensor:
    """What each image contributes to `miou`, float64 [N] whose mean is `miou`.

    s_i = mIoU + N / K sum_c (I_ic - IoU_c U_ic) / U_c over the K classes that occur: the first-order change of the
    data set's mIoU when the image counts more, so that a bootstrap of their mean is one of the mIoU.

    Example:
        >>> masks = torch.tensor([[[0, 0, 1]], [[0, 1, 1]]])
        >>> records = segmentation_records(torch.tensor([[[0, 1, 1]], [[0, 1, 1]]]), masks, 2)
        >>> image_influences(records), segmentation_metrics(records, ["a", "b"])["miou"]
        (tensor([0.4722, 0.9444], dtype=torch.float64), 0.7083...)
    """
    union, shares = unions(records), class_shares(records)
    present = ~shares.isnan()
    gains = (records["intersection"].double() - shares * union)[:, present] / union.sum(0)[present]
    return shares.nanmean() + len(union) * gains.mean(dim=1)
