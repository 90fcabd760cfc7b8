"""Any torch data set trains a run: PIL, floats or arrays with transforms of its own, and loaders."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

import adasap
from adasap.data import TrainingStream
from adasap.data.items import read_items
from adasap.data.source import DataSource, open_source
from adasap.errors import AdasapError, DataError, RecipeError
from adasap.evaluation import CLEAN
from adasap.experiments.recipe import parse_options
from adasap.models import ModelSpec
from adasap.models.digits import digits_net
from adasap.tasks.data import DataOptions, Opening
from adasap.tasks.detection.data.augmentation import DetectionAugmentation
from adasap.tasks.detection.task import DetectionTask
from adasap.training import Record, ResumeRecord, StepRecord, ignore

MEAN = {"mean": (0.5,) * 3, "std": (0.5,) * 3}
CORRUPTED = {"corrupted": adasap.SuiteSource("corrupted", corruptions=("contrast",), severities=(3,))}


def _pixels(index: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)


class Pictures(Dataset[Any]):
    """As torchvision's: PIL images, class names, a transform."""

    classes = ("a", "b", "c")

    def __init__(self, count: int = 32, transform: Callable[[Any], Any] | None = None) -> None:
        self.count, self.transform = count, transform

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(_pixels(index))
        return (image if self.transform is None else self.transform(image)), index % 3


def as_floats(image: Image.Image) -> Tensor:
    """As `ToTensor` and `Normalize`, with a random brightness of the global generator."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float() / 255 - 0.5 + 0.1 * torch.rand(())


class Arrays(Dataset[Any]):
    """NumPy [H, W, C], mirrored by NumPy's, shifted by Python's global generator."""

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> tuple[Any, int]:
        pixels = _pixels(index)
        pixels = pixels[:, ::-1] if np.random.rand() < 0.5 else pixels  # noqa: NPY002 - as users' transforms do
        return np.roll(pixels, random.randrange(3), axis=0), index % 3


def config(**training: Any) -> adasap.Compression:
    tree = {
        "training": {
            "batch_size": 8,
            "checkpoint_every": 1,
            "optimizer": {"learning_rate": 0.01},
            "runtime": {"precision": "float32", "device": "cpu"},
            **training,
        },
        "warm_up": {"epochs": 0.5},
        "pruning": {"epochs": 0.5, "budget": {"macs": 0.7}, "events": 1, "every": 1, "recalibration_batches": 1},
        "fine_tune": {"epochs": 0.5},
    }
    return parse_options(tree, adasap.Compression)


def compressed(
    data: adasap.Data, folder: Path | None = None, observe: Callable[[Record], None] = ignore, **training: Any
) -> adasap.Result:
    torch.manual_seed(0)
    model, task = digits_net(num_classes=3, widths=[4, 8]), adasap.ClassificationTask(**MEAN)
    return adasap.compress(model, task, data, config(**training), folder=folder, observe=observe)


def _same(one: adasap.Result, other: adasap.Result) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class KilledError(Exception):
    pass


def _killed_and_resumed(data: Callable[[], adasap.Data], folder: Path, **training: Any) -> tuple[Any, list[Record]]:
    def kill(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step == 4:
            raise KilledError

    with pytest.raises(KilledError):
        compressed(data(), folder, kill, **training)
    records: list[Record] = []
    return compressed(data(), folder, records.append, **training), records


@pytest.mark.slow
def test_pil_images_are_trained_on_and_corrupted_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    def data() -> adasap.Data:
        return adasap.Data(Pictures(), CORRUPTED, test=Pictures(8))

    whole = compressed(data())
    assert list(whole.stages["dense"]) == ["clean", "corrupted"]
    assert whole.stages["dense"]["clean"].metrics[CLEAN].keys() >= {"accuracy", "loss"}
    assert _same(whole, _killed_and_resumed(data, tmp_path)[0])


def test_floats_of_own_transforms_are_taken_as_they_are_and_not_corrupted() -> None:
    data, task = (
        adasap.Data(Pictures(transform=as_floats), test=Pictures(8, as_floats)),
        adasap.ClassificationTask(**MEAN),
    )
    assert compressed(data).stages["fine-tuned"]["clean"].mean >= 0
    floats, labels = task.collate([data.train[0], data.train[1]])
    assert torch.equal(task.prepare((floats, labels), torch.device("cpu"))[0], floats)
    with pytest.raises(DataError, match=r"8-bit images, these are torch\.float32; give the data set without"):
        compressed(adasap.Data(Pictures(transform=as_floats), CORRUPTED, test=Pictures(8, as_floats)))
    varied = adasap.Data(data.train, test=data.test, augmentation=task.augmentation_type(horizontal_flip=True))
    with pytest.raises(RecipeError, match="in the data set's own transforms"):
        compressed(varied)


@pytest.mark.slow
def test_random_transforms_are_the_same_on_workers_and_after_a_resumption(tmp_path: Path) -> None:
    def data() -> adasap.Data:
        return adasap.Data(Arrays(), CORRUPTED, test=Arrays())

    alone, helped = compressed(data()), compressed(data(), num_workers=2)
    assert _same(alone, helped)
    assert _same(alone, _killed_and_resumed(data, tmp_path, num_workers=2)[0])
    task = adasap.ClassificationTask(**MEAN)
    stream = TrainingStream(Arrays(), task.batching(Arrays(), None), batch_size=32, seed=0)
    first, second = stream.batch(0), stream.batch(1)
    order = [stream.indices(step).argsort() for step in (0, 1)]
    assert not torch.equal(first[0][order[0]], second[0][order[1]])  # another epoch varies them in another way


def test_our_augmentation_varies_8_bit_images_of_any_data_set() -> None:
    task = adasap.ClassificationTask(**MEAN)
    flipped = task.batching(Pictures(), task.augmentation_type(horizontal_flip=True)).maker(seed=0)
    images, _ = flipped.labelled(Pictures(), torch.arange(32), 0)
    plain, labels = task.batching(Pictures(), None).maker(seed=0).labelled(Pictures(), torch.arange(32), 0)
    mirrored = [torch.equal(one, other.flip(-1)) for one, other in zip(images, plain, strict=True)]
    assert 4 < sum(mirrored) < 28
    assert all(m or torch.equal(one, other) for m, one, other in zip(mirrored, images, plain, strict=True))
    assert labels.tolist() == [index % 3 for index in range(32)]


def test_reading_leaves_the_global_generators_as_they_were() -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    read_items(Arrays(), torch.arange(4))
    assert torch.equal(states[0], torch.get_rng_state())
    assert states[1:] == (np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002


class Flow(IterableDataset[Any]):
    def __len__(self) -> int:
        return 32

    def __iter__(self) -> Iterator[Any]:
        return ((as_floats(Image.fromarray(_pixels(index))), index % 3) for index in range(32))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["loader", "iterable"])
def test_a_loader_is_drawn_again_by_a_resumed_run_which_says_so(tmp_path: Path, kind: str) -> None:
    def data() -> adasap.Data:
        train: Any = Flow() if kind == "iterable" else DataLoader(Pictures(transform=as_floats), 8, shuffle=True)
        return adasap.Data(train, test=Pictures(8, as_floats), example_inputs=torch.zeros(1, 3, 16, 16))

    whole = compressed(data())
    resumed, records = _killed_and_resumed(data, tmp_path)
    assert _same(whole, resumed)
    assert "passes over them" in " ".join(next(r for r in records if isinstance(r, ResumeRecord)).notes)


def test_what_is_no_data_set_is_refused_in_a_sentence() -> None:
    test = Pictures(8)
    with pytest.raises(DataError, match="give `example_inputs`"):
        compressed(adasap.Data(Flow(), test=test))
    with pytest.raises(DataError, match=r"give \(image, target\)"):
        compressed(adasap.Data([1, 2, 3] * 8, test=test))
    with pytest.raises(DataError, match=r"item 0 of Broken cannot be read \(KeyError"):
        compressed(adasap.Data(type("Broken", (Pictures,), {"__getitem__": lambda s, i: {}[i]})(), test=test))
    with pytest.raises(DataError, match="looks like"):
        compressed(adasap.Data([(np.zeros((3, 8, 8), dtype=np.uint8), 0)] * 8, test=test))
    with pytest.raises(AdasapError, match="made of `test`"):
        adasap.Data(Pictures(), CORRUPTED)


def test_a_function_of_data_that_does_not_fit_is_told_what_it_is_called_with(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def pets():\n    return []\n\ndef dogs(split, *, breed='any'):\n    return {}['train']\n\n"
        "def owls(split):\n    return 7\n"
    )

    def opened(name: str, **options: Any) -> Any:
        return open_source(DataSource(f"{path}:{name}", options=options), "train", trust_code=True)

    with pytest.raises(DataError, match=r"mine\.py:pets does not take what .* write it as `def pets\(split\)`, where"):
        opened("pets")
    with pytest.raises(DataError, match=r"unexpected keyword argument 'bread'.*`def dogs\(split, bread\)`"):
        opened("dogs", bread="pug")
    with pytest.raises(DataError, match=r"mine\.py:dogs failed: .*mine\.py, line 5: KeyError: 'train'; correct it"):
        opened("dogs")
    with pytest.raises(DataError, match="returned int; wanted a map-style"):
        opened("owls")


OWN_BOXES = """
import torch
class Boxes(torch.utils.data.Dataset):
    classes = ("cat", "dog")
    def __len__(self):
        return 4
    def __getitem__(self, index):
        image = torch.full((3, 32, 48), index, dtype=torch.uint8)
        return image, {"boxes": [[2, 3, 20, 30]], "labels": [1 + index % 2]}
def make(split):
    return Boxes()
"""


def test_a_function_of_ones_own_gives_images_with_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_boxes.py").write_text(OWN_BOXES)
    monkeypatch.syspath_prepend(tmp_path)
    source = DataSource("own_boxes:make")
    spec = ModelSpec("adasap:ssd_mobilenet_v1", {"num_classes": 3, "image_size": 64}, (3, 64, 64))
    asked, opening = DataOptions(train=source, test=source), Opening(spec=spec, trust_code=True)
    data = DetectionTask.open_data(asked, opening)
    task = DetectionTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=("cat", "dog"))
    augmentation = DetectionAugmentation(horizontal_flip=True)
    batch = task.batching(data.train, augmentation).maker(seed=0).labelled(data.train, torch.tensor([1, 2]), 0)
    assert [target["labels"].tolist() for target in batch.targets] == [[2], [1]]
    assert [target["difficult"].tolist() for target in batch.targets] == [[False], [False]]
    flipped = [target["boxes"].tolist() for target in batch.targets]
    assert all(boxes in ([[2, 3, 20, 30]], [[28, 3, 46, 30]]) for boxes in flipped)
    assert DetectionTask.classes_of(asked, opening) == ("cat", "dog")
    with pytest.raises(DataError, match="'own_boxes:make' is code that is not of adasap"):
        DetectionTask.open_data(asked, Opening(spec=spec))
