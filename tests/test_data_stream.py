"""The training stream: batch k is a pure function of (seed, k), however it is made."""

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from adasap.data import (
    Augmentation,
    DataSource,
    ExtraTransform,
    InMemoryImages,
    Resizing,
    TrainingStream,
    evaluation_batches,
    open_dataset,
)
from adasap.data.augmentation import Augmenter
from adasap.data.draws import random_integers
from adasap.errors import DataError, RecipeError

EVERYTHING = Augmentation(
    random_resized_crop=16,
    random_crop_padding=2,
    horizontal_flip=True,
    extra=(ExtraTransform("ColorJitter", {"brightness": 0.5}), ExtraTransform("RandomErasing", {"p": 0.5})),
)
CIFAR = Augmentation(random_crop_padding=4, horizontal_flip=True)


def _dataset(count: int = 50) -> InMemoryImages:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return InMemoryImages(images, torch.arange(count))


def _first(stream: TrainingStream, count: int, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    return list(itertools.islice(stream.iterate(start), count))


def _same(a: list[tuple[Tensor, Tensor]], b: list[tuple[Tensor, Tensor]]) -> bool:
    return len(a) == len(b) and all(
        torch.equal(x, y) for left, right in zip(a, b, strict=True) for x, y in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("augmentation", [Augmentation(), CIFAR, EVERYTHING])
def test_a_resumed_stream_goes_on_bit_for_bit(augmentation: Augmentation) -> None:
    stream = TrainingStream(_dataset(), augmentation, batch_size=8, seed=1)
    whole = _first(stream, 20)
    assert _same(_first(TrainingStream(_dataset(), augmentation, batch_size=8, seed=1), 7, start=13), whole[13:])
    assert not _same(_first(TrainingStream(_dataset(), augmentation, batch_size=8, seed=2), 20), whole)


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING])
def test_the_parts_of_all_ranks_make_up_the_batch(augmentation: Augmentation) -> None:
    options = {"batch_size": 8, "seed": 3}
    images, labels = TrainingStream(_dataset(), augmentation, **options).batch(9)
    for rank in range(4):
        part = TrainingStream(_dataset(), augmentation, rank=rank, world_size=4, **options).batch(9)
        assert torch.equal(part[0], images[rank::4])
        assert torch.equal(part[1], labels[rank::4])


def test_workers_change_nothing() -> None:
    alone = TrainingStream(_dataset(), EVERYTHING, batch_size=8, seed=1)
    helped = TrainingStream(_dataset(), EVERYTHING, batch_size=8, seed=1, num_workers=2)
    assert _same(_first(alone, 15, start=3), _first(helped, 15, start=3))


def test_an_error_in_a_worker_arrives_in_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "train" / "a" / "bad.png").write_bytes(b"nothing")
    data = open_dataset(DataSource("folder", str(tmp_path)), "train")
    with pytest.raises(DataError) as refused:
        _first(TrainingStream(data, batch_size=1, seed=0, num_workers=1), 1)
    assert str(refused.value).startswith(str(tmp_path))


def test_each_image_comes_once_per_epoch_and_the_order_changes() -> None:
    stream = TrainingStream(_dataset(50), batch_size=8, seed=0)
    assert stream.steps_per_epoch == 6
    epochs = [torch.cat([stream.indices(epoch * 6 + k) for k in range(6)]) for epoch in range(3)]
    for indices in epochs:
        assert len(indices.unique()) == 48
    assert not torch.equal(epochs[0], epochs[1])
    assert not torch.equal(epochs[1], epochs[2])


def test_an_image_is_varied_alike_in_whatever_batch_it_is() -> None:
    augmenter, data = Augmenter(EVERYTHING, seed=5), _dataset()
    many = augmenter.batch(data, torch.tensor([4, 9, 2]), 7)
    assert torch.equal(augmenter.batch(data, torch.tensor([9]), 7)[0], many[1])
    assert not torch.equal(augmenter.batch(data, torch.tensor([9]), 8)[0], many[1])


def test_the_crop_and_flip_are_those_of_torchvision() -> None:
    data, indices = _dataset(), torch.arange(50)
    batch = Augmenter(CIFAR, seed=5).batch(data, indices, 2)
    top, left = (random_integers(5, 2, indices, name, 9).tolist() for name in ("top", "left"))
    flip = random_integers(5, 2, indices, "flip", 2).tolist()
    for k in range(50):
        padded = functional.pad(data.images[k], [4])
        expected = functional.crop(padded, top[k], left[k], 16, 16)
        assert torch.equal(batch[k], functional.horizontal_flip(expected) if flip[k] else expected)


def test_draws_are_uniform_and_do_not_repeat_each_other() -> None:
    indices = torch.arange(90_000)
    top, left = (random_integers(0, 0, indices, name, 9) for name in ("top", "left"))
    counts = torch.bincount(top * 9 + left, minlength=81).double()
    expected = len(indices) / 81
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert chi_square < 131  # 0.03 % of honest generators exceed this (80 degrees of freedom)


def test_the_global_generator_is_left_alone() -> None:
    stream = TrainingStream(_dataset(), EVERYTHING, batch_size=8, seed=1)
    state = torch.get_rng_state()
    _first(stream, 3)
    list(evaluation_batches(_dataset(), 8))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 51}, "50 images"),
        ({"batch_size": 0}, "batch_size from 1 to 50"),
        ({"batch_size": 10, "world_size": 4}, "choose 8 or 12"),
        ({"batch_size": 8, "rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"batch_size": 8, "num_workers": -1}, "num_workers is -1"),
    ],
)
def test_impossible_streams_are_refused_before_the_first_step(options: dict[str, int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        TrainingStream(_dataset(), seed=0, **options)


def test_unknown_transforms_and_options_are_refused_before_the_first_step() -> None:
    def stream(name: str, **options: object) -> TrainingStream:
        extra = (ExtraTransform(name, dict(options)),)
        return TrainingStream(_dataset(), Augmentation(extra=extra), batch_size=2, seed=0)

    with pytest.raises(RecipeError, match=r"did you mean .*ColorJitter"):
        stream("ColourJitter")
    with pytest.raises(RecipeError, match="does not take the options"):
        stream("ColorJitter", colour=1)
    with pytest.raises(RecipeError, match="uint8"):
        stream("ToDtype", dtype=torch.float32).batch(0)


@pytest.mark.parametrize("options", [{"random_resized_crop": 0}, {"random_crop_padding": -1}])
def test_impossible_augmentations_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(RecipeError):
        Augmentation(**options)


def test_files_of_many_sizes_need_resizing(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    for k, size in enumerate([(20, 10), (12, 30)]):
        Image.new("RGB", size).save(tmp_path / "train" / "a" / f"{k}.png")
    data = open_dataset(DataSource("folder", str(tmp_path)), "train")
    with pytest.raises(DataError, match="images differ in size"):
        TrainingStream(data, batch_size=2, seed=0).batch(0)
    with pytest.raises(DataError, match="images differ in size"):
        list(evaluation_batches(data, 2))
    source = DataSource("folder", str(tmp_path), resize=9, center_crop=8)
    (images, labels) = next(evaluation_batches(open_dataset(source, "train"), 2))
    assert torch.equal(images, torch.stack([Resizing(9, 8)(data[k][0]) for k in range(2)]))
    assert labels.tolist() == [0, 0]
    assert TrainingStream(open_dataset(source, "train"), batch_size=2, seed=0).batch(0)[0].shape == (2, 3, 8, 8)


def test_evaluation_sees_every_image_once_in_order() -> None:
    data = _dataset()
    batches = list(evaluation_batches(data, 16))
    assert torch.equal(torch.cat([images for images, _ in batches]), data.images)
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels)
