"""Segmentation metrics: against torchmetrics and SciPy, by hand, and joined from parts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from adasap.errors import DataError
from adasap.tasks.segmentation.data.segmentation_set import IGNORED
from adasap.tasks.segmentation.metrics import (
    BOUNDARY_TOLERANCE,
    boundary,
    image_influences,
    segmentation_metrics,
    segmentation_records,
)


def blobs(count: int, size: tuple[int, int], num_classes: int, *, seed: int, ignored: float = 0.0) -> Tensor:
    """Label maps of connected areas, int64 [count, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(count, num_classes, 5, 6, generator=generator)
    labels = torch.nn.functional.interpolate(fields, size, mode="bilinear").argmax(dim=1)
    return labels.masked_fill(torch.rand(labels.shape, generator=generator) < ignored, IGNORED)


@pytest.mark.parametrize("num_classes", [2, 5, 70])
def test_iou_and_accuracy_are_those_of_torchmetrics(num_classes: int) -> None:
    masks = blobs(6, (40, 50), num_classes, seed=0, ignored=0.1)
    answers = blobs(6, (40, 50), num_classes, seed=1)
    found = segmentation_metrics(segmentation_records(answers, masks, num_classes), list(map(str, range(num_classes))))
    jaccard = MulticlassJaccardIndex(num_classes, average="none", ignore_index=IGNORED)(answers, masks)
    seen = torch.bincount(torch.cat([answers[masks != IGNORED], masks[masks != IGNORED]]), minlength=num_classes) > 0
    assert found["miou"] == pytest.approx(jaccard[seen].mean().item(), abs=1e-6)
    for label in seen.nonzero().flatten().tolist():
        assert found[f"iou:{label}"] == pytest.approx(jaccard[label].item(), abs=1e-6)
    accuracy = MulticlassAccuracy(num_classes, average="micro", ignore_index=IGNORED)(answers, masks)
    assert found["pixel_accuracy"] == pytest.approx(accuracy.item(), abs=1e-6)


def test_a_class_that_nobody_shows_does_not_count() -> None:
    masks, answers = torch.tensor([[[0, 0, 1, 1]]]), torch.tensor([[[0, 0, 1, 0]]])
    found = segmentation_metrics(segmentation_records(answers, masks, 3), ["a", "b", "c"])
    assert found["iou:a"] == pytest.approx(2 / 3)
    assert found["iou:b"] == pytest.approx(1 / 2)
    assert found["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert "iou:c" not in found
    wrong = segmentation_metrics(segmentation_records(torch.tensor([[[0, 0, 1, 2]]]), masks, 3), ["a", "b", "c"])
    assert wrong["iou:c"] == 0.0
    assert wrong["miou"] == pytest.approx((1 + 1 / 2 + 0) / 3)


def test_what_is_answered_in_ignored_pixels_does_not_matter() -> None:
    masks = blobs(3, (30, 30), 4, seed=0, ignored=0.3)
    answers = blobs(3, (30, 30), 4, seed=1)
    other = torch.where(masks == IGNORED, (answers + 1) % 4, answers)
    first, second = (segmentation_records(given, masks, 4) for given in (answers, other))
    assert all(torch.equal(first[name], second[name]) for name in first)


def reference_boundary_f(answers: Tensor, masks: Tensor, num_classes: int) -> float:
    """By class with SciPy's exact distances, one image after the other."""
    by_class: list[list[float]] = [[] for _ in range(num_classes)]
    for answer, mask in zip(answers, masks, strict=True):
        answer = answer.masked_fill(mask == IGNORED, IGNORED)
        tolerance = max(1, round(BOUNDARY_TOLERANCE * math.hypot(*mask.shape)))
        edges = [(labels.numpy(), boundary(labels[None])[0].numpy()) for labels in (answer, mask)]
        for label in range(num_classes):
            predicted, labelled = (edge & (labels == label) for labels, edge in edges)
            if not predicted.any() and not labelled.any():
                continue
            near = [
                distance_transform_edt(~edge) <= tolerance if edge.any() else edge for edge in (predicted, labelled)
            ]
            precision = (predicted & near[1]).sum() / max(predicted.sum(), 1)
            recall = (labelled & near[0]).sum() / max(labelled.sum(), 1)
            by_class[label].append(2 * precision * recall / max(precision + recall, 1e-12))
    return float(np.mean([np.mean(scores) for scores in by_class if scores]))


@pytest.mark.parametrize(("size", "num_classes"), [((60, 80), 3), ((300, 400), 4), ((40, 40), 70)])
def test_boundary_f_is_that_of_exact_distances(size: tuple[int, int], num_classes: int) -> None:
    masks = blobs(4, size, num_classes, seed=2, ignored=0.02)
    answers = masks.roll((1, 2), dims=(1, 2))
    answers = torch.where(answers == IGNORED, 0, answers)
    found = segmentation_metrics(
        segmentation_records(answers, masks, num_classes), [str(k) for k in range(num_classes)]
    )
    expected = reference_boundary_f(answers, masks, num_classes)
    assert 0.05 < expected < 0.98
    assert found["boundary_f"] == pytest.approx(expected, abs=1e-9)


def test_a_boundary_one_pixel_off_is_found_and_ten_off_is_not() -> None:
    def half(edge: int) -> Tensor:
        return (torch.arange(64) >= edge).long().expand(1, 32, 64)

    scores = [
        segmentation_metrics(segmentation_records(half(32 + shift), half(32), 2), ["a", "b"])["boundary_f"]
        for shift in (0, 1, 10)
    ]
    assert scores == [1.0, 1.0, 0.0]
    flat = segmentation_metrics(segmentation_records(half(64), half(64), 2), ["a", "b"])
    assert "boundary_f" not in flat


def test_records_of_parts_joined_are_those_of_the_whole() -> None:
    masks, answers = blobs(7, (20, 30), 3, seed=0), blobs(7, (20, 30), 3, seed=1)
    whole = segmentation_records(answers, masks, 3)
    parts = [segmentation_records(answers[part], masks[part], 3) for part in (slice(0, 3), slice(3, 7))]
    joined = {name: torch.cat([part[name] for part in parts]) for name in whole}
    assert all(torch.equal(joined[name], whole[name]) for name in whole)


def test_influences_average_to_the_miou_and_are_its_derivative() -> None:
    masks, answers = blobs(9, (20, 30), 3, seed=0), blobs(9, (20, 30), 3, seed=1)
    records, names = segmentation_records(answers, masks, 3), ["a", "b", "c"]
    influences, miou = image_influences(records), segmentation_metrics(records, names)["miou"]
    assert influences.mean().item() == pytest.approx(miou)
    copies = 1000  # image 4 once more among so many copies of all: its weight grows a little
    more = {name: torch.cat([value.repeat(copies, 1), value[4:5]]) for name, value in records.items()}
    change = (segmentation_metrics(more, names)["miou"] - miou) * (9 * copies + 1)
    assert change == pytest.approx(float(influences[4]) - miou, rel=1e-3)


def test_nothing_to_count_is_said() -> None:
    records = segmentation_records(torch.zeros(1, 2, 2, dtype=torch.int64), torch.full((1, 2, 2), IGNORED), 2)
    with pytest.raises(DataError, match="no pixel that counts"):
        segmentation_metrics(records, ["a", "b"])
