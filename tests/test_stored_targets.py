"""Boxes and masks in shards and in sets of Hugging Face `datasets`: the targets that lie beside the images."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from adasap.cli import app
from adasap.data import DataSource, TrainingStream
from adasap.errors import AdasapError, DataError
from adasap.experiments.check_data import check_data
from adasap.tasks.detection.data.augmentation import DetectionAugmentation
from adasap.tasks.detection.data.sources import open_detection_dataset
from adasap.tasks.segmentation.data.batches import SegmentationAugmentation, SegmentationBatching
from adasap.tasks.segmentation.data.sources import open_segmentation_dataset
from segmentation_trees import ramp
from test_hugging_face import from_dict
from test_shards import number_of, png, write_tar

OBJECTS: list[dict[str, Any]] = [
    {"bbox": [[1, 2, 4, 3], [0, 0, 99, 5]], "category": ["dog", "cat"], "difficult": [0, 1]},
    {"bbox": [], "category": []},
    {"bbox": [[2, 2, 4, 4.5]], "category": ["dog"]},
]
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def box_shards(folder: Path, objects: Any = OBJECTS, count: int = 3) -> Path:
    """A shard of images of 8 x 8 pixels that say their number."""
    members = {}
    for number in range(count):
        members |= {f"{number:03}.png": png(number), f"{number:03}.txt": b"a caption"}
        members[f"{number:03}.json"] = json.dumps({"objects": objects[number % len(objects)], "id": number}).encode()
    return write_tar(folder / "train-0000.tar", members).parent


def image_bytes(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def check_boxes(found: Any) -> None:
    """The set that `OBJECTS` says, labels by the names of `found`."""
    label = {name: number for number, name in enumerate(found.classes, start=1)}
    (first, target), (_, empty), (last, single) = (found[index] for index in range(3))
    assert (number_of(first), number_of(last)) == (0, 2)
    assert target["boxes"].tolist() == [[1, 2, 5, 5], [0, 0, 8, 5]]  # the second clipped to the image
    assert target["labels"].tolist() == [label["dog"], label["cat"]]
    assert target["difficult"].tolist() == [False, True]
    assert empty["boxes"].shape == (0, 4)
    assert (single["boxes"].tolist(), single["image_id"]) == ([[2, 2, 6, 6.5]], 2)
    assert "1 boxes beyond the edge of their image, clipped" in found.summary()


def test_boxes_in_shards(tmp_path: Path) -> None:
    source = DataSource("wds-boxes", str(box_shards(tmp_path)))
    found = open_detection_dataset(source, "train")
    assert found.classes == ("cat", "dog")
    check_boxes(found)
    part = DataSource("wds-boxes", str(tmp_path), first=2, count=1, classes=("owl", "dog"))
    chosen = open_detection_dataset(part, "train")
    assert (len(chosen), chosen[0][1]["labels"].tolist(), chosen.num_channels) == (1, [2], 3)
    assert check_data(source, split="train").problems == []
    corners = [{"bbox": [[1, 2, 5, 5]], "category": [1]}]
    write_tar(tmp_path / "xyxy.tar", {"a.png": png(0), "a.json": json.dumps({"objects": corners[0]}).encode()})
    options = {"options": {"box_format": "xyxy"}, "classes": ("cat", "dog")}
    target = open_detection_dataset(DataSource("wds-boxes", str(tmp_path / "xyxy.tar"), **options), "train")[0][1]  # type: ignore[arg-type]
    assert (target["boxes"].tolist(), target["labels"].tolist()) == ([[1, 2, 5, 5]], [2])


def test_the_batches_of_boxes_in_shards_are_the_same_on_two_workers(tmp_path: Path) -> None:
    found = open_detection_dataset(DataSource("wds-boxes", str(box_shards(tmp_path, count=12))), "train")

    def stream(start: int, workers: int) -> Any:
        return TrainingStream(found, DetectionAugmentation(), batch_size=4, seed=0, num_workers=workers).iterate(
            start_step=start
        )

    whole, resumed = stream(0, 0), stream(2, 2)
    batches = [next(whole) for _ in range(4)][2:]
    for batch in batches:
        again = next(resumed)
        assert all(torch.equal(a, b) for a, b in zip(batch.images, again.images, strict=True))
        assert all(torch.equal(a["boxes"], b["boxes"]) for a, b in zip(batch.targets, again.targets, strict=True))


@pytest.mark.parametrize("layout", ["side by side", "one by one", "numbers"])
def test_boxes_in_sets_of_datasets(tmp_path: Path, layout: str) -> None:
    box, category = datasets.List(datasets.Value("float32"), length=4), datasets.ClassLabel(names=NAMES)
    content = [
        {key: [NAMES.index(name) for name in value] if key == "category" else value for key, value in one.items()}
        for one in OBJECTS
    ]
    content = [{"difficult": [0] * len(one["bbox"]), **one} for one in content]
    kinds = {"bbox": box, "category": datasets.Value("int64") if layout == "numbers" else category}
    kinds["difficult"] = datasets.Value("int64")
    feature: Any = {key: datasets.List(kind) for key, kind in kinds.items()}
    if layout == "one by one":
        feature = datasets.List(kinds)
        content = [[dict(zip(one, entry, strict=True)) for entry in zip(*one.values(), strict=True)] for one in content]  # type: ignore[misc]
    features = datasets.Features({"image": datasets.Image(), "things": feature})
    images = [{"bytes": png(number), "path": None} for number in range(3)]
    from_dict({"image": images, "things": content}, features).save_to_disk(tmp_path / "pets")
    options: dict[str, Any] = {"options": {"objects": "things"}}
    options |= {"classes": tuple(NAMES)} if layout == "numbers" else {}
    found = open_detection_dataset(DataSource("hf-boxes", str(tmp_path / "pets"), **options), "train")
    assert found.classes == tuple(NAMES)
    check_boxes(found)
    if layout != "numbers":
        words = ["check", f"hf-boxes:{tmp_path / 'pets'}", "--data-option", "objects=things"]
        checked = CliRunner().invoke(app, [*words, "--data-option", "box_format=xywh"])
        assert checked.exit_code == 0, (checked.output, checked.exception)
        assert "3 images" in checked.output
    with pytest.raises(DataError, match=r"no column 'objects' of objects; there are: image, things"):
        open_detection_dataset(DataSource("hf-boxes", str(tmp_path / "pets")), "train")


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ({"bbox": [[1, 2, 3]], "category": [0]}, r"member '000\.png': its `objects` cannot be read \(ValueError"),
        ({"bbox": [[1, 2, 3, 4]], "category": []}, r"wanted \{bbox: .* both as long"),
        ({"bbox": [[1, 2, 3, "x"]], "category": ["cat"]}, "'x' is not a number"),
        ({"bbox": [[1, 2, 3, 4]], "category": [-1]}, "neither a name nor a number"),
        (None, "cannot be read"),
        ({"bbox": [[0.1, 0.2, 0.3, 0.4]], "category": ["cat"]}, "boxes are in pixels"),
    ],
)
def test_objects_that_are_not_as_they_should_be_are_refused(tmp_path: Path, objects: Any, message: str) -> None:
    box_shards(tmp_path, [objects], count=1)
    with pytest.raises(DataError, match=message):
        open_detection_dataset(DataSource("wds-boxes", str(tmp_path)), "train")


def test_an_image_without_objects_or_an_option_that_is_not_there_is_said(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"a.png": png(0)})
    with pytest.raises(DataError, match=r"sample 'a' has no objects; give a\.json"):
        open_detection_dataset(DataSource("wds-boxes", str(tmp_path / "a.tar")), "train")
    with pytest.raises(AdasapError, match="box_format"):
        open_detection_dataset(
            DataSource("wds-boxes", str(tmp_path / "a.tar"), options={"box_format": "yolo"}), "train"
        )
    with pytest.raises(DataError, match=r"wds holds images with labels and no masks; .* wds-masks, hf-masks"):
        open_segmentation_dataset(DataSource("wds", str(tmp_path / "a.tar")), "train")


MASKS = [ramp((8, 8)), ramp((8, 8)).T.copy()]


def check_masks(found: Any) -> None:
    assert len(found) == 2
    assert [number_of(image) for image, _ in (found[0], found[1])] == [0, 1]
    assert all(torch.equal(found[place][1], torch.from_numpy(mask)) for place, mask in enumerate(MASKS))


def test_masks_in_shards(tmp_path: Path) -> None:
    members = {}
    for number, mask in enumerate(MASKS):
        members |= {f"{number}.png": png(number), f"{number}.seg.png": image_bytes(mask)}
    members["2.png"] = png(2)
    write_tar(tmp_path / "train-0.tar", members)
    options: dict[str, Any] = {"options": {"mask": "seg.png"}}
    found = open_segmentation_dataset(DataSource("wds-masks", str(tmp_path), **options), "train")
    assert found.classes == ("0", "1", "2")
    check_masks(found)
    assert "1 images without a mask, left out" in found.summary()
    named = DataSource("wds-masks", str(tmp_path), classes=("sky", "road", "car"), **options)
    assert open_segmentation_dataset(named, "train", channels=1)[0][0].shape == (1, 8, 8)
    batching = SegmentationBatching(SegmentationAugmentation(crop=(4, 4), horizontal_flip=True))
    one, other = (TrainingStream(found, batching, batch_size=2, seed=0, num_workers=n).iterate(1) for n in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(next(one), next(other), strict=True))
    members["1.seg.png"] = image_bytes(ramp((4, 4)))
    write_tar(tmp_path / "train-0.tar", members)
    with pytest.raises(DataError, match=r"member '1\.seg\.png' is 4 x 4 pixels, its image 8 x 8"):
        open_segmentation_dataset(named, "train")


def test_masks_in_sets_of_datasets(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
    content = {
        "image": [{"bytes": png(number), "path": None} for number in range(2)],
        "annotation": [{"bytes": image_bytes(mask), "path": None} for mask in MASKS],
    }
    from_dict(content, features).save_to_disk(tmp_path / "roads")
    check_masks(open_segmentation_dataset(DataSource("hf-masks", str(tmp_path / "roads")), "train"))
    checked = CliRunner().invoke(app, ["check", f"hf-masks:{tmp_path / 'roads'}", "--data-option", "mask=annotation"])
    assert checked.exit_code == 0, (checked.output, checked.exception)
    swapped = DataSource("hf-masks", str(tmp_path / "roads"), options={"mask": "image", "image": "annotation"})
    with pytest.raises(DataError, match=r"no image with a mask|holds no class numbers|is no class"):
        open_segmentation_dataset(swapped, "train")[0]
