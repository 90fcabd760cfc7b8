"""Grey images and images of other numbers of channels, from the file to the corrupted score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from adasap.cli.main import app
from adasap.corruptions import BENCHMARK, CORRUPTIONS, VALIDATION, corrupt
from adasap.corruptions.frost_texture import crops
from adasap.corruptions.protocol import luma
from adasap.data import DataSource, InMemoryImages, TrainingStream, open_dataset
from adasap.data.augmentation import Augmentation, ExtraTransform
from adasap.errors import DataError, ModelError, RecipeError
from adasap.evaluation import SuiteSource, open_suite
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.export import load, read_header, save
from adasap.models import ModelSpec, open_model
from adasap.tasks.classification.task import ClassificationTask

OF_COLOUR = {"snow", "frost", "spatter", "brightness", "saturate", "jpeg_compression"}
NOISE = {"gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise"}


def _grey(count: int = 2, side: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(count, 1, side // 4, side // 4, generator=generator)
    return torch.nn.functional.interpolate(smooth, scale_factor=4, mode="bilinear").mul(255).to(torch.uint8)


@pytest.mark.parametrize("side", [32, 64, 128])
@pytest.mark.parametrize("name", sorted(set(CORRUPTIONS) - NOISE - {"frost", "spatter", "saturate"}))
def test_grey_is_corrupted_like_the_colour_image_of_three_equal_channels(name: str, side: int) -> None:
    grey = _grey(side=side)
    for severity in (1, 4):
        alone, coloured = corrupt(grey, name, severity), corrupt(grey.expand(-1, 3, -1, -1), name, severity)
        assert alone.shape == grey.shape
        assert (alone.int() - coloured.int()).abs().max() <= 1


@pytest.mark.parametrize(("name", "std"), [("gaussian_noise", 0.08), ("speckle_noise", 0.15)])
def test_noise_on_grey_has_the_benchmarks_deviation(name: str, std: float) -> None:
    grey = torch.full((4, 1, 128, 128), 128, dtype=torch.uint8)
    change = corrupt(grey, name, 1).float().div(255) - 128 / 255
    expected = std if name == "gaussian_noise" else std * 128 / 255
    assert change.std().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.slow
def test_ice_on_grey_is_the_luma_of_ice() -> None:
    black = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    ice = luma(crops((32, 32), torch.arange(2), "32"))
    assert torch.equal(corrupt(black, "frost", 1), (ice * 0.2).mul(255).add(1e-4).to(torch.uint8))


def test_mud_on_grey_is_the_luma_of_brown() -> None:
    white = torch.full((1, 1, 128, 128), 255, dtype=torch.uint8)
    brown = int(0.299 * 63 + 0.587 * 42 + 0.114 * 20)
    assert brown <= corrupt(white, "spatter", 4).min().item() <= brown + 3  # no blot covers its middle wholly


def test_saturation_leaves_grey_alone() -> None:
    grey = _grey()
    assert all(torch.equal(corrupt(grey, "saturate", severity), grey) for severity in range(1, 6))


@pytest.mark.parametrize("channels", [2, 4, 5])
@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_other_channels_are_corrupted_each_by_itself_or_refused(name: str, channels: int) -> None:
    images = _grey().expand(-1, channels, -1, -1).contiguous()
    if name in OF_COLOUR:
        with pytest.raises(DataError, match=rf"images have {channels} channels, and {name} is defined for grey"):
            corrupt(images, name, 3)
        return
    corrupted = corrupt(images, name, 3)
    assert corrupted.shape == images.shape
    if name not in NOISE:
        assert torch.equal(corrupted, corrupt(images[:, :1], name, 3).expand_as(images))


@pytest.mark.slow
def test_a_suite_of_five_channels_names_all_that_cannot_be_computed() -> None:
    images = InMemoryImages(torch.zeros(2, 5, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]))
    with pytest.raises(DataError, match="snow, frost, brightness, jpeg_compression are defined for grey"):
        open_suite("corrupted", SuiteSource("corrupted"), images)
    suite = open_suite("corrupted", SuiteSource("corrupted", corruptions=("fog",)), images)
    assert len(suite.cells) == 5


@pytest.mark.parametrize("shape", [(4, 8, 8), (4, 8, 8, 1)])
def test_an_npz_of_grey_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "g.npz", images=pixels, labels=np.array([0, 1, 1, 0]))
    source = DataSource("npz", str(tmp_path / "g.npz"))
    grey, coloured = open_dataset(source, channels=1)[1][0], open_dataset(source, channels=3)[1][0]
    assert np.array_equal(grey[0].numpy(), pixels[1].reshape(8, 8))
    assert torch.equal(coloured, grey.expand(3, -1, -1))
    with pytest.raises(DataError, match="have 1 channels, the model wants 4"):
        open_dataset(source, channels=4)


def test_an_npz_of_wide_samples_needs_a_white(tmp_path: Path) -> None:
    images = np.array([0, 2048, 4095], dtype=np.uint16).reshape(3, 1, 1)
    np.savez(tmp_path / "w.npz", images=images, labels=np.zeros(3, int))
    with pytest.raises(DataError, match=r"uint16 .* give `white`"):
        open_dataset(DataSource("npz", str(tmp_path / "w.npz")))
    data = open_dataset(DataSource("npz", str(tmp_path / "w.npz"), white=4095))
    assert [data[index][0].item() for index in range(3)] == [0, 128, 255]


def test_colour_files_become_grey_by_luma_for_a_model_of_one_channel(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    Image.new("RGB", (4, 4), (255, 0, 0)).save(tmp_path / "train" / "a" / "0.png")
    Image.new("L", (4, 4), 77).save(tmp_path / "train" / "a" / "1.png")
    data = open_dataset(DataSource("folder", str(tmp_path)), "train", channels=1)
    assert [data[index][0].unique().tolist() for index in range(2)] == [[76], [77]]
    assert data[0][0].shape == (1, 4, 4)


def _one_channel_spec() -> ModelSpec:
    options = {"in_channels": 1, "num_classes": 2, "widths": [4, 4]}
    return ModelSpec("adasap:digits_net", options, (1, 16, 16), (0.4,), (0.2,))


def test_a_model_file_of_one_channel_is_read_back(tmp_path: Path) -> None:
    spec = _one_channel_spec()
    save(tmp_path / "m.safetensors", open_model(spec), spec=spec)
    assert read_header(tmp_path / "m.safetensors").spec == spec
    assert load(tmp_path / "m.safetensors")(torch.zeros(1, 1, 16, 16)).shape == (1, 2)


def test_mean_and_std_are_as_long_as_the_channels() -> None:
    assert ModelSpec("adasap:digits_net").mean == (0.485, 0.456, 0.406)
    assert ModelSpec("adasap:digits_net", input_size=(5, 8, 8)).std == (0.5,) * 5
    for mean, std in (((0.5,) * 3, ()), ((), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (float("nan"),))):
        with pytest.raises(ModelError, match=r"one number for each of the 1 channels|each a finite number"):
            ModelSpec("adasap:digits_net", input_size=(1, 8, 8), mean=mean, std=std)


def test_images_of_other_channels_than_mean_are_refused_and_not_stretched() -> None:
    task = ClassificationTask(mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(DataError, match="images have 1 channels, the model's mean and std 3 numbers"):
        task.prepare(
            (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64)), torch.device("cpu")
        )


def test_training_batches_of_five_channels_are_cropped_and_flipped_alike() -> None:
    images = InMemoryImages(_grey(6, 16).expand(-1, 5, -1, -1).contiguous(), torch.arange(6) % 2)
    varied = Augmentation(random_crop_padding=2, horizontal_flip=True)
    batch, _ = TrainingStream(images, varied, batch_size=4, seed=0).batch(0)
    assert batch.shape == (4, 5, 16, 16)
    assert torch.equal(batch, batch[:, :1].expand_as(batch))
    photometric = Augmentation(extra=(ExtraTransform("ColorJitter", {"saturation": 0.5}),))
    with pytest.raises(RecipeError, match="ColorJitter cannot vary images of 5 channels"):
        TrainingStream(images, photometric, batch_size=4, seed=0).batch(0)


@pytest.mark.slow
def test_a_recipe_of_one_channel_brings_every_set_to_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "g.npz", images=pixels, labels=np.arange(8) % 2)
    spec = _one_channel_spec()
    model = {"builder": spec.builder, "options": spec.options, "input_size": [1, 16, 16], "mean": [0.4], "std": [0.2]}
    grey, coloured = {"kind": "npz", "path": str(tmp_path / "g.npz")}, {"kind": "digits", "resize": 16}
    suites = {"corrupted": {"kind": "corrupted", "severities": [1]}}
    tree = {"name": "g", "model": model, "data": {"train": grey, "test": coloured, "suites": suites}}
    data = open_data(parse_recipe({**tree, **_STEPS}))
    assert data.example_inputs.shape == (1, 1, 16, 16)
    assert data.train[0][0].shape == data.suites[0].images[0][0].shape == (1, 16, 16)
    assert len(data.suites[1].cells) == len(BENCHMARK)
    task = open_task(parse_recipe({**tree, **_STEPS}))
    assert task.mean.flatten().tolist() == pytest.approx([0.4])


_STEPS = {
    "warm_up": {"epochs": 1},
    "pruning": {"epochs": 1, "budget": {"macs": 0.5}},
    "fine_tune": {"epochs": 1},
    "training": {"batch_size": 4},
}


@pytest.mark.slow
def test_the_command_line_takes_as_many_numbers_as_channels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "g.npz", images=pixels, labels=np.array([0, 1, 1, 0]))
    words = ["evaluate", "adasap:digits_net", "--data", f"npz:{tmp_path / 'g.npz'}", "--model-option", "num_classes=2"]
    runner = CliRunner()
    one = runner.invoke(app, [*words, "--model-option", "in_channels=1", "--mean", ".5", "--std", ".5"])
    assert one.exit_code == 0, one.output
    assert "mean of clean" in one.output
    three = runner.invoke(app, [*words, "--mean", ".5", ".5", ".5", "--std", ".5", ".5", ".5"])
    assert three.exit_code == 0, three.output
    assert "grey is repeated" in three.output.replace("\n", " ")
    wrong = runner.invoke(app, [*words, "--mean", "nan", "--std", ".5"])
    assert wrong.exit_code == 2
    groups = runner.invoke(app, ["groups", "adasap:digits_net"])
    assert groups.exit_code == 0, groups.output


def test_all_corruptions_take_grey() -> None:
    for name in (*BENCHMARK, *VALIDATION):
        assert corrupt(_grey(), name, 5).shape == (2, 1, 32, 32)
