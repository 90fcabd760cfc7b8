"""A detector's run: three steps by a recipe, a resumed one to the same numbers, what cannot work refused first."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

import adasap
from adasap.errors import AdasapError, DataError, ModelError, RecipeError
from adasap.experiments.compress import open_data, open_task, run_recipe
from adasap.experiments.recipe import dump_recipe, parse_recipe, read_recipe
from adasap.models import open_model
from adasap.training import PruneRecord, Record, StepRecord, ignore
from detection_trees import write_voc

Tree = dict[str, Any]
RECIPES = Path(__file__).parents[1] / "recipes"


def tiny(**sections: Any) -> Tree:
    """Drawn shapes, a narrow SSD, four steps."""
    tree: Tree = {
        "name": "shapes",
        "task": "detection",
        "model": {
            "builder": "adasap:ssd_mobilenet_v1",
            "options": {"num_classes": 4, "image_size": 64, "width": 0.25},
            "input_size": [3, 64, 64],
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
        },
        "data": {
            "train": {"kind": "shapes", "count": 8},
            "test": {"kind": "shapes", "count": 4},
            "suites": {"corrupted": {"kind": "corrupted", "corruptions": ["contrast"], "severities": [3]}},
            "augmentation": {"horizontal_flip": True, "iou_crop": True},
        },
        "training": {
            "batch_size": 4,
            "optimizer": {"learning_rate": 0.01},
            "runtime": {"precision": "float32"},  # the same numbers on every machine
        },
        "warm_up": {"epochs": 0.5},
        "pruning": {"epochs": 1, "budget": {"macs": 0.5}, "events": 2, "every": 1, "recalibration_batches": 1},
        "fine_tune": {"epochs": 0.5, "sharpness": {"kind": "uniform", "rho": 0.05}},
    }
    for key, value in sections.items():
        tree[key] = {**tree[key], **value} if isinstance(tree.get(key), dict) else value
    return tree


def compress(tree: Tree, folder: Path | None = None, observe: Callable[[Record], None] = ignore) -> adasap.Result:
    recipe = parse_recipe(tree)
    data = open_data(recipe)
    torch.manual_seed(0)
    model = open_model(recipe.model)
    task = open_task(recipe, classes=data.train.classes)
    task.check(model, data)
    return adasap.compress(model, task, data, recipe, folder=folder, observe=observe)


@pytest.mark.slow
def test_three_steps_meet_the_budget_and_a_resumed_run_ends_in_the_same_numbers(tmp_path: Path) -> None:
    records: list[Record] = []

    def observe(record: Record) -> None:
        records.append(record)
        if isinstance(record, PruneRecord) and record.event == 2:  # the checkpoint is that of the first event
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    result = compress(tiny(), tmp_path / "whole", observe)
    steps = [record for record in records if isinstance(record, StepRecord)]
    cuts = [record for record in records if isinstance(record, PruneRecord)]
    assert [step.passes for step in steps] == [2] * 4
    assert len(cuts) == 2
    assert cuts[-1].cost <= cuts[-1].cost_limit
    assert all(cut.mask_error < 1e-3 for cut in cuts)
    assert set(result.stages["fine-tuned"]) == {"clean", "corrupted"}
    later: list[Record] = []
    whole, resumed = result.model.state_dict(), compress(tiny(), tmp_path / "killed", later.append).model.state_dict()
    assert min(record.step for record in later if isinstance(record, StepRecord)) > 1
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_detectors_recipe_reads_back_as_itself() -> None:
    recipe = parse_recipe(tiny())
    assert recipe.task.kind == "detection"
    assert parse_recipe(yaml.safe_load(dump_recipe(recipe))) == recipe


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"task": "segmentations"}, RecipeError, "there is no task 'segmentations'; did you mean 'segmentation'"),
        ({"task": {"label_smoothing": 0.1}}, (RecipeError, DataError), "unknown key 'data.augmentation.iou_crop'"),
        ({"data": {"augmentation": {"random_crop_padding": 4}}}, RecipeError, "unknown key 'data.augmentation.random"),
        ({"data": {"train": {"kind": "digits"}}}, DataError, "no boxes"),
        ({"data": {"test": {"kind": "digits"}}}, DataError, "no boxes"),
        ({"data": {"suites": {"clean": {"kind": "clean"}}}}, DataError, "give it another name"),
        ({"model": {"options": {"num_classes": 3, "image_size": 64}}}, DataError, "set model.options.num_classes to 4"),
        ({"model": {"input_size": [3, 96, 96]}}, DataError, "works at 64 x 64"),
        ({"model": {"builder": "adasap:digits_net", "options": {}}}, DataError, "is no detector"),
        ({"model": {"weights": "a", "backbone_weights": "b"}}, (RecipeError, ModelError), "give one of the two"),
    ],
)
def test_what_cannot_work_is_refused_before_any_step(change: Tree, error: type[AdasapError], words: str) -> None:
    with pytest.raises(error, match=words):
        compress(tiny(**change))


def test_other_classes_in_the_test_set_are_refused(tmp_path: Path) -> None:
    for split, name in (("train", "cat"), ("test", "dog")):
        write_voc(tmp_path / split, {f"{split}{n}": [(name, (3, 3, 30, 20), False)] for n in range(4)}, split)
    data = {split: {"kind": "voc", "path": str(tmp_path / split), "classes": None} for split in ("train", "test")}
    data["train"]["classes"], data["test"]["classes"] = ["cat"], ["dog"]
    with pytest.raises(DataError, match=r"does not know: dog \(1\); data.train has: cat \(1\)"):
        compress(tiny(data=data))


@pytest.mark.slow
def test_a_run_leaves_a_model_a_page_and_both_latencies(tmp_path: Path) -> None:
    recipe = parse_recipe(tiny(data={"suites": {}}))  # the page has a clean test set alone to show
    finished = run_recipe(recipe, tmp_path / "shapes", Console(quiet=True))
    result = json.loads((tmp_path / "shapes" / "result.json").read_text())
    for name in ("dense", "compressed"):
        profile = result["profiles"][name]
        times = profile["latency"], profile["predictions"]["images to boxes"]
        assert [len(of_batches) for of_batches in times] == [2, 2]
        assert all(time["p50_ms"] > 0 for of_batches in times for time in of_batches)
    assert "images to boxes" in (tmp_path / "shapes" / "summary.md").read_text()
    assert (tmp_path / "shapes" / "report.html").is_file()
    loaded = adasap.load(tmp_path / "shapes" / "model.safetensors")
    named = adasap.export.read_header(tmp_path / "shapes" / "model.safetensors").metadata["classes"]
    assert named == ["disc", "square", "triangle"]
    picture = [torch.randn(3, 50, 70)]
    trained = finished.result.model.to(memory_format=torch.contiguous_format)
    for mine, other in zip(trained(picture), loaded(picture), strict=True):
        assert all(torch.equal(mine[key], other[key]) for key in ("boxes", "labels", "scores"))
    dense = tiny(model={"weights": str(tmp_path / "dense.safetensors")})
    adasap.save(tmp_path / "dense.safetensors", open_model(recipe.model), spec=recipe.model)
    open_model(parse_recipe(dense).model)  # a dense model's file gives weights


@pytest.mark.slow
def test_labels_follow_the_classes_that_a_detectors_weights_keep(tmp_path: Path) -> None:
    weights = {"model": {"weights": str(tmp_path / "dense.safetensors")}}
    spec, plain = parse_recipe(tiny()).model, open_data(parse_recipe(tiny()))
    for classes in (("disc", "square", "triangle"), ("square", "disc", "triangle")):
        adasap.save(tmp_path / "dense.safetensors", open_model(spec), spec=spec, metadata={"classes": classes})
        recipe = parse_recipe(tiny(**weights))
        data = open_data(recipe)
        open_task(recipe, classes=data.train.classes).check(open_model(recipe.model), data)
        for mine, before in ((data.train, plain.train), (data.suites[1].images, plain.suites[1].images)):
            names = [mine.classes[label - 1] for label in mine.annotations.labels]
            assert mine.classes == classes
            assert names == [before.classes[label - 1] for label in before.annotations.labels]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adasap_latency_020"])
def test_the_papers_recipe_makes_its_steps_on_a_tiny_tree(tmp_path: Path, name: str) -> None:
    for year, split in (("VOC2007", "trainval"), ("VOC2012", "trainval"), ("VOC2007", "test")):
        write_voc(
            tmp_path / year,
            {f"{split}{n}": [("cat", (3, 3, 30, 20), False), ("dog", (10, 8, 39, 29), n == 1)] for n in range(3)},
            split,
        )
    small = ["model.options.image_size=64", "model.input_size=[3,64,64]", "model.weights=null"]
    short = [
        "warm_up.epochs=0.34",
        "pruning.epochs=0.34",
        "fine_tune.epochs=0.34",
        "pruning.events=1",
        "pruning.every=1",
    ]
    local = ["training.num_workers=0", "training.batch_size=2", "training.runtime.device=cpu"]
    places = [f"data.train.path={tmp_path}", f"data.test.path={tmp_path}"]
    if "latency" in name:  # a table of this model on this machine takes minutes: the same selection by MACs
        places += ["pruning.budget={macs: 0.2}"]
    recipe = read_recipe(RECIPES / "voc" / f"voc_ssd512_resnet50_{name}.yaml", [*small, *short, *local, *places])
    records: list[Record] = []
    model = open_model(recipe.model)
    data = open_data(recipe)
    open_task(recipe, classes=data.train.classes).check(model, data)
    before = copy.deepcopy(model.state_dict())
    result = adasap.compress(model, open_task(recipe, classes=data.train.classes), data, recipe, observe=records.append)
    steps = [record for record in records if isinstance(record, StepRecord)]
    assert [step.phase for step in steps] == ["warm-up", "pruning", "fine-tuning"]
    assert all(step.finite and step.passes == 2 for step in steps)
    sizes = [sum(tensor.numel() for tensor in state.values()) for state in (before, result.model.state_dict())]
    assert sizes[1] < 0.45 * sizes[0]
