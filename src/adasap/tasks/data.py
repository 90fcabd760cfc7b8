"""What a run sees: as a recipe names it, and opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from adasap.data import DataSource
from adasap.data.images import class_names
from adasap.data.items import is_indexed
from adasap.errors import DataError
from adasap.evaluation import Suite, SuiteSource, open_own_suite
from adasap.models import ModelSpec

if TYPE_CHECKING:
    from adasap.tasks.task import BaseTask


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """What a run sees, as a recipe names it.

    Attributes:
        train: What is trained on.
        test: The clean images that are reported on.
        suites: Further suites by name: shifted sets and corruptions.
        augmentation: Applied to training images only; its keys are the task's own.
    """

    train: DataSource
    test: DataSource
    suites: dict[str, SuiteSource] = field(default_factory=dict)
    augmentation: Any = None

    @property
    def sources(self) -> tuple[DataSource, ...]:
        """Every data set that is named."""
        of_suites = [suite.data for suite in self.suites.values() if suite.data is not None]
        return (self.train, self.test, *of_suites)


@dataclass(frozen=True, kw_only=True)
class Opening:
    """What data are opened for: by a recipe, or for an evaluation without one.

    Attributes:
        spec: The model's.
        model: The model itself; of a recipe the dense one.
        classes: Names of the classes that the weights keep, by which labels are numbered.
        options: Of the task, in an evaluation; None for its defaults.
        kept_suites: Where corrupted images are kept for further runs; None makes them anew.
        trust_code: Let `kind: package.module:function` run.
    """

    spec: ModelSpec
    model: nn.Module | None = None
    classes: Sequence[str] | None = None
    options: Any = None
    kept_suites: Path | None = None
    trust_code: bool = False

    @property
    def channels(self) -> int | None:
        """Of the model's input, if that is known."""
        return None if self.spec.input_size is None else self.spec.input_size[0]

    @property
    def example(self) -> Tensor | None:
        """A zero image of the model's input size, float [1, C, H, W], if that is known."""
        return None if self.spec.input_size is None else torch.zeros(1, *self.spec.input_size)


@dataclass(frozen=True)
class Data:
    """What a run trains and is measured on.

    Attributes:
        train: Any map-style `torch.utils.data.Dataset` whose items are (image, target): PIL, NumPy, tensors or
            tv_tensors, with transforms of its own if it likes. Or a `DataLoader` or `IterableDataset` of yours, whose
            batches a resumed run draws again and passes over.
        suites: What is evaluated after each stage, the clean test set first. Where `test` is given: further suites of
            it by name, such as `{"corrupted": SuiteSource("corrupted")}`.
        example_inputs: One preprocessed image, float [1, C, H, W], for tracing and counting; by default a black one of
            the size of the first training image.
        augmentation: Applied to training images only; by default the task's own default.
        remarks: Lines for whoever starts the run: how much data there is, what was passed over, how classes match.
        test: The clean test set, a map-style data set as `train`.
    Raises:
        DataError: If a suite's classes have other names than those of the training images, or another order.
    """

    train: Any
    suites: Sequence[Suite] | Mapping[str, SuiteSource] = ()
    example_inputs: Tensor | None = None
    augmentation: Any = None
    remarks: tuple[str, ...] = ()
    test: Any = None

    def __post_init__(self) -> None:
        wanted = names_of(self.train)
        for suite in () if isinstance(self.suites, Mapping) else self.suites:
            given = None if suite.outputs is not None else names_of(getattr(suite, "images", None))
            if wanted is not None and given is not None and given != wanted:
                raise DataError(
                    f"suite {suite.name!r} numbers the classes {', '.join(given[:20])} ({len(given)}), the training "
                    f"images {', '.join(wanted[:20])} ({len(wanted)}); open it with `classes=train.classes`, which "
                    "matches them by name"
                )
        if isinstance(self.suites, Mapping) and self.suites and self.test is None:
            raise DataError("suites by name are made of `test`, which is missing; give the test set")

    @property
    def opened_suites(self) -> Sequence[Suite]:
        """The suites, of data that `for_task` gave.

        Raises:
            DataError: For data that it did not.
        """
        if isinstance(self.suites, Mapping) or self.test is not None:
            raise DataError("these data are not opened for a task yet; call data.for_task(task)")
        return self.suites

    @property
    def example(self) -> Tensor:
        """`example_inputs`, of data that `for_task` gave."""
        if self.example_inputs is None:
            raise DataError("these data have no example_inputs; call data.for_task(task)")
        return self.example_inputs

    def for_task(self, task: BaseTask[Any]) -> Data:
        """The same with everything filled in: suites of `test`, example inputs, augmentation and remarks.

        Raises:
            DataError: If an item cannot be used, or a suite wants 8-bit images and there are none.
        """
        augmentation = task.augmentation_type() if self.augmentation is None else self.augmentation
        data = replace(self, augmentation=augmentation)
        if data.example_inputs is None:
            data = replace(data, example_inputs=task.example_inputs(data.train, augmentation))
        return data._with_suites(task)

    def _with_suites(self, task: BaseTask[Any]) -> Data:
        if self.test is None:
            return self
        if isinstance(self.suites, Mapping):
            if "clean" in self.suites:
                raise DataError("suites name one `clean`, which is the name of `test` itself; give it another name")
            sources = {"clean": SuiteSource("clean"), **self.suites}
            suites: list[Suite] = [open_own_suite(name, one, self.test, task) for name, one in sources.items()]
        else:
            suites = [open_own_suite("clean", SuiteSource("clean"), self.test, task), *self.suites]
        sizes = [
            f"data.{key}: {len(s):,} items" for key, s in (("train", self.train), ("test", self.test)) if _sized(s)
        ]
        return replace(self, suites=suites, test=None, remarks=(*self.remarks, *sizes))


def _sized(data: Any) -> bool:
    return is_indexed(data)


def names_of(images: Any) -> tuple[str, ...] | None:
    """Class names of a data set, or None where there are only numbers or neither is known."""
    return class_names(images) if hasattr(images, "classes") else None


def class_list(images: Any) -> tuple[str, ...]:
    """The classes of a data set as text, the numbers where they have no names; empty where none are known."""
    return tuple(map(str, getattr(images, "classes", ())))


def zero_image(image: Tensor) -> Tensor:
    """A black image like the first of a prepared batch, float [1, C, H, W]."""
    return torch.zeros(1, *image.shape[-3:])
