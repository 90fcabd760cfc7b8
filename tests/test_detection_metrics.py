"""Average precision against hand-computed cases, a slow transcription of its definition, and COCO's evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adasap.errors import DataError
from adasap.tasks import MergeableEvaluator
from adasap.tasks.detection.coco_metrics import coco_average_precisions
from adasap.tasks.detection.data.boxes import DetectionBatch, Target, empty_target, make_target
from adasap.tasks.detection.evaluator import DetectionEvaluator
from adasap.tasks.detection.matching import Detection, detection_records, match_boxes
from adasap.tasks.detection.metrics import (
    average_precision,
    class_average_precisions,
    detection_metrics,
    image_influences,
    precision_recall,
    weighted_map,
)
from fake_detections import imperfect, random_targets

BOX = [10.0, 10.0, 30.0, 30.0]


def _detection(boxes: list[list[float]], scores: list[float], label: int = 1) -> Detection:
    labels = torch.full((len(scores),), label)
    return {"boxes": torch.tensor(boxes).reshape(-1, 4), "scores": torch.tensor(scores), "labels": labels}


def _target(boxes: list[list[float]], difficult: list[bool] | None = None) -> Target:
    hard = None if difficult is None else torch.tensor(difficult)
    return make_target(torch.tensor(boxes).reshape(-1, 4), torch.ones(len(boxes), dtype=torch.int64), hard, image_id=0)


def test_an_overlap_of_exactly_the_least_one_counts() -> None:
    half = [10.0, 10.0, 30.0, 20.0]  # IoU 1/2
    assert match_boxes(_detection([half], [0.5]), _target([BOX])).tolist() == [1]
    assert match_boxes(_detection([[10.0, 10, 30, 19.99]], [0.5]), _target([BOX])).tolist() == [0]


def test_a_second_detection_of_one_object_is_a_false_alarm_whatever_its_overlap() -> None:
    near = [11.0, 10.0, 31.0, 30.0]
    assert match_boxes(_detection([BOX, near], [0.5, 0.9]), _target([BOX])).tolist() == [0, 1]
    # VOC's rule, not COCO's: the best object decides, also when another one would still be free
    other = [13.0, 10.0, 33.0, 30.0]
    assert match_boxes(_detection([BOX, BOX], [0.9, 0.8]), _target([BOX, other])).tolist() == [1, 0]


def test_detections_on_difficult_objects_do_not_count() -> None:
    detection, target = _detection([BOX, BOX, [50.0, 50, 60, 60]], [0.9, 0.8, 0.7]), _target([BOX], [True])
    assert match_boxes(detection, target).tolist() == [-1, -1, 0]
    records = detection_records([detection], [_target([BOX, [50.0, 50, 60, 60]], [True, False])], 1)
    assert detection_metrics(records, ["a"])["map50"] == 1.0
    assert records["objects"].tolist() == [[1]]


def test_another_class_is_no_match() -> None:
    assert match_boxes(_detection([BOX], [0.9], label=2), _target([BOX])).tolist() == [0]


def test_hand_computed_areas_and_eleven_points() -> None:
    outcomes = torch.tensor([1, 0, 1, 1, 0, 1, 0])
    scores = torch.linspace(0.9, 0.3, 7)
    # precision at recalls 1/5 .. 4/5: 1, 2/3, 3/4, 4/6; made falling: 1, 3/4, 3/4, 2/3; the fifth is not found
    assert average_precision(scores, outcomes, 5) == pytest.approx((1 + 3 / 4 + 3 / 4 + 2 / 3) / 5, abs=1e-12)
    # recalls 0, .1, .2: 1; .3 .. .6: 3/4; .7, .8: 2/3; .9, 1: 0. A recall of 3/5 is at least 0.6 in whole numbers only
    assert average_precision(scores, outcomes, 5, points=11) == pytest.approx((3 + 4 * 3 / 4 + 2 * 2 / 3) / 11)
    shuffled = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    assert average_precision(scores[shuffled], outcomes[shuffled], 5) == average_precision(scores, outcomes, 5)
    recall, precision, _ = precision_recall(scores, outcomes, 5)
    assert recall[-1] == 0.8
    assert precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4, 3 / 5, 4 / 6, 4 / 7])


def test_degenerate_cases() -> None:
    nothing = torch.empty(0)
    assert average_precision(nothing, nothing, 3) == average_precision(nothing, nothing, 3, points=11) == 0.0
    assert math.isnan(average_precision(torch.tensor([0.5]), torch.tensor([0]), 0))
    assert average_precision(torch.tensor([0.5]), torch.tensor([-1]), 2) == 0.0
    no_boxes = _detection([], [])
    records = detection_records([no_boxes, no_boxes], [_target([BOX]), empty_target(1)], 3)
    assert detection_metrics(records, ["a", "b", "c"]) == dict.fromkeys(
        ("map50", "map50_11point", "ap50:a", "ap50_11point:a"), 0.0
    )
    assert image_influences(records).tolist() == [0.0, 0.0]
    with pytest.raises(DataError, match="without an object"):
        detection_metrics(detection_records([no_boxes], [empty_target(0)], 1), ["a"])
    with pytest.raises(DataError, match="not finite"):
        detection_records([_detection([BOX], [math.nan])], [_target([BOX])], 1)
    with pytest.raises(DataError, match="0 results for 1 images"):
        detection_records([], [_target([BOX])], 1)


def _slow_average_precision(
    detections: list[Detection], targets: list[Target], label: int, points: int | None
) -> float:
    """The development kit's procedure, detection by detection over all images."""
    rows = [
        (float(score), image, [float(number) for number in box])
        for image, detection in enumerate(detections)
        for score, box, kind in zip(detection["scores"], detection["boxes"], detection["labels"], strict=True)
        if kind == label
    ]
    used: set[tuple[int, int]] = set()
    found, alarms, curve = 0, 0, []
    wanted = sum(int(((t["labels"] == label) & ~t["difficult"]).sum()) for t in targets)
    for _, image, box in sorted(rows, key=lambda row: -row[0]):
        best, best_place = -1.0, -1
        for place, (other, kind) in enumerate(zip(targets[image]["boxes"].tolist(), targets[image]["labels"])):  # noqa: B905
            if kind == label and (overlap := _overlap(box, other)) > best:
                best, best_place = overlap, place
        if best >= 0.5:
            if targets[image]["difficult"][best_place]:
                continue
            if (image, best_place) in used:
                alarms += 1
            else:
                used.add((image, best_place))
                found += 1
        else:
            alarms += 1
        curve.append((found / wanted, found / (found + alarms)))
    if points is not None:
        steps = [step / (points - 1) for step in range(points)]
        return sum(max((p for r, p in curve if r >= step - 1e-12), default=0.0) for step in steps) / points
    area, before = 0.0, 0.0
    for place, (recall, _) in enumerate(curve):
        area += (recall - before) * max(p for _, p in curve[place:])
        before = recall
    return area


def _overlap(a: list[float], b: list[float]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def _made_up(seed: int, *, difficult: float = 0.2, shift: float = 12) -> tuple[list[Detection], list[Target]]:
    targets = random_targets(40, 3, seed=seed, difficult=difficult)
    rows = enumerate(targets)
    return [imperfect(target, 3, seed=100 * seed + row, doubles=True, shift=shift) for row, target in rows], targets


@pytest.mark.parametrize("points", [None, 11])
def test_random_sets_give_what_the_procedure_gives(points: int | None) -> None:
    for seed in range(3):
        detections, targets = _made_up(seed)
        found = class_average_precisions(detection_records(detections, targets, 3), points=points).tolist()
        slow = [_slow_average_precision(detections, targets, label, points) for label in (1, 2, 3)]
        assert found == pytest.approx(slow, abs=1e-9)
        assert min(found) > 0.1
        assert max(found) < 0.95


@pytest.mark.parametrize("difficult", [0.0, 0.2])
def test_coco_at_half_overlap_is_the_average_over_101_recalls(difficult: float) -> None:
    """Where no two objects overlap both rules match alike; the area differs from the 101 recalls by less than 1/100.

    Left out are sets where a recall can equal one of the 101, but not in floating point, in which COCO compares them;
    and on difficult objects no box that is far off, which COCO ignores too if most of it lies on the object.
    """
    compared = 0
    for seed in range(9):
        detections, targets = _made_up(seed, difficult=difficult, shift=4 if difficult else 12)
        records = detection_records(detections, targets, 3)
        if (records["objects"].sum(dim=0) % 5 == 0).any():
            continue
        compared += 1
        coco = coco_average_precisions(detections, targets, ["a", "b", "c"])
        points, area = class_average_precisions(records, points=101), class_average_precisions(records)
        assert coco["coco_ap50"] == pytest.approx(points.mean().item(), abs=1e-6)
        assert coco["coco_ap50"] == pytest.approx(area.mean().item(), abs=0.01)
        assert max(coco["coco_ap"], coco["coco_ap75"]) < coco["coco_ap50"]
        assert {"coco_ap:a", "coco_ap:b", "coco_ap:c"} < coco.keys()
    assert compared >= 3


def test_a_detector_may_know_more_classes_than_the_data() -> None:
    target, known = _target([BOX]), _detection([BOX], [0.9])
    foreign = {key: torch.cat([known[key], other]) for key, other in _detection([BOX], [0.95], label=7).items()}
    records = detection_records([foreign], [target], 2)
    assert detection_metrics(records, ["a", "b"])["map50"] == 1.0
    coco = coco_average_precisions([foreign], [target], ["a", "b"])
    assert coco == pytest.approx({"coco_ap": 1.0, "coco_ap50": 1.0, "coco_ap75": 1.0, "coco_ap:a": 1.0})


def test_weights_are_repetitions_of_images() -> None:
    detections, targets = _made_up(4)
    weights = torch.randint(0, 4, (40,), generator=torch.Generator().manual_seed(0))
    places = torch.arange(40).repeat_interleave(weights).tolist()
    repeated = detection_records([detections[p] for p in places], [targets[p] for p in places], 3)
    records = detection_records(detections, targets, 3)
    both = weighted_map(records, torch.stack([weights, torch.ones(40)]).double())
    assert both.tolist() == pytest.approx(
        [class_average_precisions(part).nanmean().item() for part in (repeated, records)], abs=1e-12
    )


def test_influences_have_the_metric_as_mean_and_are_its_slope() -> None:
    detections, targets = _made_up(5)
    records = detection_records(detections, targets, 3)
    scores, value = image_influences(records), detection_metrics(records, ["a", "b", "c"])["map50"]
    assert scores.mean().item() == pytest.approx(value, abs=1e-12)
    step = 1e-6
    for image in range(0, 40, 7):
        weights = torch.ones(40, dtype=torch.float64)
        weights[image] += step
        slope = (weighted_map(records, weights).item() - value) / step
        assert scores[image].item() == pytest.approx(value + 40 * slope, abs=1e-3)


def test_the_evaluator_is_its_records_put_together() -> None:
    detections, targets = _made_up(6)
    classes = ("a", "b", "c")
    answers = {target["image_id"]: detection for target, detection in zip(targets, detections, strict=True)}

    def detect(images: list[Tensor]) -> list[Detection]:
        return [answers[int(image[0, 0, 0])] for image in images]

    batches = [
        DetectionBatch([torch.full((3, 2, 2), float(t["image_id"])) for t in part], part)
        for part in (targets[:15], targets[15:])
    ]
    evaluator, parts = DetectionEvaluator(classes, coco=True), [DetectionEvaluator(classes) for _ in batches]
    for batch, part in zip(batches, parts, strict=True):
        evaluator.update(detect, batch)
        part.update(detect, batch)
    assert isinstance(evaluator, MergeableEvaluator)
    metrics = evaluator.compute()
    assert next(iter(metrics)) == "map50"
    assert metrics["coco_ap50"] == coco_average_precisions(detections, targets, classes)["coco_ap50"]
    joined = {name: torch.cat([part.records()[name] for part in parts]) for name in parts[0].records()}
    together = evaluator.metrics_of(joined)
    assert together == {name: metrics[name] for name in together}
    assert evaluator.per_image().shape == (40,)
    with pytest.raises(DataError, match="saw no images"):
        DetectionEvaluator(classes).compute()
