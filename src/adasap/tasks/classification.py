"""Image classification: cross-entropy, top-1 accuracy, optional distillation from the dense model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adasap.errors import DataError, RecipeError
from adasap.groups import evaluating
from adasap.tasks.classification_metrics import classification_metrics, classification_records

ClassificationBatch = tuple[Tensor, ...]
"""Images uint8 [N, 3, H, W] (raw) or float (prepared), labels int64 [N], and with a teacher its logits [N, L]."""


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
        for name in ("label_smoothing", "distillation"):
            if not 0 <= getattr(self, name) <= 1:
                raise RecipeError(f"{name} is {getattr(self, name)}; give a fraction from 0 to 1")
        if self.temperature <= 0:
            raise RecipeError(f"temperature is {self.temperature}; give a number above 0")


class ClassificationTask:
    """Single-label classification of 8-bit images.

    Args:
        mean: Per-colour mean of the model's own preprocessing, (x / 255 - mean) / std.
        std: Per-colour standard deviation.
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
        self.options = options or ClassificationOptions()
        self.teacher = teacher.eval() if teacher is not None and self.options.distillation > 0 else None
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def __repr__(self) -> str:
        """Everything that its loss depends on, so that a resumed run can tell whether it goes on with the same task."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"ClassificationTask({mean=}, {std=}, options={self.options})"

    def prepare(self, batch: ClassificationBatch, device: torch.device) -> ClassificationBatch:
        """Images to the device, normalised, and the teacher's logits beside them."""
        images, labels = batch[0].to(device, non_blocking=True), batch[1].to(device, non_blocking=True)
        images = (images.float() / 255 - self.mean.to(device)) / self.std.to(device)
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
        return (1 - weight) * loss + weight * divergence

    def evaluator(self) -> ClassificationEvaluator:
        """Top-1 accuracy, proper scores and calibration."""
        return ClassificationEvaluator()


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


def logits_of(output: Any) -> Tensor:
    """The logits of models that return a tensor, or a named tuple or dictionary with auxiliary heads."""
    if isinstance(output, Tensor):
        return output
    logits = output["logits"] if isinstance(output, dict) else output[0]
    if not isinstance(logits, Tensor):
        raise DataError(f"a classifier must return a tensor of logits, not {type(logits).__name__}")
    return logits


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
