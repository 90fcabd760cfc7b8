"""Images with boxes: a target, a batch of them, and what boxes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Target = dict[str, Any]
"""`boxes` float32 [N, 4] (x_min, y_min, x_max, y_max in pixels from the left upper corner), `labels` int64 [N] from 1
(0 is background), `difficult` bool [N] (ignored by the benchmark's count), `image_id` int."""


@dataclass(frozen=True)
class DetectionBatch:
    """Images of any sizes with their boxes.

    Attributes:
        images: Each uint8 [C, H, W] as read, or float once a task has prepared them.
        targets: One per image.

    Example:
        >>> batch = DetectionBatch([torch.zeros(3, 8, 9, dtype=torch.uint8)], [empty_target(0)])
        >>> len(batch), batch.to(torch.device("cpu")).targets[0]["boxes"].shape
        (1, torch.Size([0, 4]))
    """

    images: list[Tensor]
    targets: list[Target]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device) -> DetectionBatch:
        """The same on another device."""
        images = [image.to(device, non_blocking=True) for image in self.images]
        return DetectionBatch(images, [_moved(target, device) for target in self.targets])


def empty_target(image_id: int) -> Target:
    """The target of an image that shows no object."""
    return make_target(torch.empty(0, 4), torch.empty(0, dtype=torch.int64), image_id=image_id)


def make_target(boxes: Tensor, labels: Tensor, difficult: Tensor | None = None, *, image_id: int) -> Target:
    """A target of the right types; nothing is difficult by default.

    Example:
        >>> make_target(torch.tensor([[0, 0, 2, 3]]), torch.tensor([1]), image_id=7)["difficult"]
        tensor([False])
    """
    flags = torch.zeros(len(labels), dtype=torch.bool) if difficult is None else difficult.bool()
    boxes = boxes.to(torch.float32).reshape(-1, 4)
    return {"boxes": boxes, "labels": labels.to(torch.int64), "difficult": flags, "image_id": image_id}


def typed_target(target: Any, place: int) -> Target:
    """The target of a data set of somebody's own: `boxes` and `labels`, perhaps `difficult` and `image_id`.

    Example:
        >>> typed_target({"boxes": [[0, 0, 2, 3]], "labels": [1]}, 7)["image_id"]
        7
    """
    boxes, labels = torch.as_tensor(target["boxes"]), torch.as_tensor(target["labels"])
    difficult = torch.as_tensor(target["difficult"]) if "difficult" in target else None
    return make_target(boxes, labels, difficult, image_id=int(target.get("image_id", place)))


def _moved(target: Target, device: torch.device) -> Target:
    return {
        key: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for key, value in target.items()
    }
