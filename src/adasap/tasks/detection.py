"""Object detection: the detector's own losses, average precision, images of any size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adasap.data import DetectionBatch, Target
from adasap.errors import TrainingError
from adasap.tasks.detection_evaluator import DetectionEvaluator


class DetectionTask:
    """Boxes and classes of objects in 8-bit images, for any `adasap.models.Detector`.

    The detector itself brings images to the size it works at, and boxes back. Objects marked as difficult are not
    trained on, as the benchmark does not count them.

    Args:
        mean: Per-colour mean of the model's own preprocessing, (x / 255 - mean) / std.
        std: Per-colour standard deviation.
        classes: Names of the labels 1, 2, ...
        coco: Also compute COCO's average precision, which takes much longer.

    Example:
        >>> from adasap.data.boxes import empty_target
        >>> task = DetectionTask(mean=(0.5,) * 3, std=(0.5,) * 3, classes=["cat"])
        >>> batch = DetectionBatch([torch.zeros(3, 8, 9, dtype=torch.uint8)], [empty_target(0)])
        >>> task.prepare(batch, torch.device("cpu")).images[0].unique().item()
        -1.0
    """

    def __init__(
        self, *, mean: Sequence[float], std: Sequence[float], classes: Sequence[str], coco: bool = False
    ) -> None:
        self.mean = torch.tensor(mean).view(-1, 1, 1)
        self.std = torch.tensor(std).view(-1, 1, 1)
        self.classes, self.coco = tuple(classes), coco

    def __repr__(self) -> str:
        """Everything that its loss depends on, so that a resumed run can tell whether it goes on with the same task."""
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"DetectionTask({mean=}, {std=}, classes={self.classes})"

    def prepare(self, batch: DetectionBatch, device: torch.device) -> DetectionBatch:
        """Images to the device, float and normalised, each of its own size; targets beside them."""
        moved, mean, std = batch.to(device), self.mean.to(device), self.std.to(device)
        return DetectionBatch([(image.float() / 255 - mean) / std for image in moved.images], moved.targets)

    def loss(self, model: nn.Module, batch: DetectionBatch) -> Tensor:
        """The sum of the detector's losses (`Detector.losses`), float32."""
        losses: dict[str, Tensor] = model(batch.images, [without_difficult(target) for target in batch.targets])
        if not isinstance(losses, dict):
            raise TrainingError(
                f"{type(model).__name__} gave no losses by name for images with targets; derive it from "
                "adasap.models.Detector"
            )
        return torch.stack([loss.float() for loss in losses.values()]).sum()

    def evaluator(self) -> DetectionEvaluator:
        """Average precision of Pascal VOC, and with `coco` that of COCO."""
        return DetectionEvaluator(self.classes, coco=self.coco)


def without_difficult(target: Target) -> dict[str, Any]:
    """The boxes and labels that are trained on.

    Example:
        >>> from adasap.data.boxes import make_target
        >>> boxes, labels = torch.tensor([[0, 0, 9, 9], [5, 5, 8, 8]]), torch.tensor([3, 1])
        >>> target = make_target(boxes, labels, torch.tensor([False, True]), image_id=0)
        >>> without_difficult(target)
        {'boxes': tensor([[0., 0., 9., 9.]]), 'labels': tensor([3])}
    """
    easy = ~target["difficult"]
    return {"boxes": target["boxes"][easy], "labels": target["labels"][easy]}
