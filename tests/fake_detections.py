"""Detections made from the truth, as good or bad as a test wants them."""

from __future__ import annotations

import torch
from torch import Tensor

from adasap.tasks.detection.data.boxes import Target, make_target
from adasap.tasks.detection.matching import Detection


def random_targets(count: int, num_classes: int, *, seed: int, difficult: float = 0.0) -> list[Target]:
    """Images with objects in the cells of a grid: no two boxes overlap, and neither do detections of different ones."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for index in range(count):
        cells = torch.randperm(9, generator=generator)[: int(torch.randint(0, 6, (), generator=generator))]
        corners = torch.stack([cells % 3, cells // 3], dim=1) * 60.0
        sizes = 25 + 10 * torch.rand(len(cells), 2, generator=generator)
        labels = torch.randint(1, num_classes + 1, (len(cells),), generator=generator)
        hard = torch.rand(len(cells), generator=generator) < difficult
        targets.append(make_target(torch.cat([corners, corners + sizes], dim=1), labels, hard, image_id=index))
    return targets


def imperfect(target: Target, num_classes: int, *, seed: int, doubles: bool = False, shift: float = 12) -> Detection:
    """Boxes shifted by up to half of `shift`, some missed, some of another class, false alarms; all scores differ."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    boxes = target["boxes"] + shift * (random(len(target["boxes"]), 1) - 0.5)
    labels = torch.where(random(len(boxes)) < 0.2, 1 + (target["labels"] % num_classes), target["labels"])
    seen = random(len(boxes)) < 0.8
    boxes, labels = boxes[seen], labels[seen]
    if doubles:
        boxes, labels = torch.cat([boxes, boxes + 2]), torch.cat([labels, labels])
    alarms = torch.tensor([[200.0, 200, 220, 230]]) + 40 * random(2, 1)
    boxes = torch.cat([boxes, alarms])
    labels = torch.cat([labels, torch.randint(1, num_classes + 1, (2,), generator=generator)])
    return {"boxes": boxes, "labels": labels, "scores": random(len(boxes))}
