"""Image classification: cross-entropy, top-1 accuracy, optional distillation from the dense model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adasap.checks import require_above, require_declared
from adasap.corruptions import BENCHMARK, NUM_SEVERITIES
from adasap.data import Augmentation, open_source
from adasap.data.images import is_image_set
from adasap.data.items import is_indexed
from adasap.data.stream import Batching
from adasap.errors import DataError, RecipeError
from adasap.evaluation import ImageSuite, Suite, SuiteResult, SuiteSource, check_suite, open_suite
from adasap.groups.past import past_of
from adasap.metric import Metric
from adasap.models import ModelSpec, input_size_of
from adasap.models.outputs import logits_of
from adasap.tasks.classification.data import OwnBatching, count_outputs, open_labelled, reference_of
from adasap.tasks.classification.metrics import classification_metrics, classification_records
from adasap.tasks.data import Data, DataOptions, Opening, class_list
from adasap.tasks.task import BaseTask

if TYPE_CHECKING:
    from adasap.report.table import Table

ClassificationBatch = tuple[Tensor, ...]
"""Images uint8 [N, C, H, W] (raw) or float (prepared), labels int64 [N], and with a teacher its logits [N, L]."""


@dataclass(frozen=True)
class ClassificationOptions:
    """How the loss is made.

    Attributes:
        label_smoothing: Share of the target spread over all classes.
        distillation: Weight of the teacher's term, 0 to 1; the teacher is the dense model at the start.
        temperature: Softness of both distributions in that term.
    """

    label_smoothing: float = 0.0
    distillation: float = 0.0
    temperature: float = 2.0

    def __post_init__(self) -> None:
        require_declared(self, RecipeError)
        for name in ("label_smoothing", "distillation"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; give a fraction from 0 to 1")
        require_above(RecipeError, 0, 1e6, temperature=self.temperature)


class ClassificationTask(BaseTask[ClassificationBatch]):
    """Single-label classification of images.

    8-bit images are normalised by the model's mean and standard deviation. Images that are floats already, of a data
    set with transforms of its own, stay as they are.

    Args:
        mean: Per-channel mean of the model's own preprocessing, (x / 255 - mean) / std.
        std: Per-channel standard deviation.
        options: Label smoothing and distillation.
        teacher: The model to learn from; used only when `options.distillation` is above 0.
        channels_last: Lay the images out channels last, which is faster on most devices.

    Example:
        >>> task = ClassificationTask(mean=(0.5,) * 3, std=(0.5,) * 3)
        >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> batch = task.prepare((images, torch.tensor([0, 1])), torch.device("cpu"))
        >>> batch[0].unique().item()
        -1.0
    """

    name = "classification"
    primary_metric = Metric("accuracy", "accuracy", meaning="share of images whose true class gets the highest score")
    options_type: ClassVar[type[Any]] = ClassificationOptions
    augmentation_type: ClassVar[type[Any]] = Augmentation

    def __init__(
        self,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        options: ClassificationOptions | None = None,
        teacher: nn.Module | None = None,
        channels_last: bool = False,
    ) -> None:
        self.mean = torch.tensor(mean).view(1, -1, 1, 1)
        self.std = torch.tensor(std).view(1, -1, 1, 1)
        super().__init__(options=options)
        self.teacher = teacher.eval() if teacher is not None and self.options.distillation > 0 else None
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __repr__(self) -> str:
        """Everything that its loss depends on, so that a resumed run can tell whether it goes on with the same task."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"ClassificationTask({mean=}, {std=}, options={self.options})"

    def prepare(self, batch: ClassificationBatch, device: torch.device) -> ClassificationBatch:
        """Images to the device, normalised, and the teacher's logits beside them.

        Raises:
            DataError: If they have another number of channels than mean and std.
        """
        images, labels = (one_tensor(part).to(device, non_blocking=True) for part in batch[:2])
        if not images.is_floating_point():
            require_as_many(self.mean.numel(), images.shape[1])
            images = (images.float() / largest_level(images) - self.mean.to(device)) / self.std.to(device)
        images = images.contiguous(memory_format=self.layout)
        if self.teacher is None:
            return images, labels
        with torch.no_grad():
            return images, labels, self.teacher.to(device)(images)

    def loss(self, model: nn.Module, batch: ClassificationBatch) -> Tensor:
        """Cross-entropy with smoothed labels; (1 - a) of it plus a T^2 KL(teacher || model) with distillation a.

        The second term is Hinton et al. (2015), arXiv:1503.02531.
        """
        logits = logits_of(model(batch[0]))
        loss = F.cross_entropy(logits.float(), batch[1], label_smoothing=self.options.label_smoothing)
        if len(batch) < 3:
            return loss
        weight, temperature = self.options.distillation, self.options.temperature
        student = F.log_softmax(logits.float() / temperature, dim=1)
        teacher = F.log_softmax(batch[2].float() / temperature, dim=1)
        divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
        mixed: Tensor = (1 - weight) * loss + weight * divergence
        return mixed

    def evaluator(self) -> ClassificationEvaluator:
        """Top-1 accuracy, proper scores and calibration."""
        return ClassificationEvaluator()

    def batching(self, dataset: Any, augmentation: Any) -> Batching:
        """By the augmentation, of images with labels and of items of any data set.

        Raises:
            RecipeError: If the augmentation is another task's.
        """
        self.require_own(augmentation)
        if augmentation is None:
            augmentation = Augmentation()
        return augmentation if is_image_set(dataset) else OwnBatching(self, augmentation)

    def check(self, model: nn.Module, data: Data) -> None:
        """One forward pass: an output for every class of the data, and every suite must fit the model.

        Raises:
            DataError: If not.
        """
        size = data.example.shape[1:]
        num_outputs, classes = count_outputs(model, size), class_list(data.train)
        if num_outputs < len(classes):
            raise DataError(
                f"data.train has {len(classes)} classes, but {_title(model)} has {num_outputs} outputs; "
                f"set model.options.num_classes to {len(classes)}"
            )
        if not is_image_set(data.train) and is_indexed(data.train):
            super().check(model, data)
        self.check_suites(model, data.opened_suites, size)

    def check_suites(self, model: nn.Module, suites: Sequence[Suite], input_size: Sequence[int]) -> None:
        """Whether sizes, labels and outputs fit."""
        num_outputs = count_outputs(model, input_size)
        for suite in suites:
            if isinstance(suite, ImageSuite):
                check_suite(suite, input_size=input_size, num_outputs=num_outputs)

    def opening_lines(self, model: nn.Module, data: Data) -> list[str]:
        """Outputs that no class has."""
        outputs, classes = count_outputs(model, data.example.shape[1:]), len(class_list(data.train))
        if not classes or outputs <= classes:
            return []
        return [
            f"{_title(model)} has {outputs:,} outputs and data.train {classes:,} classes: the other "
            f"{outputs - classes:,} can only be wrong; set model.options.num_classes to {classes} unless the "
            "weights need them"
        ]

    def first_score(self, result: SuiteResult, train: Any) -> str:
        """Accuracy beside chance."""
        cell, count = next(iter(result.metrics.values())), len(result.per_image())
        labels = getattr(train, "labels", None)
        kinds = len(torch.unique(labels)) if isinstance(labels, Tensor) else len(class_list(train))
        right, chance = cell["accuracy"], 1 / max(1, kinds)
        doubt = right < chance + 2 * math.sqrt(chance * (1 - chance) / count)
        return (
            f"As loaded: {100 * right:.1f} % of {count} test images right; chance is {100 * chance:.1f} %."
            + doubt * " No better than chance: if the weights are trained, look at the classes' order, mean and std."
        )

    def save_pictures(
        self, folder: Path, models: Mapping[str, nn.Module], data: Data, suites: Sequence[Suite], device: torch.device
    ) -> None:
        """Example images under every corruption, with what the models took them for."""
        from adasap.tasks.classification.report.examples import save_examples

        if labelled := [suite for suite in suites if isinstance(suite, ImageSuite)]:
            save_examples(folder, models, self, labelled, class_list(data.train), device)

    def table(self, results: Mapping[str, SuiteResult]) -> Table:
        """Accuracy and loss of each corruption, and each suite's mean with its interval."""
        from adasap.tasks.classification.evaluation_table import evaluation_table

        return evaluation_table(results)

    def more_tables(self, name: str, results: Mapping[str, SuiteResult], suites: Sequence[Suite]) -> dict[str, Table]:
        """Groups of corruptions, ratios and mCE, calibration: where the first suite is a clean one to compare with."""
        from adasap.tasks.classification.report.robustness_table import robustness_tables

        first, *others = suites
        if len(first.cells) > 1:
            return {}
        whole = len(BENCHMARK) * NUM_SEVERITIES
        imagenet_c = [s.name for s in others if s.record["kind"] == "imagenet-c" and len(s.cells) == whole]
        return robustness_tables({name: results}, imagenet_c=imagenet_c)

    @classmethod
    def opened(
        cls,
        options: Any,
        spec: ModelSpec,
        *,
        classes: Sequence[str] = (),
        teacher: nn.Module | None = None,
        channels_last: bool = False,
    ) -> ClassificationTask:
        """With the model's own preprocessing."""
        return cls(mean=spec.mean, std=spec.std, options=options, teacher=teacher, channels_last=channels_last)

    @classmethod
    def open_data(cls, asked: DataOptions, of: Opening) -> Data:
        """Images whose labels are numbers of the classes that the weights keep, else of those of the training data."""
        if any(source.is_own for source in asked.sources):
            return super().open_data(asked, of)
        return open_labelled(asked, of)

    @classmethod
    def open_suites(cls, sources: Mapping[str, SuiteSource], of: Opening, *, test: Any = None) -> list[Suite]:
        """Suites of images with labels, and of any data set."""
        own = any(source.data is not None and source.data.is_own for source in sources.values())
        if own or not (test is None or is_image_set(test)):
            return super().open_suites(sources, of, test=test)
        size = input_size_of(of.spec)
        num_outputs = None if of.model is None else count_outputs(of.model, size)
        return [
            open_suite(name, source, test, input_size=size, classes=of.classes, num_outputs=num_outputs)
            for name, source in sources.items()
        ]

    @classmethod
    def classes_of(cls, asked: DataOptions, of: Opening) -> tuple[str, ...] | None:
        """Those of the training data, or ImageNet's where the model has its outputs."""
        train = open_source(asked.train, "train")
        return reference_of(of.spec, train, of.model)[0] if is_image_set(train) else class_list(train) or None


class ClassificationEvaluator:
    """Keeps four numbers and the label of each image (`classification_records`)."""

    def __init__(self) -> None:
        self.batches: list[dict[str, Tensor]] = []

    def update(self, model: nn.Module, batch: ClassificationBatch) -> None:
        """Adds a prepared batch."""
        self.batches.append(classification_records(logits_of(model(batch[0])), batch[1]))

    def records(self) -> dict[str, Tensor]:
        """`correct`, `confidence`, `loss`, `brier` float32 [N] and `label` int64 [N], in the order of the images."""
        if not self.batches:
            raise DataError("the evaluation saw no images; check that the data set is not empty")
        return {name: torch.cat([batch[name] for batch in self.batches]) for name in self.batches[0]}

    @staticmethod
    def metrics_of(records: Mapping[str, Tensor]) -> dict[str, float]:
        """`classification_metrics`: also of records that several processes gathered."""
        return classification_metrics(records)

    def compute(self) -> dict[str, float]:
        """`accuracy`, `loss` (nats), `brier`, `ece`, `worst_class_accuracy` and `worst_class`, its label."""
        return self.metrics_of(self.records())

    def per_image(self) -> Tensor:
        """1.0 where the answer is right, float [N]."""
        return self.records()["correct"]


def require_as_many(numbers: int, channels: int) -> None:
    """Checks that there is a mean for each channel; PyTorch would stretch either to fit the other.

    Raises:
        DataError: If not.
    """
    if numbers != channels:
        raise DataError(
            f"the images have {channels} channels, the model's mean and std {numbers} numbers; give one for each "
            "channel, and the model's `input_size` the same number"
        )


def one_tensor(part: Any) -> Tensor:
    """The images or labels of a batch, which must have one shape.

    Raises:
        DataError: If they are a list.
    """
    if isinstance(part, Tensor):
        return part
    shapes = sorted({str(list(one.shape)) if isinstance(one, Tensor) else type(one).__name__ for one in part})
    raise DataError(
        f"images or labels of a batch differ: {', '.join(shapes[:4])}; bring images to one size in the data set's "
        "transforms, and give labels as whole numbers"
    )


def largest_level(images: Tensor) -> float:
    """What is 1.0 of images of whole numbers: 255 of 8 bits."""
    return 1.0 if images.dtype == torch.bool else float(torch.iinfo(images.dtype).max)


def _title(model: nn.Module) -> str:
    """The builder that a model came from, or its class."""
    spec = past_of(model).spec
    return type(model).__name__ if spec is None else spec.builder
