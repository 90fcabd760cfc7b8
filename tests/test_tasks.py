"""Classification: the loss against torch's own, the evaluator by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adasap.errors import DataError, RecipeError
from adasap.tasks.classification.task import ClassificationOptions, ClassificationTask

CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Answers with given logits, whatever the images."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.logits[: len(images)]


def task(**options: float) -> ClassificationTask:
    return ClassificationTask(mean=(0.5,) * 3, std=(0.25,) * 3, options=ClassificationOptions(**options))


def raw(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((count, 3, 4, 4), 255, dtype=torch.uint8), torch.arange(count)


def test_images_are_normalised_by_the_models_own_numbers() -> None:
    images, labels = task().prepare(raw(2), CPU)
    assert images.unique().tolist() == [2.0]
    assert labels.tolist() == [0, 1]


def test_loss_is_cross_entropy_with_smoothing() -> None:
    model = Fixed(torch.randn(2, 5))
    loss = task(label_smoothing=0.1).loss(model, task().prepare(raw(2), CPU))
    assert loss.item() == pytest.approx(
        F.cross_entropy(model.logits, torch.arange(2), label_smoothing=0.1).item(), rel=1e-6
    )


def test_distillation_from_oneself_adds_nothing_and_from_another_pulls_towards_it() -> None:
    model, other = Fixed(torch.randn(2, 5)), Fixed(torch.randn(2, 5))

    def loss(teacher: nn.Module, weight: float) -> torch.Tensor:
        options = ClassificationOptions(distillation=weight, temperature=3.0)
        taught = ClassificationTask(mean=(0.5,) * 3, std=(0.25,) * 3, options=options, teacher=teacher)
        return taught.loss(model, taught.prepare(raw(2), CPU))

    plain = F.cross_entropy(model.logits, torch.arange(2))
    assert loss(model, 0.5).item() == pytest.approx(0.5 * plain.item(), rel=1e-5)
    only = loss(other, 1.0)
    p, q = (other.logits / 3).softmax(1), (model.logits / 3).log_softmax(1)
    by_hand = 9 * (p * (p.log() - q)).sum(1).mean()
    assert only.item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_evaluator_counts_image_by_image() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    evaluator = task().evaluator()
    evaluator.update(Fixed(logits), task().prepare(raw(3), CPU))
    assert evaluator.per_image().tolist() == [1.0, 0.0, 1.0]
    assert evaluator.compute()["accuracy"] == pytest.approx(2 / 3)
    assert evaluator.compute()["loss"] == pytest.approx(F.cross_entropy(logits, torch.arange(3)).item())


def test_an_empty_evaluation_and_impossible_options_are_refused() -> None:
    with pytest.raises(DataError, match="saw no images"):
        task().evaluator().compute()
    with pytest.raises(RecipeError, match="fraction from 0 to 1"):
        task(distillation=1.5)
    with pytest.raises(RecipeError, match="above 0"):
        task(temperature=0.0)
