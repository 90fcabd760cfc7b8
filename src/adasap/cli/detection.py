"""What is particular to a detector's run: data with boxes, the detector checked against them, images to time it on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from adasap.config import DetectionRecipe
from adasap.data import DetectionBatch, DetectionImages
from adasap.data.source import open_detection_dataset
from adasap.errors import DataError, ModelFileError
from adasap.export import read_header
from adasap.models.detector import count_classes
from adasap.robustness import DetectionSuite, SuiteSource, open_detection_suite
from adasap.tasks import DetectionTask, Task
from adasap.training import Data

TIMED_IMAGES = 16
"""Of the test set, the first ones: what detection from images to boxes is timed on."""


def open_detection_data(recipe: DetectionRecipe) -> Data:
    """Training images, suites (the clean test set first) and a zero image of the size that the traced part works at."""
    train = open_detection_dataset(recipe.data.train, "train")
    test = open_detection_dataset(recipe.data.test, "test")
    if train.classes != test.classes:
        raise DataError(
            f"data.train has the classes {_listed(train)}, data.test has {_listed(test)}; name the same ones for both "
            "with `classes`"
        )
    if "clean" in recipe.data.suites:
        raise DataError("data.suites names one `clean`, which is the name of data.test's own; give it another name")
    suites = [open_detection_suite("clean", SuiteSource("clean"), test)]
    suites += [open_detection_suite(name, source, test) for name, source in recipe.data.suites.items()]
    return Data(train, suites, torch.zeros(1, *recipe.model.input_size), recipe.data.augmentation)


def data_summaries(data: Data) -> list[str]:
    """A line for each set with boxes: how much there is, and what was wrong with it."""
    sets = [data.train, *(suite.images for suite in data.suites if isinstance(suite, DetectionSuite))]
    return list(dict.fromkeys(one.summary() for one in sets if isinstance(one, DetectionImages)))


def open_detection_task(recipe: DetectionRecipe, classes: tuple[str, ...]) -> DetectionTask:
    """The task with the model's own preprocessing."""
    return DetectionTask(mean=recipe.model.mean, std=recipe.model.std, classes=classes)


def check_detector(model: nn.Module, recipe: DetectionRecipe, data: Data) -> None:
    """One forward pass: the detector must answer with every class of the data and with the background.

    Raises:
        DataError: If it does not, works at another size than `model.input_size`, is no detector, or starts from the
            weights of one that numbers the same classes in another order.
    """
    wanted = data.train.num_classes + 1
    found = count_classes(model, recipe.model.input_size)
    if found != wanted:
        raise DataError(
            f"data.train has {wanted - 1} classes, with the background {wanted}, but {recipe.model.builder} answers "
            f"with {found}; set model.options.num_classes to {wanted}"
        )
    side = getattr(model, "image_size", None)
    if side is not None and tuple(recipe.model.input_size[1:]) != (side, side):
        raise DataError(
            f"{recipe.model.builder} works at {side} x {side} pixels, model.input_size says "
            f"{recipe.model.input_size[1]} x {recipe.model.input_size[2]}; set one of it and model.options.image_size"
        )
    before = _classes_in(recipe.model.weights)
    if before != data.train.classes and sorted(before) == sorted(data.train.classes):
        names = ", ".join(before)
        raise DataError(
            f"{recipe.model.weights} numbers the classes {names}, data.train {', '.join(data.train.classes)}; set "
            f"`classes: [{names}]` for data.train and data.test"
        )


def _classes_in(weights: str | None) -> tuple[str, ...]:
    """The class names in a model file; none in a plain file of weights."""
    try:
        return tuple(read_header(weights).metadata.get("classes", ())) if weights is not None else ()
    except ModelFileError:
        return ()


def timed_images(recipe: DetectionRecipe, task: Task[DetectionBatch]) -> list[Tensor]:
    """The first test images, prepared, on the CPU."""
    test = open_detection_dataset(recipe.data.test, "test")
    some = [test[place] for place in range(min(TIMED_IMAGES, len(test)))]
    batch = DetectionBatch([image for image, _ in some], [target for _, target in some])
    return task.prepare(batch, torch.device("cpu")).images


def _listed(data: DetectionImages) -> str:
    more = ", ..." if len(data.classes) > 4 else ""
    return f"{', '.join(data.classes[:4])}{more} ({data.num_classes})"
