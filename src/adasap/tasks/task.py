"""What a task is: what good means, and everything about its data, its numbers and its pictures.

Nothing outside a task's own folder asks which task it is: the loop, the evaluation, the sweeps and the page call what
stands here. A user's own task is a class derived from `BaseTask` with `loss` and `evaluator`; the rest has defaults.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn

from adasap.corruptions import corrupt
from adasap.data.draws import generator_seeds
from adasap.data.items import collated, is_indexed, read_items
from adasap.data.source import open_source, require_trusted
from adasap.data.stream import Batching, BatchMaker
from adasap.errors import DataError, RecipeError
from adasap.evaluation import Suite, SuiteResult, SuiteSource, open_own_suite
from adasap.evaluation.evaluator import Evaluator, MergeableEvaluator
from adasap.metric import Metric
from adasap.models import ModelSpec
from adasap.registry import Registry
from adasap.tasks.data import Data, DataOptions, Opening, class_list, zero_image
from adasap.tasks.panels import panels_of

if TYPE_CHECKING:
    from adasap.report.panel import Panel
    from adasap.report.table import Table

__all__ = ["TASKS", "BaseTask", "Evaluator", "MergeableEvaluator", "Metric", "NoOptions", "Task"]

Batch = TypeVar("Batch")


class Task(Protocol[Batch]):
    """What a run, an evaluation, an analysis and the page need to know of a task.

    Attributes:
        name: What a recipe's `task:` says.
        primary_metric: What is named in tables, plots and comparisons.
    """

    name: str
    primary_metric: Metric

    def collate(self, samples: Sequence[Any]) -> Batch:
        """A raw batch from items of a map-style data set, (image, target) each; fast paths for arrays stay possible."""

    def augment(self, batch: Batch, seeds: Tensor) -> Batch:
        """A raw batch varied, image and target together; `seeds` int64 [B] decide how, one for each image."""

    def batching(self, dataset: Any, augmentation: Any) -> Batching:
        """How training batches are made of a data set: by `collate` and `augment`, or by a faster way of its own."""

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """Moves a raw batch to the device and does what both passes share; called once per step."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss over a prepared batch, a scalar with a graph."""

    def evaluator(self) -> Evaluator[Batch]:
        """A fresh evaluator."""

    def corrupt(self, batch: Batch, corruption: str, severity: int, seeds: Tensor) -> Batch:
        """A raw batch under a corruption of its 8-bit images, targets as they are; `seeds` int64 [B]."""

    def check(self, model: nn.Module, data: Any) -> None:
        """Classes by name, sizes, outputs: whatever must hold before work starts.

        Raises:
            adasap.errors.DataError: Names what was given, what was wanted and the next move.
        """

    def panels(self) -> Sequence[Panel]:
        """What the page shows beyond the common panels."""


@dataclass(frozen=True)
class NoOptions:
    """Of a task or an augmentation that has none."""


class BaseTask(Generic[Batch]):
    """A task of which only `loss` and `evaluator` are missing.

    Batches are (images, targets), as `adasap.data.items.collated` puts them together. A recipe may name any class
    derived from it: the class methods say how it is opened there.

    Attributes:
        name: What a recipe's `task:` says.
        primary_metric: What is named in tables, plots and comparisons.
        options_type: A dataclass: the keys of a recipe's `task:`.
        augmentation_type: A dataclass: the keys of a recipe's `data.augmentation:`.

    Args:
        options: Of `options_type`; by default its defaults.

    Example:
        >>> class Brightness(BaseTask):
        ...     primary_metric = Metric("error", "error", "", higher_is_better=False)
        ...     def loss(self, model, batch):
        ...         return (model(batch[0]).flatten() - batch[1].float()).square().mean()
        >>> batch = Brightness().collate([(torch.full((3, 8, 8), 255, dtype=torch.uint8), 1)] * 2)
        >>> images, targets = Brightness().prepare(batch, torch.device("cpu"))
        >>> images.max().item(), targets
        (1.0, tensor([1, 1]))
    """

    name: str = ""
    primary_metric: Metric = Metric("score", "score")
    options_type: ClassVar[type[Any]] = NoOptions
    augmentation_type: ClassVar[type[Any]] = NoOptions

    def __init__(self, *, options: Any = None) -> None:
        self.options = self.options_type() if options is None else options

    def __repr__(self) -> str:
        """Everything that its loss depends on, so that a resumed run can tell whether it goes on with the same task."""
        return f"{type(self).__name__}({getattr(self, 'options', '')})"

    # Batches

    def collate(self, samples: Sequence[Any]) -> Batch:
        """(images, targets): stacked where they have one shape, else lists."""
        return cast(Batch, collated(samples))

    def augment(self, batch: Batch, seeds: Tensor) -> Batch:
        """The batch as it is."""
        return batch

    def batching(self, dataset: Any, augmentation: Any) -> Batching:
        """By `collate` and `augment`.

        Raises:
            RecipeError: If the augmentation is another task's.
        """
        self.require_own(augmentation)
        return CollatedBatching(self)

    def require_own(self, augmentation: Any) -> None:
        """Refuses an augmentation of another type than the task's own."""
        if augmentation is not None and not isinstance(augmentation, self.augmentation_type):
            raise RecipeError(
                f"{type(self).__name__} varies images by {self.augmentation_type.__name__}, not by "
                f"{type(augmentation).__name__}; give {self.augmentation_type.__name__}, or none"
            )

    def prepare(self, batch: Batch, device: torch.device) -> Batch:
        """Everything on the device; images of whole numbers become fractions of the largest one, uint8 x / 255."""
        images, *rest = cast(tuple[Any, ...], batch)
        return cast(Batch, (_fractions(_moved(images, device)), *(_moved(part, device) for part in rest)))

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Mean loss over a prepared batch, a scalar with a graph."""

    @abstractmethod
    def evaluator(self) -> Evaluator[Batch]:
        """A fresh evaluator."""

    def corrupt(self, batch: Batch, corruption: str, severity: int, seeds: Tensor) -> Batch:
        """The batch with its images corrupted.

        Raises:
            DataError: If the images are not of 8 bits.
        """
        images, *rest = cast(tuple[Any, ...], batch)
        return cast(Batch, (corrupted_images(images, corruption, severity, seeds), *rest))

    # Before work starts

    def check(self, model: nn.Module, data: Data) -> None:
        """One loss of one batch of one or two items, which must be a finite number.

        Raises:
            DataError: With what PyTorch says if model, data and loss do not fit each other.
        """
        if not is_indexed(data.train):
            return
        indices = torch.arange(min(2, len(data.train)))
        batch = self.batching(data.train, data.augmentation).maker(seed=0).labelled(data.train, indices, 0)
        training = {module: module.training for module in model.modules()}
        model.eval()
        try:
            with torch.no_grad():
                loss = self.loss(model, self.prepare(batch, next(model.parameters()).device))
        except (RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
            raise DataError(
                f"the loss of {type(self).__name__} fails on the first items ({type(error).__name__}: {error}); "
                "correct the model, the data or the task"
            ) from error
        finally:
            for module, flag in training.items():
                module.training = flag
        if loss.ndim != 0 or not bool(loss.isfinite()):
            raise DataError(f"the loss of the first items is {loss}; give a finite scalar")

    def example_inputs(self, train: Any, augmentation: Any) -> Tensor:
        """A black image of the size of the first training image, float [1, C, H, W].

        Raises:
            DataError: If the data cannot be looked at.
        """
        if not is_indexed(train):
            raise DataError(
                "the size of the images of a loader is not known; give `example_inputs`, float [1, C, H, W]"
            )
        maker = self.batching(train, augmentation).maker(seed=0)
        prepared = self.prepare(maker.labelled(train, torch.tensor([0]), 0), torch.device("cpu"))
        return zero_image(first_images(prepared)[0])

    def opening_lines(self, model: nn.Module, data: Data) -> list[str]:
        """What else is to be known before a run."""
        return []

    def first_score(self, result: SuiteResult, train: Any) -> str:
        """One line: how the model does as it is loaded, on some test images."""
        from adasap.report.format import score_text

        cell, count = next(iter(result.metrics.values())), len(result.per_image())
        metric = self.primary_metric
        value = cell.get(metric.key, result.mean)
        return f"As loaded: {metric.label} {score_text(value, metric)} on {count} test images."

    # After it

    def timed_images(self, data: Data) -> dict[str, list[Tensor]]:
        """What else is timed than the traced part, such as `images to boxes` -> prepared images on the CPU.

        The model is called with a list of them, and its whole answer is timed.
        """
        return {}

    def save_pictures(
        self, folder: Path, models: Mapping[str, nn.Module], data: Data, suites: Sequence[Suite], device: torch.device
    ) -> None:
        """Writes what the page shows of the suites into a run's folder; models by name, on the device."""

    def panels(self) -> Sequence[Panel]:
        """Those that are registered for the task's name."""
        return panels_of(self.name)

    # An evaluation of the command line

    def check_suites(self, model: nn.Module, suites: Sequence[Suite], input_size: Sequence[int]) -> None:
        """Whether a model can be scored on suites; raises a DataError if not."""

    def table(self, results: Mapping[str, SuiteResult]) -> Table:
        """What an evaluation prints: the primary metric of each cell."""
        from adasap.report.format import score_text
        from adasap.report.table import Table

        metric = self.primary_metric
        rows = [
            [name, str(cell), score_text(found.get(metric.key, float("nan")), metric)]
            for name, result in results.items()
            for cell, found in result.metrics.items()
        ]
        return Table(["suite", "cell", metric.label], rows)

    def more_tables(self, name: str, results: Mapping[str, SuiteResult], suites: Sequence[Suite]) -> dict[str, Table]:
        """Further tables of `evaluation.md` by title; `name` is the model's."""
        return {}

    def remarks(self, suites: Sequence[Suite]) -> Iterator[str]:
        """What a reader of the table must know of the data and the metric."""
        yield from ()

    def about(self) -> dict[str, Any]:
        """What else `evaluation.json` says; ready for JSON."""
        return {}

    # From a recipe

    @classmethod
    def opened(
        cls,
        options: Any,
        spec: ModelSpec,
        *,
        classes: Sequence[str] = (),
        teacher: nn.Module | None = None,
        channels_last: bool = False,
    ) -> BaseTask[Any]:
        """The task of a recipe.

        Args:
            options: Of `options_type`.
            spec: The model's, with its preprocessing.
            classes: Names of the classes, where the data have any.
            teacher: The dense model, for losses that learn from it.
            channels_last: The memory layout that images are wanted in.
        """
        return cls(options=options)

    @classmethod
    def open_data(cls, asked: DataOptions, of: Opening) -> Data:
        """The data that a recipe names, opened for its model."""
        for source in asked.sources:
            require_trusted(source, of.trust_code)
        places: dict[str, Any] = {"channels": of.channels, "trust_code": of.trust_code}
        train, test = (
            open_source(one, split, **places) for one, split in ((asked.train, "train"), (asked.test, "test"))
        )
        return Data(train, dict(asked.suites), of.example, asked.augmentation, test=test)

    @classmethod
    def open_suites(cls, sources: Mapping[str, SuiteSource], of: Opening, *, test: Any = None) -> list[Suite]:
        """The suites of an evaluation without a recipe; those that name no data take `test`, an open data set."""
        found: list[Suite] = []
        for name, source in sources.items():
            if source.data is None and test is None:
                raise DataError(f"suite {name!r} names no data; give `data:` with a kind and a path")
            dataset = test if source.data is None else open_source(source.data, "test", trust_code=of.trust_code)
            task = cls.opened(of.options or cls.options_type(), of.spec, classes=of.classes or class_list(dataset))
            found.append(open_own_suite(name, replace(source, data=None), dataset, task))
        return found

    @classmethod
    def classes_of(cls, asked: DataOptions, of: Opening) -> Any:
        """Names of the classes of a recipe's training data, None where they have only numbers."""
        return class_list(open_source(asked.train, "train", trust_code=of.trust_code)) or None


TASKS: Registry[type[BaseTask[Any]]] = Registry("task", at="adasap.TASKS", packages="adasap.tasks", error=RecipeError)
"""The tasks that a recipe's `task:` may name; each folder below `adasap.tasks` registers its own, and so may you."""


class CollatedBatching:
    """Batches by a task's `collate` and `augment`."""

    def __init__(self, task: BaseTask[Any]) -> None:
        self.task = task

    def maker(self, *, seed: int) -> BatchMaker:
        return _CollatedBatches(self.task, seed)


@dataclass(frozen=True)
class _CollatedBatches:
    task: BaseTask[Any]
    seed: int

    def labelled(self, dataset: Any, indices: Tensor, epoch: int) -> Any:
        batch = self.task.collate(read_items(dataset, indices, seed=self.seed, epoch=epoch))
        seeds = torch.tensor(generator_seeds(self.seed, epoch, indices, "augment"), dtype=torch.int64)
        return self.task.augment(batch, seeds)


def first_images(batch: Any) -> Any:
    """The images of a batch: its first part, or its attribute `images`."""
    return batch.images if hasattr(batch, "images") else batch[0]


def corrupted_images(images: Any, corruption: str, severity: int, seeds: Tensor) -> Any:
    """Images uint8 [B, C, H, W], or a list of uint8 [C, H, W], under a corruption.

    Raises:
        DataError: For images of another type.
    """
    for image in images[:1]:
        if not isinstance(image, Tensor) or image.dtype != torch.uint8:
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise DataError(
                f"corruption {corruption!r} is defined on 8-bit images, these are {kind}; give the data set without "
                "the transform that makes floats (`prepare` scales 8-bit images), or leave the corrupted suite out"
            )
    if isinstance(images, Tensor):
        return corrupt(images, corruption, severity, seeds=seeds)
    pairs = zip(images, torch.split(seeds, 1), strict=True)
    return [corrupt(image[None], corruption, severity, seeds=seed)[0] for image, seed in pairs]


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {key: _moved(part, device) for key, part in value.items()}
    return [_moved(part, device) for part in value] if isinstance(value, list | tuple) else value


def _fractions(images: Any) -> Any:
    if not isinstance(images, Tensor):
        return [_fractions(image) for image in images]
    if images.is_floating_point():
        return images
    if images.dtype == torch.bool:
        return images.float()
    return images.float() / torch.iinfo(images.dtype).max
