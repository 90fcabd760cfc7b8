"""A classifier's data: opened with classes matched by name, and batches of items of any data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adasap.data import Augmentation, ImageSet, check_image_size, check_labels, open_dataset
from adasap.data.augmentation import Augmenter
from adasap.data.classes import Names, matched_images, names_of_outputs
from adasap.data.images import class_names, remarks_of
from adasap.data.items import read_items
from adasap.data.stream import BatchMaker
from adasap.errors import DataError, RecipeError
from adasap.evaluation import SuiteSource, kept_suite, open_suite
from adasap.groups import evaluating
from adasap.models import ModelSpec, input_size_of
from adasap.models.outputs import logits_of
from adasap.tasks.data import Data, DataOptions, Opening

if TYPE_CHECKING:
    from adasap.tasks.classification.task import ClassificationTask


def open_labelled(asked: DataOptions, of: Opening) -> Data:
    """Training images, suites (the clean test set first) and a zero image of the model's input size.

    Training data that use ImageNet's names are numbered by ImageNet's 1,000 where the model has as many outputs.
    """
    spec = of.spec
    channels = (spec.input_size or (len(spec.mean),))[0]
    train = open_dataset(asked.train, "train", channels=channels)
    test = open_dataset(asked.test, "test", channels=channels)
    summaries = [summary_of(train, "data.train"), summary_of(test, "data.test")]
    augmentation: Augmentation = asked.augmentation or Augmentation()
    size = _input_size(spec, augmentation, train)
    known = (
        (tuple(of.classes), str(spec.weights))
        if of.classes
        else reference_of(replace(spec, input_size=size), train, of.model)
    )
    train, match = matched_images(train, known[0], where="data.train", of=known[1])
    check_labels(train.labels, len(train), train.classes, where="data.train")
    if augmentation.random_resized_crop is None:
        check_image_size(train, size, where="data.train")
    if "clean" in asked.suites:
        raise DataError("data.suites names one `clean`, which is the name of data.test's own; give it another name")
    matching: dict[str, Any] = {"classes": known[0], "of": known[1]}
    suites = [open_suite("clean", SuiteSource("clean"), test, **matching)]
    for name, source in asked.suites.items():
        suites.append(open_suite(name, source, test, input_size=size, **matching))
    if of.kept_suites is not None:
        suites = [kept_suite(suite, of.kept_suites) for suite in suites]
    remarks = [*summaries, match.remark, *(remark for suite in suites for remark in suite.remarks)]
    return Data(train, suites, torch.zeros(1, *size), augmentation, tuple(filter(None, dict.fromkeys(remarks))))


def _input_size(spec: ModelSpec, augmentation: Augmentation, train: ImageSet) -> tuple[int, int, int]:
    """The model's own, else that of the images it is trained on: of their crops, or as they are."""
    if spec.input_size is not None:
        return spec.input_size
    channels, height, width = train[0][0].shape
    crop = augmentation.random_resized_crop
    return (channels, height, width) if crop is None else (channels, crop, crop)


def reference_of(spec: ModelSpec, train: ImageSet, model: nn.Module | None) -> tuple[Names | None, str]:
    """The names that labels are numbered by where the weights keep none, and where they come from.

    Args:
        spec: The model's.
        train: The training data.
        model: With 1,000 outputs, the names are ImageNet's if the training data use them.
    """
    names, occurring = class_names(train), set(train.labels.tolist())
    if model is not None and names_of_outputs(1000, names, occurring):
        outputs = names_of_outputs(count_outputs(model, input_size_of(spec)), names, occurring)
        if outputs is not None and outputs != names:
            return outputs, "ImageNet's 1,000 outputs"
    return names, "data.train"


def summary_of(images: ImageSet, where: str) -> str:
    """One line: how many images and classes, what was passed over and done."""
    kinds = f"{where}: {len(images):,} images, {len(images.classes):,} classes"
    return "; ".join([kinds, *remarks_of(images)])


@dataclass(frozen=True)
class OwnBatching:
    """Batches of items of any data set, its 8-bit images varied by an augmentation."""

    task: ClassificationTask
    augmentation: Augmentation

    def maker(self, *, seed: int) -> BatchMaker:
        return _OwnBatches(self.task, Augmenter(self.augmentation, seed=seed))


@dataclass(frozen=True)
class _OwnBatches:
    task: ClassificationTask
    augmenter: Augmenter

    def labelled(self, dataset: Any, indices: Tensor, epoch: int) -> Any:
        items = read_items(dataset, indices, seed=self.augmenter.seed, epoch=epoch)
        images, labels = self.task.collate(items)
        if self.augmenter.options == Augmentation():
            return images, labels
        first = images[0]
        if first.dtype != torch.uint8:
            raise RecipeError(
                f"data.augmentation varies 8-bit images, those of {type(dataset).__name__} are {first.dtype}; leave it "
                "out, and vary them in the data set's own transforms"
            )
        read: Any = _Read(dict(zip(indices.tolist(), images, strict=True)))
        return self.augmenter.batch(read, indices, epoch), labels


@dataclass(frozen=True)
class _Read:
    """Images of a batch by their index in the data set."""

    images: dict[int, Tensor]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], 0


def count_outputs(model: nn.Module, input_size: Sequence[int]) -> int:
    """How many classes a classifier can answer with, by one forward pass over a black image.

    Args:
        model: On the CPU.
        input_size: Channels, height, width.
    Raises:
        DataError: If the model does not take images of that size.
    Example:
        >>> count_outputs(nn.Sequential(nn.Flatten(), nn.Linear(48, 7)), (3, 4, 4))
        7
    """
    try:
        with evaluating(model), torch.no_grad():
            return int(logits_of(model(torch.zeros(1, *input_size))).shape[-1])
    except RuntimeError as error:
        raise DataError(
            f"the model does not take images of {' x '.join(map(str, input_size))}: {error}; correct its input size "
            "(`model.input_size` in a recipe, `--size` on the command line)"
        ) from error
