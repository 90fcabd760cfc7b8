"""Broken images are found before training, listed by `adasap check`, or left out and counted; boxes turn with EXIF."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from adasap.cli.main import app
from adasap.data import DataSource, open_dataset
from adasap.data.checking import check_files, require_readable
from adasap.data.decoding import Reading
from adasap.data.images import remarks_of
from adasap.errors import DataError
from adasap.tasks.detection.data.sources import open_detection_dataset
from detection_trees import write_coco, write_voc


def _folder(root: Path, *, side: int = 16, count: int = 6) -> Path:
    generator = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.jpg")
    return root


def _break(root: Path) -> list[str]:
    """A JPEG cut in half, an empty file and a text, in the training split."""
    cut, empty, text = (root / "train" / place for place in ("cat/1.jpg", "cat/2.jpg", "dog/5.jpg"))
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    empty.write_bytes(b"")
    text.write_text("Error 404")
    return [str(path) for path in (cut, empty, text)]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_broken_file_is_found_in_order(tmp_path: Path, workers: int) -> None:
    root = _folder(tmp_path)
    broken = _break(root)
    paths = sorted(str(path) for path in root.glob("train/*/*.jpg"))
    checks = list(check_files(paths, Reading(), workers=workers))
    assert [check.path for check in checks] == paths
    assert [check.path for check in checks if check.problem] == broken
    assert all(check.path in str(check.problem) for check in checks if check.problem)


def test_a_sample_finds_broken_images_and_other_sizes(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    whole = open_dataset(DataSource("folder", str(root)), "train")
    require_readable(whole, where="data.train", shape=(3, 16, 16))
    with pytest.raises(DataError, match=r"data.train: 12 of 12 images .* image 0 is 3 x 16 x 16 .* wants 3 x 8 x 8"):
        require_readable(whole, where="data.train", shape=(3, 8, 8))
    _break(root)
    with pytest.raises(DataError, match=r"data.train: 3 of 12 images .*cat/1\.jpg .* `skip_broken: true`"):
        require_readable(whole, where="data.train", shape=(3, 16, 16))
    with pytest.raises(DataError, match="of 11 images"):
        require_readable(whole, where="data.train", most=11)


def test_broken_files_are_left_out_and_counted_when_asked(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    _break(root)
    data = open_dataset(DataSource("folder", str(root), skip_broken=True), "train")
    assert len(data) == 9
    assert data.labels.tolist() == [0] * 4 + [1] * 5
    assert [tuple(data[index][0].shape) for index in range(9)] == [(3, 16, 16)] * 9
    assert remarks_of(data)[0].startswith("3 of 12 image files cannot be read (")
    resized = open_dataset(DataSource("folder", str(root), skip_broken=True, resize=8), "train", channels=1)
    assert len(remarks_of(resized)) == 2


def test_a_set_without_a_sound_image_is_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path, count=1)
    for path in root.glob("train/*/*.jpg"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no image can be read: 2 of 2 image files"):
        open_dataset(DataSource("folder", str(root), skip_broken=True), "train")


def _recipe(root: Path, tmp_path: Path, **train: Any) -> Path:
    path = tmp_path / "recipe.yaml"
    data = {"kind": "folder", "path": str(root)}
    tree = {
        "name": "small",
        "model": {"builder": "adasap:digits_net", "options": {"num_classes": 2}, "input_size": [3, 16, 16]},
        "data": {"train": {**data, **train}, "test": data},
        "training": {"batch_size": 4},
        "warm_up": {"epochs": 1},
        "pruning": {"epochs": 1, "budget": {"macs": 0.5}, "events": 1},
        "fine_tune": {"epochs": 1},
    }
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.slow
def test_a_dry_run_and_a_run_stop_at_broken_images_before_training(tmp_path: Path) -> None:
    root = _folder(tmp_path / "set")
    _break(root)
    recipe = _recipe(root, tmp_path)
    for words in (["--dry-run"], ["--out", str(tmp_path / "runs")]):
        result = CliRunner().invoke(app, ["compress", str(recipe), *words])
        assert isinstance(result.exception, DataError)
        assert "3 of 12 images that were tried cannot be used" in str(result.exception)
    assert not (tmp_path / "runs" / "small" / "records.jsonl").exists()
    skipping = CliRunner().invoke(app, ["compress", str(_recipe(root, tmp_path, skip_broken=True)), "--dry-run"])
    assert skipping.exit_code == 0, skipping.output
    assert "data.train: 9 images, 2 classes; 3 of 12 image files cannot be read" in skipping.output


def test_the_verb_lists_broken_files_and_exits_with_2(tmp_path: Path) -> None:
    root = _folder(tmp_path)
    sound = CliRunner().invoke(app, ["check", f"folder:{root}", "--split", "test"])
    assert sound.exit_code == 0, sound.output
    assert "12 images, 2 classes: cat 6, dog 6" in sound.output
    assert "16 x 16: 12" in sound.output
    broken = _break(root)
    (root / "train" / "dog" / "0.jpg").rename(root / "train" / "dog" / "0.png")
    result = CliRunner().invoke(
        app, ["check", f"folder:{root}", "--split", "train", "--workers", "2", "--out", str(tmp_path / "list.txt")]
    )
    assert result.exit_code == 2
    assert "3 cannot be read" in result.output
    assert "of another format than their name says, read all the same: 1" in result.output
    listed = (tmp_path / "list.txt").read_text().splitlines()
    assert [line.split(" cannot")[0] for line in listed] == broken


def test_the_verb_names_what_was_passed_over(tmp_path: Path) -> None:
    for name in ("ant", ".cache"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "a.png")
    result = CliRunner().invoke(app, ["check", f"folder:{tmp_path}"])
    assert "passed over: 1 hidden (.cache)" in result.output, result.output


def test_the_verb_takes_arrays_and_refuses_what_it_cannot_open(tmp_path: Path) -> None:
    np.savez(tmp_path / "g.npz", images=np.zeros((3, 8, 9), np.uint8), labels=np.zeros(3, int))
    result = CliRunner().invoke(app, ["check", f"npz:{tmp_path / 'g.npz'}"])
    assert result.exit_code == 0, result.output
    assert "9 x 8: 3" in result.output
    for option in ("white=true", "skipbroken=true", "exif_orientation=1", "most_pixels=-3"):
        refused = CliRunner().invoke(app, ["check", f"npz:{tmp_path / 'g.npz'}", "--data-option", option])
        assert isinstance(refused.exception, DataError), option


def _turned_file(path: Path, orientation: int) -> None:
    """40 x 30 pixels as stored, black but for a white patch at x 4 to 10, y 6 to 16, with an EXIF orientation."""
    pixels = np.zeros((30, 40, 3), dtype=np.uint8)
    pixels[6:16, 4:10] = 255
    exif = Image.Exif()
    exif[274] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, exif=exif, quality=100)


STORED = (4.0, 6.0, 10.0, 16.0)
SHOWN = (14.0, 4.0, 24.0, 10.0)  # a quarter turn clockwise: x = 30 - y


@pytest.mark.parametrize("exif_orientation", [True, False])
@pytest.mark.parametrize("made_for", ["stored", "shown"])
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_boxes_lie_on_their_object_whichever_way_up_they_were_made(
    tmp_path: Path, kind: Any, made_for: str, exif_orientation: bool
) -> None:
    left, top, right, bottom = STORED if made_for == "stored" else SHOWN
    width, height = (40, 30) if made_for == "stored" else (30, 40)
    if kind == "voc":
        root = write_voc(tmp_path, {"a": [("car", (left + 1, top + 1, right, bottom), False)]})
        _turned_file(root / "JPEGImages" / "a.jpg", 6)
        xml = root / "Annotations" / "a.xml"
        sizes = f"<width>{width}</width><height>{height}</height>"
        xml.write_text(xml.read_text().replace("<width>0</width><height>0</height>", sizes))
        split = "test"
    else:
        content = {
            "images": [{"id": 7, "file_name": "7.jpg", "width": width, "height": height}],
            "categories": [{"id": 1, "name": "car"}],
            "annotations": [
                {"id": 1, "image_id": 7, "category_id": 1, "bbox": [left, top, right - left, bottom - top]}
            ],
        }
        root, split = write_coco(tmp_path, content), "val2017"
        _turned_file(root / split / "7.jpg", 6)
    data = open_detection_dataset(DataSource(kind, str(root), exif_orientation=exif_orientation), split)
    image, target = data[0]
    assert image.shape[1:] == ((40, 30) if exif_orientation else (30, 40))
    assert target["boxes"].tolist() == [list(SHOWN if exif_orientation else STORED)]
    x0, y0, x1, y1 = target["boxes"][0].int().tolist()
    assert image[:, y0:y1, x0:x1].float().mean() > 245
    assert data.findings.count("turned") == ((made_for == "shown") != exif_orientation)


def test_boxes_that_no_size_tells_apart_are_taken_as_shown_and_counted(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {"a": [("car", (15, 5, 24, 10), False)]})  # the annotation states no true size
    _turned_file(root / "JPEGImages" / "a.jpg", 6)
    data = open_detection_dataset(DataSource("voc", str(root)), "test")
    assert data[0][1]["boxes"].tolist() == [list(map(float, (14, 4, 24, 10)))]
    assert "does not tell which way up its boxes are: taken as shown (a)" in data.summary()


def test_a_contradiction_of_sizes_says_which_of_the_two_is_turned(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "width": 40, "height": 30}],
        "categories": [{"id": 1, "name": "car"}],
        "annotations": [],
    }
    root = write_coco(tmp_path, content)
    content["images"][0].update(width=30, height=40)
    (root / "annotations" / "instances_val2017.json").write_text(json.dumps(content))
    data = open_detection_dataset(DataSource("coco", str(root)), "val2017")
    with pytest.raises(DataError, match=r"is 40 x 30 pixels, its boxes were made for 30 x 40 .* turned by 90 degrees"):
        data[0]
    result = CliRunner().invoke(app, ["check", f"coco:{root}", "--split", "val2017"])
    assert result.exit_code == 2
    assert "turned by 90 degrees" in result.output


def test_detection_images_that_cannot_be_decoded_are_left_out_when_asked(tmp_path: Path) -> None:
    root = write_voc(tmp_path, {name: [("car", (1, 1, 9, 9), False)] for name in "abc"})
    file = root / "JPEGImages" / "b.jpg"
    file.write_bytes(file.read_bytes()[:-300])
    whole = open_detection_dataset(DataSource("voc", str(root)), "test")
    assert len(whole) == 3
    data = open_detection_dataset(DataSource("voc", str(root), skip_broken=True), "test")
    assert [data[index][1]["image_id"] for index in range(len(data))] == [0, 2]
    assert data.findings.count("missing") == 1
    assert (
        open_detection_dataset(DataSource("voc", str(root), skip_broken=True), "test", channels=1)[0][0].shape[0] == 1
    )
    with pytest.raises(DataError, match="1 of 3 images that were tried"):
        require_readable(whole, where="data.train")
    assert torch.equal(data.annotations.counts, torch.tensor([1, 1]))
