"""Sets with boxes: read as the benchmarks define them, damage counted, varied the same way on every resumption."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adasap.data import Augmentation, DataSource, TrainingStream, open_dataset
from adasap.errors import DataError, RecipeError
from adasap.tasks.classification.task import ClassificationTask
from adasap.tasks.detection.data.augmentation import DetectionAugmentation
from adasap.tasks.detection.data.boxes import DetectionBatch, make_target
from adasap.tasks.detection.data.detection_set import Annotations, DetectionImages
from adasap.tasks.detection.data.shapes import read_shapes
from adasap.tasks.detection.data.sources import open_detection_dataset
from adasap.tasks.detection.data.voc import VOC_CLASSES, read_voc
from adasap.tasks.detection.task import DetectionTask
from detection_trees import annotation, write_coco, write_voc

EVERYTHING = DetectionAugmentation(photometric=True, zoom_out=3, iou_crop=True, horizontal_flip=True, size=(32, 40))


def test_voc_boxes_become_zero_based_with_the_benchmarks_own_areas(tmp_path: Path) -> None:
    data = read_voc(write_voc(tmp_path, {"a": [("dog", (1, 1, 40, 30), False), ("car", (5, 6, 5, 8), True)]}), "test")
    image, target = data[0]
    assert image.shape == (3, 30, 40)
    assert target["boxes"].tolist() == [[0, 0, 40, 30], [4, 5, 5, 8]]  # one column of three pixels: area 3
    assert target["labels"].tolist() == [VOC_CLASSES.index("dog") + 1, VOC_CLASSES.index("car") + 1]
    assert target["difficult"].tolist() == [False, True]
    assert data.findings.summary() == ""


def test_several_roots_make_one_set(tmp_path: Path) -> None:
    dog, cat = ("dog", (1, 1, 9, 9), False), ("cat", (1, 1, 9, 9), False)
    write_voc(tmp_path / "VOC2007", {"000001": [dog], "000002": [cat]}, "trainval")
    write_voc(tmp_path / "VOC2012", {"2008_000001": [cat, dog]}, "trainval")
    data = open_detection_dataset(DataSource("voc", str(tmp_path), split="07+12"), "train")
    assert len(data) == 3
    assert [len(data[index][1]["labels"]) for index in range(3)] == [1, 1, 2]
    assert [data[index][1]["image_id"] for index in range(3)] == [0, 1, 2]
    with pytest.raises(DataError, match="VOC2007/trainval"):
        read_voc(tmp_path, "trainval")
    with pytest.raises(DataError, match="give --split trainval, or"):
        read_voc(tmp_path, "VOC2007/trainva")


def test_own_class_names_are_the_same_in_every_split(tmp_path: Path) -> None:
    write_voc(tmp_path, {"a": [("wbc", (1, 1, 9, 9), False)]}, "train")
    write_voc(tmp_path, {"b": [("rbc", (1, 1, 9, 9), False)]}, "test")
    assert read_voc(tmp_path, "train").classes == read_voc(tmp_path, "test").classes == ("rbc", "wbc")
    (tmp_path / "classes.txt").write_text("wbc\nrbc\n")
    assert read_voc(tmp_path, "test").classes == ("wbc", "rbc")
    write_voc(tmp_path, {"c": [("wbc", (1, 1, 9, 9), False)], "d": [("rbc", (1, 1, 9, 9), False)]}, "val")
    chosen = open_detection_dataset(DataSource("voc", str(tmp_path), split="val", classes=("rbc",)))
    assert chosen.findings.names == {"other class": ["c"], "empty": ["c"]}


def test_damage_is_counted_named_and_handled(tmp_path: Path) -> None:
    good = ("dog", (1, 1, 9, 9), False)
    over, outside = ("dog", (-3, 20, 50, 31), False), ("dog", (41, 1, 60, 9), False)
    turned = ("dog", (9, 9, 5, 12), False)
    names = ("good", "xml", "number", "gone", "torn", "none", "edge")
    write_voc(tmp_path, {name: [good] for name in names})
    annotations, images = tmp_path / "Annotations", tmp_path / "JPEGImages"
    (annotations / "xml.xml").write_text("<annotation><object>")
    (annotations / "number.xml").write_text(annotation([good]).replace("<xmin>1", "<xmin>one"))
    (images / "gone.jpg").unlink()
    (images / "torn.jpg").write_bytes(b"\xff\xd8 nothing")
    (annotations / "none.xml").write_text(annotation([]))
    (annotations / "edge.xml").write_text(annotation([over, outside, turned]))
    data = read_voc(tmp_path, "test")
    assert data.findings.names == {
        "broken": ["xml", "number"],
        "missing": ["gone", "torn"],
        "empty": ["none"],
        "clipped": ["edge"],
        "no area": ["edge", "edge"],
    }
    assert len(data) == 3
    assert len(data[1][1]["labels"]) == 0
    assert data[2][1]["boxes"].tolist() == [[0, 19, 40, 30]]
    assert "2 annotations that cannot be read, images left out (xml, number)" in data.summary()
    for name in names:
        (images / f"{name}.jpg").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"no image is left; .*7 images that are not there"):
        read_voc(tmp_path, "test")


def _coco() -> dict[str, Any]:
    sizes = {7: (40, 30), 3: (20, 50), 5: (10, 10)}
    return {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": w, "height": h} for n, (w, h) in sizes.items()],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "annotations": [
            {"image_id": 7, "category_id": 3, "bbox": [1.5, 2, 10, 5], "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 30], "iscrowd": 1},
            {"image_id": 3, "category_id": 1, "bbox": [15, 0, 10, 5]},
        ],
    }


def test_coco_boxes_labels_and_crowds(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "coco", _coco())
    data = open_detection_dataset(DataSource("coco", str(root)), "val2017")
    assert data.classes == ("person", "N/A", "car")  # labels are COCO's own numbers
    assert [data[index][1]["image_id"] for index in range(3)] == [3, 5, 7]
    target = data[2][1]
    assert target["boxes"].tolist() == [[1.5, 2, 11.5, 7], [0, 0, 40, 30]]
    assert target["labels"].tolist() == [3, 1]
    assert target["difficult"].tolist() == [False, True]
    assert data.findings.names == {"clipped": ["3.jpg"], "empty": ["5.jpg"]}
    listing = root / "annotations" / "instances_val2017.json"
    assert len(open_detection_dataset(DataSource("coco", str(listing), first=1, count=2))) == 2


def test_coco_damage(tmp_path: Path) -> None:
    content = _coco()
    content["annotations"][0]["bbox"] = [1, 2, "wide", 3]
    root = write_coco(tmp_path / "coco", content)
    (root / "val2017" / "5.jpg").unlink()
    data = open_detection_dataset(DataSource("coco", str(root)), "val2017")
    assert data.findings.names == {"clipped": ["3.jpg"], "missing": ["5.jpg"], "broken": ["7.jpg"]}
    content["categories"] = [{"id": 0, "name": "cell"}, {"id": 90, "name": "cell"}]
    content["annotations"] = []
    listing = root / "annotations" / "instances_val2017.json"
    listing.write_text(json.dumps(content))
    assert open_detection_dataset(DataSource("coco", str(listing))).classes == ("cell (0)", "cell (90)")
    listing.write_text("{")
    with pytest.raises(DataError, match="is not valid JSON"):
        open_detection_dataset(DataSource("coco", str(listing)))
    with pytest.raises(DataError, match="there are val2017: give --split val2017, or"):
        open_detection_dataset(DataSource("coco", str(root)))


def test_a_file_of_another_size_than_its_boxes_is_refused(tmp_path: Path) -> None:
    content = _coco()
    root = write_coco(tmp_path, content)
    content["images"][0]["width"] = 41
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    data = open_detection_dataset(DataSource("coco", str(root)), "val2017")
    with pytest.raises(DataError, match=r"7.jpg is 40 x 30 pixels, its boxes were made for 41 x 30"):
        data[2]


def test_images_with_boxes_and_with_labels_are_told_apart() -> None:
    with pytest.raises(DataError, match="for detection"):
        open_dataset(DataSource("shapes"), "test")
    with pytest.raises(DataError, match="labels and no boxes"):
        open_detection_dataset(DataSource("digits"), "test")
    with pytest.raises(DataError, match="would be wrong"):
        DataSource("voc", "somewhere", center_crop=224)
    task = DetectionTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=["disc"])
    with pytest.raises(RecipeError, match="DetectionAugmentation"):
        task.batching(read_shapes("test", slice(4)), Augmentation(horizontal_flip=True))
    labels = ClassificationTask(mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(RecipeError, match="give Augmentation"):
        labels.batching(open_dataset(DataSource("digits", count=9), "test"), EVERYTHING)


def test_shapes_are_the_same_whatever_part_is_drawn_and_fill_their_boxes() -> None:
    whole, part = read_shapes("test", slice(40)), read_shapes("test", slice(31, 34))
    assert torch.equal(whole[31][0], part[0][0])
    assert len(part[0][1]["labels"]) == 0  # every 32nd is empty
    for index in range(40):
        image, target = whole[index]
        for (left, top, right, bottom), hard in zip(target["boxes"].int().tolist(), target["difficult"], strict=True):
            if not hard:  # inside the box is a colour that the ground does not have
                inside = image[:, top:bottom, left:right].float()
                assert (inside.amax(0) - inside.amin(0)).amax(0).gt(100).any(0).all()  # every column has a part of it
    assert read_shapes("train", slice(1))[0][0].ne(whole[0][0]).any()


def _first(stream: TrainingStream, count: int, start: int = 0) -> list[DetectionBatch]:
    return list(itertools.islice(stream.iterate(start), count))


def _same(a: list[DetectionBatch], b: list[DetectionBatch]) -> bool:
    pairs = [(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left.images, right.images, strict=True)]
    boxes = [[target["boxes"] for batch in batches for target in batch.targets] for batches in (a, b)]
    return all(x.shape == y.shape and torch.equal(x, y) for x, y in pairs) and all(
        x.shape == y.shape and torch.equal(x, y) for x, y in zip(*boxes, strict=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", [DetectionAugmentation(), EVERYTHING])
def test_a_resumed_stream_goes_on_bit_for_bit(augmentation: DetectionAugmentation) -> None:
    data = read_shapes("train", slice(10))

    def open_stream(**options: Any) -> TrainingStream:
        return TrainingStream(data, augmentation, batch_size=4, **{"seed": 1, **options})

    state = torch.get_rng_state()
    whole = _first(open_stream(), 6)
    assert torch.equal(torch.get_rng_state(), state)
    assert _same(_first(open_stream(), 3, start=3), whole[3:])
    assert _same(_first(open_stream(num_workers=1), 2, start=2), whole[2:4])
    parts = [_first(open_stream(rank=rank, world_size=2), 2) for rank in range(2)]
    assert torch.equal(parts[1][1].images[1], whole[1].images[3])
    assert not _same(_first(open_stream(seed=2), 6), whole)


def test_boxes_follow_their_object_through_every_augmentation() -> None:
    """A white rectangle on black: wherever it goes, the box is its outline."""
    image = torch.zeros(3, 60, 80, dtype=torch.uint8)
    image[:, 20:40, 30:70] = 255
    target = make_target(torch.tensor([[30, 20, 70, 40]]), torch.tensor([1]), torch.tensor([True]), image_id=4)
    data = DetectionImages([image] * 40, Annotations.of_targets([target] * 40), ["white"])
    options = DetectionAugmentation(zoom_out=2, iou_crop=True, horizontal_flip=True, size=(120, 160))
    seen = 0
    for batch in _first(TrainingStream(data, options, batch_size=20, seed=0), 2):
        for varied, found in zip(batch.images, batch.targets, strict=True):
            assert varied.shape == (3, 120, 160)
            assert varied.dtype == torch.uint8
            if not len(found["labels"]):
                continue
            seen += 1
            assert found["difficult"].tolist() == [True]
            rows, columns = ((varied > 191).all(0).any(axis).nonzero().flatten() for axis in (1, 0))
            outline = torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            assert (found["boxes"][0] - outline).abs().max() <= 4, (found, outline)
    assert seen > 30


@pytest.mark.shared_data
def test_the_real_sets_have_the_objects_that_their_description_says(shared_data: Path) -> None:
    found = [read_voc(shared_data / "voc20", split) for split in ("train", "val", "test")]
    hard = [int(data.annotations.difficult.sum()) for data in found]
    easy = [len(data.annotations.labels) - count for data, count in zip(found, hard, strict=True)]
    assert (easy, hard) == ([2056, 233, 375], [265, 35, 53])
    per_class = torch.bincount(found[2].annotations.labels[~found[2].annotations.difficult], minlength=21)
    assert per_class.sum() == 375
    cells = read_voc(shared_data / "bccd", "test")
    assert cells.classes == ("Platelets", "RBC", "WBC")
    assert all(not data.findings.names for data in (*found, cells))
