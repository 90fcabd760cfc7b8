"""Labels go by name: a perfect classifier is right on every image, however the data order, name or lack its classes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

import adasap
from adasap.cli.main import app
from adasap.data import DataSource, InMemoryImages, open_dataset
from adasap.data.arrays import CIFAR10_CLASSES
from adasap.data.classes import match_classes, matched_images, names_of_outputs
from adasap.data.imagenet import imagenet_names, imagenet_wnids
from adasap.data.images import remarks_of
from adasap.errors import DataError
from adasap.evaluation import SuiteSource, check_suite, evaluate_suite, open_suite
from adasap.experiments.compress import open_data, run_recipe
from adasap.experiments.recipe import parse_recipe
from adasap.export import kept_classes
from adasap.report.task_record import TaskRecord
from adasap.tasks.classification.task import ClassificationTask
from adasap.training import Data
from suite_trees import ReadsColour, arrays, objectnet, wnid_folders

TinyRecipe = Callable[..., dict[str, Any]]
CPU = torch.device("cpu")
TASK = TaskRecord("classification", ClassificationTask.primary_metric)
TASK = ClassificationTask(mean=(0.0,) * 3, std=(1.0,) * 3)
NAMES = ("ant", "bee", "cow")
"""Classes of the model, in the order of its outputs; an image's red says which one it shows."""


def folder(root: Path, names: Sequence[str] = NAMES, count: int = 2) -> DataSource:
    for name in names:
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (32, 32), (NAMES.index(name), 0, 7)).save(root / name / f"{k}.png")
    return DataSource("folder", str(root), split=".")


def npz(path: Path, names: Sequence[str] | None, shown: Sequence[str]) -> DataSource:
    """One image of each class that is shown; numbered by `names`, or as the model does."""
    images = np.zeros((len(shown), 32, 32, 3), np.uint8)
    images[..., 0] = np.array([NAMES.index(name) for name in shown])[:, None, None]
    labels = [(names or NAMES).index(name) for name in shown]
    np.savez(path, images=images, labels=labels, **({} if names is None else {"classes": np.array(names)}))
    return DataSource("npz", str(path))


def listed(root: Path, numbers: dict[str, int], *, named: bool = True) -> DataSource:
    folder(root / "images", tuple(numbers))
    rows = [
        f"{name}/{k}.png,{number}" + (f",{name}" if named else "") for name, number in numbers.items() for k in range(2)
    ]
    (root / "labels.csv").write_text("\n".join(["file,class_index" + ",class_name" * named, *rows]) + "\n")
    return DataSource("csv", str(root))


def accuracy(source: DataSource, kind: str = "clean", **options: Any) -> float:
    """Of a model that is always right about what an image shows."""
    suite = open_suite("s", SuiteSource(kind, source, **options), classes=NAMES, of="data.train")
    return evaluate_suite(ReadsColour(3), TASK, suite, CPU).mean


@pytest.mark.parametrize("shown", [NAMES, ("bee", "cow"), ("ant", "cow"), ("cow",)])
def test_a_folder_may_lack_classes(tmp_path: Path, shown: tuple[str, ...]) -> None:
    assert accuracy(folder(tmp_path, shown)) == 1.0


@pytest.mark.parametrize("order", [NAMES, ("cow", "ant", "bee"), ("bee", "yak", "cow", "ant")])
def test_an_npz_may_number_its_classes_as_it_likes(tmp_path: Path, order: tuple[str, ...]) -> None:
    assert accuracy(npz(tmp_path / "a.npz", order, ("bee", "ant", "cow", "ant"))) == 1.0
    assert accuracy(npz(tmp_path / "b.npz", order, ("cow",))) == 1.0


@pytest.mark.parametrize("numbers", [{"ant": 2, "bee": 0, "cow": 1}, {"cow": 0}, {"bee": 7, "ant": 3}])
def test_a_csv_may_number_its_classes_as_it_likes(tmp_path: Path, numbers: dict[str, int]) -> None:
    assert accuracy(listed(tmp_path, numbers)) == 1.0


def test_corrupted_images_carry_the_same_labels(tmp_path: Path) -> None:
    source = folder(tmp_path, ("bee", "cow"))
    assert accuracy(source, "corrupted", corruptions=("gaussian_blur",), severities=(1, 3)) == 1.0


def test_names_are_the_same_in_any_unicode_form(tmp_path: Path) -> None:
    assert match_classes(["pâté", "b"], ["b", "pâté"], {0, 1}, where="x", of="y").numbers == (1, 0)


def test_an_unknown_class_is_refused_with_both_lists(tmp_path: Path) -> None:
    source = npz(tmp_path / "a.npz", ("Bee", "cow"), ("cow",))
    assert accuracy(source) == 1.0  # no image shows a Bee
    images = np.zeros((2, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "b.npz", images=images, labels=[0, 1], classes=["Bee", "cow"])
    with pytest.raises(
        DataError, match=r"Bee \(1\) \(did you mean 'bee'\?\); data.train has: ant, bee, cow \(3\)"
    ) as error:
        accuracy(DataSource("npz", str(tmp_path / "b.npz")))
    assert "has: Bee, cow (2)" in str(error.value)


@pytest.mark.parametrize("given", ["be e", "bees", "BEE", "bee "])
def test_names_that_differ_are_suggested_and_not_taken(given: str) -> None:
    with pytest.raises(DataError, match="did you mean 'bee'"):
        match_classes(NAMES, [given], {0}, where="data.test", of="data.train")


def test_missing_classes_are_reported(tmp_path: Path) -> None:
    suite = open_suite("s", SuiteSource("clean", folder(tmp_path, ("cow",))), classes=NAMES, of="data.train")
    assert suite.remarks == (
        "suite 's': classes are matched by name with those of data.train; suite 's' has no image of 2 of the 3 classes "
        "of data.train: ant, bee",
    )


def test_a_class_that_is_there_twice_is_refused_unless_both_sides_number_alike() -> None:
    twice = ["crane", "tench", "crane"]
    assert match_classes(twice, twice, {0, 1, 2}, where="x", of="y").numbers is None
    assert match_classes(twice, ["tench"], {0}, where="x", of="y").numbers == (1,)
    with pytest.raises(DataError, match="'crane' is there more than once"):
        match_classes(twice, ["crane"], {0}, where="x", of="y")


def test_numbers_are_used_where_one_side_has_no_names_and_that_is_said(tmp_path: Path) -> None:
    source = SuiteSource("clean", npz(tmp_path / "a.npz", None, ("bee", "cow")))
    suite = open_suite("s", source, classes=NAMES, of="data.train")
    assert suite.labels.tolist() == [1, 2]
    assert suite.remarks == (
        "suite 's' names no classes: they are numbers, in the order of data.train (0 = ant, 1 = bee, 2 = cow)",
    )
    other = open_suite("s", SuiteSource("clean", folder(tmp_path / "f")))
    assert other.remarks == (
        "the model names no classes: they are numbers, in the order of suite 's' (0 = ant, 1 = bee, 2 = cow)",
    )
    assert open_suite("s", source).remarks == ()  # neither has names
    few = open_suite("s", source, classes=NAMES[:2], of="data.train")
    with pytest.raises(DataError, match=r"label 2 of image 1 is out of range: there are 2 classes, numbered 0 to 1"):
        check_suite(few, input_size=(3, 32, 32), num_outputs=1000)


@pytest.mark.parametrize("names", [("0", "1", "10", "2"), ("0", "1", "3"), ("1", "10", "2")])
def test_numbers_as_names_beside_numbers_are_refused_where_they_contradict(names: tuple[str, ...]) -> None:
    for reference, given in ((names, None), (None, names)):
        with pytest.raises(DataError, match=r"numbers in another order than they stand in: 0, 1|numbers .*: 1, 10, 2"):
            match_classes(reference, given, {0, 2}, where="data.test", of="data.train")
    assert match_classes(("0", "1", "2", "3"), ("0", "1", "3"), {0, 1, 2}, where="x", of="y").numbers == (0, 1, 3)
    assert match_classes(None, ("1", "2", "3"), {2}, where="x", of="y").numbers is None


def test_folders_named_by_numbers_are_matched_by_these_names(tmp_path: Path) -> None:
    for split, names in (("train", range(12)), ("test", (2, 11))):
        for name in names:
            (tmp_path / split / str(name)).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / str(name) / "a.png")
    train, test = (open_dataset(DataSource("folder", str(tmp_path)), split) for split in ("train", "test"))
    assert train.classes[:4] == ("0", "1", "10", "11")
    matched, _ = matched_images(test, train.classes, where="test", of="train")
    assert [train.classes[label] for label in matched.labels] == ["11", "2"]


# Hidden files and folders


def litter(root: Path, files: Path) -> None:
    """What notebooks, archives and file servers leave behind."""
    for name in (".ipynb_checkpoints", "__MACOSX", "@eaDir"):
        (root / name).mkdir()
        (files / "0.png").exists()
        Image.new("RGB", (32, 32)).save(root / name / "0-checkpoint.png")
    (files / ".ipynb_checkpoints").mkdir()
    Image.new("RGB", (32, 32)).save(files / ".ipynb_checkpoints" / "0.png")
    (files / "._0.png").write_bytes(b"Mac OS X")
    for path in (root / ".DS_Store", files / "Thumbs.db", files / "notes.txt", root / "readme.md"):
        path.write_bytes(b"x")
    (root / "empty").mkdir()


def test_what_is_hidden_or_holds_no_image_is_no_class(tmp_path: Path) -> None:
    source = folder(tmp_path)
    litter(tmp_path, tmp_path / "bee")
    data = open_dataset(source)
    assert data.classes == NAMES
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert accuracy(source) == 1.0
    (remark,) = remarks_of(data)
    assert remark == (
        "passed over: 7 hidden (.DS_Store, .ipynb_checkpoints, @eaDir, ...), 1 other files (notes.txt), 1 folders "
        "without images (empty), 1 files beside the class folders (readme.md)"
    )
    assert f"suite 's': {remark}" in open_suite("s", SuiteSource("clean", source)).remarks


def test_images_below_a_class_folder_count_and_a_link_upwards_ends(tmp_path: Path) -> None:
    source = folder(tmp_path, ("ant",))
    (tmp_path / "ant" / "more").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "ant" / "more" / "a.png")
    (tmp_path / "ant" / "more" / "up").symlink_to(tmp_path / "ant")
    assert len(open_dataset(source)) == 3


def test_published_layouts_pass_over_hidden_folders_too(tmp_path: Path) -> None:
    wnid_folders(tmp_path)
    litter(tmp_path, tmp_path / imagenet_wnids()[1])
    assert sorted(set(open_dataset(DataSource("imagenet", str(tmp_path))).labels.tolist())) == [0, 1, 999]


@pytest.mark.parametrize("ending", ["gif", "jfif", "jp2", "pgm"])
def test_every_kind_of_image_that_is_read_is_found_in_a_folder(tmp_path: Path, ending: str) -> None:
    folder(tmp_path, ("ant", "bee"), count=0)
    for name in ("ant", "bee"):
        Image.new("L", (32, 32)).save(tmp_path / name / f"a.{ending}")
    assert open_dataset(DataSource("folder", str(tmp_path), split=".")).labels.tolist() == [0, 1]


def test_two_folders_of_one_name_are_refused(tmp_path: Path) -> None:
    for name in ("p\u00e2t\u00e9", "pa\u0302te\u0301"):
        (tmp_path / name).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="two class folders called 'p\u00e2t\u00e9', in two forms of Unicode; merge"):
        open_dataset(DataSource("folder", str(tmp_path), split="."))


# Fixed names: ImageNet, CIFAR


def test_models_of_imagenet_take_folders_of_its_names(tmp_path: Path) -> None:
    wnid_folders(tmp_path / "wnids")
    for number in (0, 1, 999):
        (tmp_path / "wnids" / imagenet_wnids()[number]).rename(tmp_path / imagenet_names()[number])
    source = SuiteSource("clean", DataSource("folder", str(tmp_path), split=".", resize=32, center_crop=32))
    suite = open_suite("s", source, num_outputs=1000)
    assert sorted(set(suite.labels.tolist())) == [0, 1, 999]
    assert evaluate_suite(ReadsColour(), TASK, suite, CPU).mean == 1.0
    assert names_of_outputs(1000, ["my cat", "tench"], {0, 1}) is None
    assert names_of_outputs(10, ["tench"], {0}) is None


def test_published_suites_are_matched_with_a_model_of_other_order_or_fewer_classes(tmp_path: Path) -> None:
    wnids = imagenet_wnids()
    mine = (wnids[999], wnids[1], wnids[0])
    wnid_folders(tmp_path / "val")
    options: dict[str, Any] = {"input_size": (3, 32, 32), "classes": mine}
    for kind in ("imagenet-val", "imagenet-a"):
        suite = open_suite("s", SuiteSource(kind, path=str(tmp_path / "val")), **options)
        assert suite.num_outputs is None
        right = {0: 2, 1: 1, 999: 0}
        reds = [int(suite.images[k][0][0, 16, 16]) + 256 * int(suite.images[k][0][1, 16, 16]) for k in range(6)]
        answers = [right[number] for number in reds]
        outputs = suite.outputs if suite.outputs is not None else torch.arange(3)
        assert outputs[answers].tolist() == suite.labels.tolist()
    with pytest.raises(DataError, match=f"does not know: {wnids[0]}"):
        open_suite("s", SuiteSource("imagenet-val", path=str(tmp_path / "val")), classes=mine[:2])


def test_objectnet_is_matched_with_a_model_of_some_wnids(tmp_path: Path) -> None:
    objectnet(tmp_path)
    wnids = imagenet_wnids()
    source = SuiteSource("objectnet", path=str(tmp_path))
    suite = open_suite("o", source, input_size=(3, 32, 32), classes=(wnids[846], wnids[3], wnids[559]))
    assert suite.outputs is not None
    assert suite.outputs.tolist() == [1, -1, 0]  # lamp, none, chair
    with pytest.raises(DataError, match="does not know: chair"):
        open_suite("o", source, input_size=(3, 32, 32), classes=(wnids[846], wnids[3]))


def test_cifar10_c_is_matched_with_folders_of_its_names(tmp_path: Path) -> None:
    arrays(tmp_path / "c", 10)
    source = SuiteSource("cifar10-c", path=str(tmp_path / "c"), corruptions=("fog",), severities=(1,))
    backwards = tuple(reversed(CIFAR10_CLASSES))
    assert open_suite("c", source, classes=backwards).labels.tolist() == [9, 8, 7, 6]
    with pytest.raises(DataError, match="does not know: airplane"):
        open_suite("c", source, classes=("plane", *CIFAR10_CLASSES[1:]))


def test_an_archive_of_corrupted_images_may_name_its_classes(tmp_path: Path) -> None:
    images = np.zeros((5, 2, 32, 32, 3), np.uint8)
    images[:, :, :, :, 0] = np.array([2, 0])[:, None, None]
    np.savez(tmp_path / "a.npz", fog=images, labels=[0, 1], classes=["cow", "ant"])
    assert accuracy(None, "corruption-arrays", path=str(tmp_path / "a.npz"), corruptions=("fog",)) == 1.0  # type: ignore[arg-type]


# Runs, model files, and the command line


def recipe_of(tiny_recipe: TinyRecipe, train: DataSource, test: DataSource, **model: Any) -> Any:
    sources = [
        {key: value for key, value in {"kind": s.kind, "path": s.path, "split": s.split}.items() if value}
        for s in (train, test)
    ]
    tree = tiny_recipe(data={"train": sources[0], "test": sources[1], "suites": {}}, training={"batch_size": 4})
    tree["model"] |= model
    return parse_recipe(tree)


@pytest.mark.slow
def test_a_run_matches_its_test_set_and_its_suites_and_keeps_the_names(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    train = folder(tmp_path / "train", count=8)
    test = npz(tmp_path / "test.npz", ("cow", "ant"), ("ant", "cow"))
    recipe = recipe_of(tiny_recipe, train, test)
    assert open_data(recipe).suites[0].images.labels.tolist() == [0, 2]  # type: ignore[attr-defined]
    finished = run_recipe(recipe, tmp_path / "run", Console(quiet=True), brief=True)
    path = tmp_path / "run" / "model.safetensors"
    assert finished.classes == kept_classes(path) == NAMES
    run = CliRunner().invoke(app, ["evaluate", str(path), "--data", f"npz:{test.path}", "--out", str(tmp_path / "e")])
    assert run.exit_code == 0, run.output
    assert "no image of 1 of the 3 classes of the model: bee" in " ".join(run.output.split())
    scores = json.loads((tmp_path / "e" / "evaluation.json").read_text())["suites"]["clean"]
    assert scores["mean"] == finished.result.stages["fine-tuned"]["clean"].mean
    extra = tmp_path / "extra.npz"
    np.savez(extra, images=np.zeros((1, 32, 32, 3), np.uint8), labels=[0], classes=["dog"])
    refused = CliRunner().invoke(app, ["evaluate", str(path), "--data", f"npz:{extra}"])
    assert "does not know: dog" in str(refused.exception)
    analysis = ["analyze", str(path), "--data", f"npz:{extra}", "--images", "1", "--batch", "1"]
    assert "does not know: dog" in str(CliRunner().invoke(app, analysis).exception)


def test_a_run_follows_the_names_that_its_weights_keep(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    train = folder(tmp_path / "train")
    spec = recipe_of(tiny_recipe, train, train).model
    path = tmp_path / "dense.safetensors"
    adasap.save(path, adasap.open_model(spec), spec=spec, metadata={"classes": ["cow", "bee", "ant", "yak"]})
    data = open_data(recipe_of(tiny_recipe, train, train, weights=str(path)))
    assert data.train.classes == ("cow", "bee", "ant", "yak")
    assert data.train.labels.tolist() == [2, 2, 1, 1, 0, 0]  # type: ignore[union-attr]
    assert data.suites[0].images.labels.tolist() == [2, 2, 1, 1, 0, 0]  # type: ignore[attr-defined]
    adasap.save(path, adasap.open_model(spec), spec=spec, metadata={"classes": ["cow", "bee"]})
    with pytest.raises(DataError, match=r"data.train has classes that .*dense.safetensors does not know: ant"):
        open_data(recipe_of(tiny_recipe, train, train, weights=str(path)))


@pytest.mark.slow
def test_a_dry_run_shows_outputs_weights_what_was_passed_over_and_the_accuracy_beside_chance(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    train, test = folder(tmp_path / "train", count=8), folder(tmp_path / "test", NAMES[:2], count=20)
    (tmp_path / "train" / ".ipynb_checkpoints").mkdir()
    recipe = recipe_of(tiny_recipe, train, test, options={"widths": [4, 8, 16], "num_classes": 1000})
    shown = str(adasap.preview(recipe))
    for words in (
        "1,000 outputs and data.train 3 classes",
        "model.weights is not given",
        "passed over: 1 hidden (.ipynb_checkpoints)",
        "no image of 1 of the 3 classes of data.train: cow",
        "of 32 test images right; chance is 33.3 %",
    ):
        assert words in shown


def test_data_whose_suites_number_classes_otherwise_are_refused(tmp_path: Path) -> None:
    pixels, labels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1])
    train = InMemoryImages(pixels, labels, ["ant", "bee"])
    suite = open_suite("s", SuiteSource("clean"), InMemoryImages(pixels, labels, ["bee", "ant"]))
    with pytest.raises(DataError, match=r"open it with `classes=train.classes`"):
        Data(train, [suite], torch.zeros(1, 3, 32, 32))
    test = InMemoryImages(pixels, labels, ["bee", "ant"])
    matched = open_suite("s", SuiteSource("clean"), test, classes=train.classes)
    assert Data(train, [matched], torch.zeros(1, 3, 32, 32)).suites[0].images.labels.tolist() == [1, 0]  # type: ignore[attr-defined]


def test_training_data_with_imagenets_names_are_numbered_by_its_outputs(
    tiny_recipe: TinyRecipe, tmp_path: Path
) -> None:
    wnid_folders(tmp_path)
    source = DataSource("folder", str(tmp_path), split=".")
    options = {"widths": [4, 8, 16], "num_classes": 1000}
    recipe = recipe_of(tiny_recipe, source, source, options=options, input_size=[3, 260, 300])
    data = open_data(recipe, adasap.open_model(recipe.model))
    assert data.train.labels.tolist() == [0, 0, 1, 1, 999, 999]  # type: ignore[union-attr]
    assert data.suites[0].images.labels.tolist() == [0, 0, 1, 1, 999, 999]  # type: ignore[attr-defined]
    assert open_data(recipe).train.labels.tolist() == [0, 0, 1, 1, 2, 2]  # type: ignore[union-attr]


def test_dense_weights_of_a_sweep_keep_the_names(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    from adasap.experiments.compress import FinishedRun, export_weights

    recipe = parse_recipe(tiny_recipe())
    model: Any = adasap.open_model(recipe.model)
    result: Any = type("Result", (), {"model": model})
    finished = FinishedRun(tmp_path, result, {}, 0.0, TASK, ("é", "[b]"), recipe=recipe)
    export_weights(finished, tmp_path / "dense.safetensors")
    assert kept_classes(tmp_path / "dense.safetensors") == ("é", "[b]")
    adasap.open_model(parse_recipe(tiny_recipe(model={"weights": str(tmp_path / "dense.safetensors")})).model)
    assert kept_classes(tmp_path / "nowhere") is None
    assert kept_classes(None) is None
