"""Published layouts as they are on disk, with the traps of their labels; what is missing or wrong is said at once."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from adasap.data import DataSource, PreparationTime, Resizing, open_dataset
from adasap.data.imagenet import read_imagenet, read_imagenet_v2
from adasap.errors import DataError, RecipeError
from adasap.evaluation import (
    CLEAN,
    SUITES,
    Cell,
    ImageSuite,
    Loading,
    SuiteSource,
    check_suite,
    evaluate_suite,
    open_suite,
)
from adasap.evaluation.runner import RestrictedOutputs
from adasap.experiments.recipe import parse_recipe
from adasap.tasks.classification.task import ClassificationTask
from suite_trees import (
    WNIDS,
    ReadsColour,
    arrays,
    corruption_folders,
    draw,
    flat_val,
    objectnet,
    outputs_of,
    side_of,
    tree_of,
)
from suite_trees import numbered_folders as v2_folders

CPU = torch.device("cpu")
TASK = ClassificationTask(mean=(0.0,) * 3, std=(1.0,) * 3)


def source_of(kind: str, root: Path) -> SuiteSource:
    """Where the tree of `tree_of` lies; on the fly by a corruption that leaves one colour as it is."""
    if SUITES[kind].on_disk:
        return SuiteSource(kind, path=str(root / "arrays.npz" if kind == "corruption-arrays" else root))
    data = DataSource("npz", str(root / "test.npz"))
    return SuiteSource(kind, data=data, corruptions=("contrast", "gaussian_blur") if kind != "clean" else None)


def opened(kind: str, root: Path) -> ImageSuite:
    return open_suite(kind, source_of(kind, root), input_size=(3, side_of(kind), side_of(kind)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SUITES)
def test_every_suite_is_read_from_its_layout_with_the_right_labels(kind: str, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    tree_of(kind, root)
    suite = opened(kind, root)
    side, outputs = side_of(kind), outputs_of(kind)
    check_suite(suite, input_size=(3, side, side), num_outputs=outputs)
    corruptions = source_of(kind, root).names() if (SUITES[kind].read or SUITES[kind].on_the_fly) else ()
    assert suite.cells == (tuple(Cell(c, s) for c in corruptions for s in range(1, 6)) or (CLEAN,))
    result = evaluate_suite(ReadsColour(outputs), TASK, suite, CPU)
    assert result.mean == 1.0
    assert set(suite.record) >= {"kind", "images", "published_images", "resize", "center_crop", "interpolation"}


def test_v2_folders_are_numbers_and_not_texts(tmp_path: Path) -> None:
    v2_folders(tmp_path)
    assert read_imagenet_v2(tmp_path).labels.tolist() == [0, 0, 1, 1, 2, 2, 10, 10]
    assert open_dataset(DataSource("folder", str(tmp_path), split="."), "test").labels.tolist()[4:6] == [2, 2]  # "10"


class PrefersAnother(nn.Module):
    """As `ReadsColour`, but sure of class 500, which no tree holds."""

    def forward(self, images: Tensor) -> Tensor:
        logits = ReadsColour()(images)
        logits[:, 500] = 9.0
        return logits


def test_only_classes_that_occur_compete_in_a_and_r(tmp_path: Path) -> None:
    tree_of("imagenet-a", tmp_path)
    assert evaluate_suite(PrefersAnother(), TASK, opened("imagenet-a", tmp_path), CPU).mean == 1.0
    assert evaluate_suite(PrefersAnother(), TASK, opened("imagenet-val", tmp_path), CPU).mean == 0.0
    suite = opened("imagenet-a", tmp_path)
    assert suite.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert suite.record["outputs"] == "3 of 1000 compete for 3 labels"


class Says(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(images),), self.number), 1000).float()


def test_several_outputs_answer_one_label_of_objectnet(tmp_path: Path) -> None:
    objectnet(tmp_path)
    suite = opened("objectnet", tmp_path)
    assert suite.labels.tolist() == [0, 0, 1, 1]  # chair, lamp; ImageNet has no air freshener
    scores = {n: evaluate_suite(Says(n), TASK, suite, CPU).cells[CLEAN].tolist() for n in (423, 559, 765, 846)}
    assert scores == {423: [1, 1, 0, 0], 559: [1, 1, 0, 0], 765: [1, 1, 0, 0], 846: [0, 0, 1, 1]}


def test_the_red_border_of_objectnet_is_cut_off(tmp_path: Path) -> None:
    objectnet(tmp_path)
    image = open_dataset(DataSource("objectnet", str(tmp_path)), "test")[0][0]
    assert image.shape == (3, 300, 260)
    assert image[:, 0, 0].tolist() == image[:, -1, -1].tolist() == [559 % 256, 559 // 256, 7]


def test_restricted_logits_are_those_of_the_outputs_that_count() -> None:
    logits = torch.tensor([[3.0, 9.0, 2.0, 4.0]])
    assert RestrictedOutputs(nn.Identity(), torch.tensor([0, -1, 1, -1]))(logits).tolist() == [[3.0, 2.0]]
    assert RestrictedOutputs(nn.Identity(), torch.tensor([0, -1, 1, 0]))(logits).tolist() == [[4.0, 2.0]]


def batches(suite: ImageSuite, cell: str, **loading: int) -> Tensor:
    made = suite.batches(Cell.parse(cell), CPU, Loading(**loading), PreparationTime())
    return torch.cat([images for images, _ in made])


def test_severity_s_of_cifar10_c_is_the_s_th_fifth_of_the_rows(tmp_path: Path) -> None:
    arrays(tmp_path / "c", 10)
    images = batches(opened("cifar10-c", tmp_path / "c"), "fog/3")
    assert images[:, 2, 0, 0].tolist() == [100, 101, 102, 103]


def test_imagenet_c_may_lie_in_the_folders_of_its_archives(tmp_path: Path) -> None:
    corruption_folders(tmp_path, corruptions=("fog",), group="weather")
    corruption_folders(tmp_path, corruptions=("glass_blur",), group="blur")
    source = SuiteSource("imagenet-c", path=str(tmp_path), corruptions=("fog", "glass_blur"), severities=(2,))
    assert open_suite("c", source).cells == (Cell("fog", 2), Cell("glass_blur", 2))


def test_val_may_be_flat_with_a_list(tmp_path: Path) -> None:
    numbers = list(flat_val(tmp_path))
    assert read_imagenet(tmp_path).labels.tolist() == numbers
    assert evaluate_suite(ReadsColour(), TASK, opened("imagenet-val", tmp_path), CPU).mean == 1.0


def test_a_list_of_files_is_a_data_set(tmp_path: Path) -> None:
    for name, number in (("b.jpg", 3), ("a.jpg", 1)):
        draw(tmp_path / "images" / name, number, (32, 32))
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "class_index", "class_name"], ["b.jpg", 3, "x, y"], ["a.jpg", 1, "z"]])
    data = open_dataset(DataSource("csv", str(tmp_path)))
    assert data.labels.tolist() == [3, 1]
    assert data.classes == ("0", "z", "2", "x, y")
    assert data[0][0][0, 0, 0] == 3


def test_sets_of_any_size_are_resized_to_the_model_and_others_are_not(tmp_path: Path) -> None:
    tree_of("imagenet-val", tmp_path / "val")
    assert open_suite("v", source_of("imagenet-val", tmp_path / "val"), input_size=(3, 96, 96)).record["resize"] == 110
    corruption_folders(tmp_path / "c", corruptions=("fog",))
    source = SuiteSource("imagenet-c", path=str(tmp_path / "c"), corruptions=("fog",))
    suite = open_suite("c", source, input_size=(3, 96, 96))
    with pytest.raises(DataError, match=r"images are 3 x 224 x 224 .* the model wants 3 x 96 x 96; set `resize`"):
        check_suite(suite, input_size=(3, 96, 96), num_outputs=1000)
    told = SuiteSource("imagenet-c", path=str(tmp_path / "c"), corruptions=("fog",), resizing=Resizing(96, 96))
    assert open_suite("c", told, input_size=(3, 96, 96)).image_shape == (3, 96, 96)
    assert open_suite("c", told, input_size=(3, 224, 224)).record["resize"] is None  # it fits as it is


def test_any_clean_set_is_corrupted_on_the_fly_after_resizing(tmp_path: Path) -> None:
    tree_of("imagenet-val", tmp_path)
    data = DataSource("imagenet", str(tmp_path))
    source = SuiteSource("corrupted", data=data, corruptions=("gaussian_noise",), severities=(1,))
    suite = open_suite("c", source, input_size=(3, 64, 64))
    images = batches(suite, "gaussian_noise/1")
    assert images.shape == (6, 3, 64, 64)
    assert not torch.equal(images[0], images[1])  # of one colour, but each with its own draws
    assert "no JPEG" in suite.record["corruptions"]


@pytest.mark.parametrize("loading", [{"batch_size": 1}, {"batch_size": 4}, {"num_workers": 1}])
def test_how_batches_are_made_changes_no_pixel(tmp_path: Path, loading: dict[str, int]) -> None:
    tree_of("corrupted", tmp_path / "c")
    source = SuiteSource("corrupted", DataSource("npz", str(tmp_path / "c" / "test.npz")), None, ("gaussian_noise",))
    suite = open_suite("c", source)
    assert torch.equal(batches(suite, "gaussian_noise/5", **loading), batches(suite, "gaussian_noise/5"))


def test_a_sample_is_the_same_in_all_cells_and_keeps_each_images_draws(tmp_path: Path) -> None:
    arrays(tmp_path / "c", 10, count=8)
    whole = opened("cifar10-c", tmp_path / "c")
    part = whole.sampled(3, seed=5)
    indices = batches(part, "fog/1")[:, 2, 0, 0].tolist()
    assert len(set(indices)) == 3
    assert [i + 200 for i in indices] == batches(part, "snow/5")[:, 2, 0, 0].tolist()
    assert indices != batches(whole.sampled(3, seed=6), "fog/1")[:, 2, 0, 0].tolist()
    assert whole.sampled(8, seed=5) is whole
    noisy = open_suite("n", SuiteSource("corrupted", corruptions=("gaussian_noise",)), whole.images)
    both = [batches(suite, "gaussian_noise/2") for suite in (noisy, noisy.sampled(3, seed=5))]
    assert torch.equal(both[0][indices], both[1])


def test_the_wnids_are_a_thousand_in_the_order_of_the_outputs() -> None:
    assert len(set(WNIDS)) == 1000
    assert list(WNIDS) == sorted(WNIDS)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in WNIDS)


# What is missing or wrong


def remove_fog(root: Path) -> None:
    shutil.rmtree(root / "fog")


def remove_an_image(root: Path) -> None:
    (root / "snow" / "4" / WNIDS[1] / "image_1.JPEG").unlink()


def add_a_class(root: Path) -> None:
    draw(root / "n00000001" / "x.JPEG", 0)


def add_class_1000(root: Path) -> None:
    draw(root / "1000" / "x.JPEG", 0)


def remove_fog_npy(root: Path) -> None:
    (root / "fog.npy").unlink()


def shorten_fog(root: Path) -> None:
    np.save(root / "fog.npy", np.zeros((15, 32, 32, 3), np.uint8))


def make_floats(root: Path) -> None:
    np.save(root / "fog.npy", np.zeros((20, 32, 32, 3), np.float32))


def mix_labels(root: Path) -> None:
    np.save(root / "labels.npy", np.arange(20) % 10)


def remove_mapping(root: Path) -> None:
    (root / "mappings" / "objectnet_to_imagenet_1k.json").unlink()


def remove_everything(root: Path) -> None:
    shutil.rmtree(root)


@pytest.mark.parametrize(
    ("kind", "harm", "words"),
    [
        ("imagenet-val", remove_everything, r"imagenet-val wants class folders named by wnid.*does not exist"),
        ("imagenet-c", remove_fog, r"lacks fog of the 15 corruptions of imagenet-c; complete the suite, or name"),
        ("imagenet-c", remove_an_image, r"snow/4 has 5 images and .* has 6: n01443537/image_1\.JPEG is in one"),
        ("imagenet-a", add_a_class, r"n00000001: the name of a class folder should be a wnid of ImageNet"),
        ("imagenet-v2-top-images", add_class_1000, r"1000: the name .* should be a number from 0 to 999"),
        ("cifar10-c", remove_fog_npy, r"lacks fog of the 15 corruptions of cifar10-c"),
        ("cifar10-c", shorten_fog, r"fog\.npy has 15 images and labels\.npy 20 labels"),
        ("cifar10-c", make_floats, r"fog\.npy is float32 \[20, 32, 32, 3\], wanted uint8"),
        ("cifar10-c", mix_labels, r"20 labels are not the same ones five times"),
        ("objectnet", remove_mapping, r"objectnet_to_imagenet_1k\.json does not exist; unpack"),
    ],
)
def test_half_a_suite_is_refused_before_work_starts(
    kind: str, harm: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    tree_of(kind, root)
    harm(root)
    with pytest.raises(DataError, match=words):
        opened(kind, root)


def test_a_model_of_other_classes_is_refused(tmp_path: Path) -> None:
    tree_of("imagenet-a", tmp_path)
    with pytest.raises(DataError, match="for a model with 1000 outputs, this one has 10; give a model"):
        check_suite(opened("imagenet-a", tmp_path), input_size=(3, 224, 224), num_outputs=10)


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(DataError, match="there is no suite 'imagenet-d'; did you mean 'imagenet-"):
        SuiteSource("imagenet-d")
    with pytest.raises(DataError, match=r"severities are \[0, 6\]; give different whole numbers from 1 to 5"):
        SuiteSource("corrupted", severities=(0, 6))


# The page


PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"


def test_the_page_lists_every_suite() -> None:
    rows = [line.split("|")[1] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([^`]+)`", row)} == set(SUITES)


def test_the_suites_of_the_page_are_those_of_a_recipe(tiny_recipe: Callable[..., Any]) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (text,) = [block for block in blocks if "imagenet-c" in block]
    suites = parse_recipe(tiny_recipe(data=yaml.safe_load(text)["data"])).data.suites
    assert suites["small"] == SuiteSource("imagenet-c", path="/data/imagenet-c", resizing=Resizing(160, 160))
    with pytest.raises(RecipeError, match="there is no suite 'imagnet-c'; did you mean 'imagenet-c'"):
        parse_recipe(tiny_recipe(data={"suites": {"a": {"kind": "imagnet-c"}}}))
