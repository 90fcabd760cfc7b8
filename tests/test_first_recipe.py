"""`adasap init`: a model and data as strangers have them become a recipe that a dry run accepts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.errors import DataError, ModelError, RecipeError
from adasap.experiments.find_data import kind_at
from adasap.experiments.first_recipe import init_recipe
from adasap.models.preparation import preparation_of
from adasap.profiling import read_latency_table
from adasap.profiling.table import latency_cost
from detection_trees import write_coco
from segmentation_trees import ramp, write_mask

CLASSES = ("apple", "banana", "cherry")
SMALL = ("widths=[4, 8, 8]",)
NET = """
from torch import nn


def build(num_classes=7):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, num_classes)
    )
"""


def photo(path: Path, width: int, height: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of odd sizes in train/ and val/; a class is missing in val, a file is broken, and Jupyter left a folder."""
    monkeypatch.chdir(tmp_path)
    for number in range(8):
        for name in CLASSES:
            photo(Path("photos", "train", name, f"{number}.jpg"), 40 + number, 50 - number)
            if name != "apple":
                photo(Path("photos", "val", name, f"{number}.jpg"), 36, 36 + number)
    photo(Path("photos", "train", ".ipynb_checkpoints", "0.jpg"), 40, 40)
    broken = Path("photos", "train", "banana", "3.jpg")
    broken.write_bytes(broken.read_bytes()[:300])
    Path("mymodel.py").write_text(NET)
    return Path("photos")


@pytest.mark.slow
def test_photos_and_a_fine_tuned_file_with_another_head(photos: Path) -> None:
    head = adasap.open_model(adasap.ModelSpec("adasap:digits_net", {"widths": [4, 8, 8], "num_classes": 5}))
    torch.save({"state_dict": {f"module.{name}": t for name, t in head.state_dict().items()}}, "best.pth")
    found = init_recipe("adasap:digits_net", "photos", weights="best.pth", model_options=SMALL)
    recipe, text = found.recipe, "\n".join(found.parts())
    assert recipe.model.options["num_classes"] == 5
    assert (recipe.data.train.split, recipe.data.test.split, recipe.data.train.skip_broken) == (None, "val", True)
    assert (recipe.data.test.resize, recipe.data.test.center_crop) == (37, 32)
    assert recipe.warm_up.sharpness.perturbation.budget is not None
    for said in ("3.jpg", "show none of apple", ".ipynb_checkpoints", "has 5 outputs, the data want 3"):
        assert said in text
    plan = adasap.preview("recipe.yaml")
    assert plan.cost <= plan.limit
    with pytest.raises(RecipeError, match=r"recipe\.yaml is there already"):
        init_recipe("adasap:digits_net", "photos")


@pytest.mark.slow
def test_own_model_and_a_folder_without_a_split(photos: Path) -> None:
    whole = shutil.move("photos/train", "whole")
    found = init_recipe("./mymodel.py:build", str(whole), budget="size_mb=0.001")
    assert "# ? no weights" in found.text
    assert "# ? nothing says how the model's images are prepared" in found.text
    assert found.command.endswith("--trust-builder")
    assert found.recipe.model.options == {"num_classes": 3}
    assert found.recipe.pruning.budget.unit == "parameters"
    lists = [Path("whole", f"adasap-{split}.csv").read_text().splitlines()[1:] for split in ("train", "test")]
    files = [{line.split(",")[0] for line in listed} for listed in lists]
    assert (len(files[0]), len(files[1]), files[0] & files[1]) == (21, 3, set())
    assert {line.split(",")[2] for line in lists[1]} == set(CLASSES)


def test_an_archive_without_a_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (50, 32, 32, 3), dtype=np.uint8)
    np.savez("mixed.npz", images=images, labels=np.arange(50) % 4)
    np.savez("sorted.npz", images=images, labels=np.sort(np.arange(50) % 4))
    mixed = init_recipe("adasap:digits_net", "mixed.npz", model_options=SMALL).recipe.data
    assert (mixed.train.count, mixed.test.first, mixed.test.count) == (40, 40, None)
    same = init_recipe("adasap:digits_net", "sorted.npz", model_options=SMALL, out="b.yaml")
    assert same.recipe.data.train == same.recipe.data.test
    assert "# ? there are no test images" in same.text


def test_boxes_of_roboflow_and_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listed = [{"id": i, "file_name": f"{i}.jpg", "width": 70, "height": 66} for i in range(4)]
    boxes = [{"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [5, 5, 30, 30]} for i in range(4)]
    content = {
        "images": listed,
        "annotations": boxes,
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "bus"}],
    }
    for split in ("train", "valid"):
        Path("boxes", split).mkdir(parents=True)
        Path("boxes", split, "_annotations.coco.json").write_text(json.dumps(content))
        for image in listed:
            photo(Path("boxes", split, str(image["file_name"])), 70, 66)
            photo(Path("seg", "images", split, str(image["file_name"])), 70, 66)
            write_mask(Path("seg", "masks", split, f"{image['id']}.png"), ramp((66, 70)))
    options = ("image_size=64", "width=0.25")
    boxed = init_recipe("adasap:ssd_mobilenet_v1", "boxes", model_options=options).recipe
    assert (boxed.task.kind, boxed.data.train.kind, boxed.data.test.split) == ("detection", "coco", "valid")
    assert (boxed.model.options["num_classes"], boxed.model.input_size) == (3, (3, 64, 64))
    masked = init_recipe("adasap:unet", "seg", model_options=("width=4", "depth=2"), out="b.yaml").recipe
    assert (masked.task.kind, masked.data.train.kind, masked.model.input_size) == ("segmentation", "masks", (3, 64, 64))


@pytest.mark.slow
def test_a_budget_of_latency_is_timed_beside_the_recipe(photos: Path) -> None:
    words = ["init", "mymodel.py:build", "photos", "--budget", "latency=0.5"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, (result.output, result.exception)
    recipe = adasap.read_recipe(Path("recipe.yaml"))
    assert (recipe.pruning.budget.latency, recipe.pruning.budget.latency_table) == (0.5, "recipe_latency.json")
    table = read_latency_table(Path("recipe_latency.json"))
    assert len(table.points) == 4  # convolution, its ReLU, pooling, linear
    assert table.settings["pixels"] == recipe.model.input_size[-1]
    model, image = adasap.open_model(recipe.model, trust_builder=True), torch.zeros(1, *recipe.model.input_size)
    cost = latency_cost(model, adasap.trace_groups(model, image), image, table="recipe_latency.json")
    assert cost.dense > 0  # nothing is missing; whether half of it can go is the machine's word


def test_what_cannot_work_is_said(photos: Path) -> None:
    with pytest.raises(ModelError, match="is a file of weights; give the model that they are of"):
        init_recipe("best.pth", "photos")
    photo(Path("photos", "val", "durian", "0.jpg"), 30, 30)
    with pytest.raises(DataError, match="classes that the training images lack: durian"):
        init_recipe("adasap:digits_net", "photos")
    Path("empty").mkdir()
    with pytest.raises(DataError, match="it is empty; wanted train/ and val/"):
        init_recipe("adasap:digits_net", "empty")
    assert not Path("recipe.yaml").exists()


def test_the_verb_prints_what_to_do_next(photos: Path) -> None:
    arguments = ["init", "adasap:digits_net", "photos", "--model-option", SMALL[0], "--out", "mine.yaml"]
    output = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False).output
    assert "mine.yaml: read it, then adasap compress mine.yaml --dry-run" in output
    assert Path("mine.yaml").read_text().startswith("# yaml-language-server: $schema=/")


def test_layouts_are_told_apart(tmp_path: Path) -> None:
    write_coco(tmp_path / "coco", {"images": [], "annotations": [], "categories": []})
    for folder in ("voc/JPEGImages", "voc/Annotations", "voc/SegmentationClass", "masks/images", "masks/masks"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("tables/train.csv", "shards/train/0.tar", "rows/data.parquet", "arrays/train.npz"):
        (tmp_path / file).parent.mkdir(parents=True)
        (tmp_path / file).touch()
    names = ("coco", "voc", "masks", "tables", "shards", "rows", "arrays")
    assert [kind_at(tmp_path / name) for name in names] == ["coco", "voc", "masks", "csv", "wds", "hf", "npz"]
    assert [kind_at(tmp_path / name, "segmentation") for name in ("coco", "voc")] == ["coco-masks", "voc-masks"]


def test_what_published_weights_want() -> None:
    spec = adasap.ModelSpec("torchvision:vit_b_16")
    assert (preparation_of(spec).size, preparation_of(spec).resize) == ((3, 224, 224), 256)
    timm = preparation_of(adasap.ModelSpec("timm:vit_tiny_patch16_224"))
    assert (timm.resize, timm.interpolation, timm.mean) == (248, "bicubic", (0.5,) * 3)
    assert preparation_of(adasap.ModelSpec("torchvision:ssdlite320_mobilenet_v3_large")).mean == (0.5,) * 3
    assert preparation_of(adasap.ModelSpec("mine:net", input_size=(1, 28, 28))).mean == (0.5,)
