"""Scores, calibration and the worst class against scikit-learn, plain loops and hand-computed cases."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from torch import Tensor, nn

from adasap.errors import DataError
from adasap.tasks import MergeableEvaluator
from adasap.tasks.classification.metrics import (
    brier_score,
    class_accuracy,
    classification_metrics,
    classification_records,
    expected_calibration_error,
    negative_log_likelihood,
    worst_class_accuracy,
)
from adasap.tasks.classification.task import ClassificationEvaluator, ClassificationTask

CPU = torch.device("cpu")


def example(images: int = 300, classes: int = 7, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(images, classes, generator=generator)
    return logits, torch.randint(classes, (images,), generator=generator)


def loop_ece(confidence: list[float], correct: list[float], num_bins: int) -> float:
    total = 0.0
    for b in range(num_bins):
        inside = [i for i, c in enumerate(confidence) if b / num_bins < c <= (b + 1) / num_bins]
        if inside:
            accuracy = sum(correct[i] for i in inside) / len(inside)
            mean = sum(confidence[i] for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


def loop_adaptive_ece(confidence: list[float], correct: list[float], num_bins: int) -> float:
    order = sorted(range(len(confidence)), key=lambda i: confidence[i])
    size, total = len(order) // num_bins, 0.0
    for b in range(num_bins):
        inside = order[b * size : (b + 1) * size]
        total += abs(sum(correct[i] - confidence[i] for i in inside)) / len(order)
    return total


def test_nll_and_brier_are_scikit_learns() -> None:
    logits, labels = example()
    probabilities = logits.double().softmax(1).numpy()
    assert negative_log_likelihood(logits, labels) == pytest.approx(log_loss(labels, probabilities), rel=1e-12)
    brier = brier_score_loss(labels, probabilities, scale_by_half=False)
    assert brier_score(logits, labels) == pytest.approx(brier, rel=1e-12)


def test_nll_and_brier_by_hand() -> None:
    logits, labels = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.2, 0.6]]).log(), torch.tensor([0, 1])
    assert negative_log_likelihood(logits, labels) == pytest.approx((math.log(2) + math.log(5)) / 2)
    assert brier_score(logits, labels) == pytest.approx((0.25 + 0.25 + 0.04 + 0.64 + 0.36) / 2)
    assert negative_log_likelihood(logits[:1], torch.tensor([2])) == math.inf
    assert brier_score(logits[:1], torch.tensor([2])) == pytest.approx(1.5)


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_ece_is_that_of_a_plain_loop(num_bins: int) -> None:
    logits, labels = example()
    confidence, answers = logits.double().softmax(1).max(1)
    confidence[:3] = torch.tensor([0.4, 0.6, 1.0], dtype=torch.float64)  # on edges of bins
    correct = (answers == labels).double()
    args = confidence.tolist(), correct.tolist(), num_bins
    found = expected_calibration_error(confidence, correct, num_bins=num_bins)
    assert found == pytest.approx(loop_ece(*args), rel=1e-12)
    adaptive = expected_calibration_error(confidence, correct, num_bins=num_bins, bins="count")
    assert adaptive == pytest.approx(loop_adaptive_ece(*args), rel=1e-12)


def test_bins_are_closed_above() -> None:
    # 0.5 belongs to (0, 0.5]: alone there its gap is 0.5, and 0.25 is the gap of the other
    assert expected_calibration_error(torch.tensor([0.5, 0.75]), torch.tensor([0.0, 1.0]), num_bins=2) == 0.375


def test_a_calibrated_model_has_a_small_ece_and_an_overconfident_one_the_gap() -> None:
    generator = torch.Generator().manual_seed(1)
    confidence = torch.rand(100_000, generator=generator)
    correct = (torch.rand(100_000, generator=generator) < confidence).float()
    assert expected_calibration_error(confidence, correct) < 0.01
    assert expected_calibration_error(torch.full((4,), 1.0), torch.tensor([1.0, 1.0, 0.0, 0.0])) == 0.5


def test_fewer_images_than_adaptive_bins() -> None:
    assert expected_calibration_error(torch.tensor([0.75, 0.5]), torch.tensor([1.0, 1.0]), bins="count") == 0.375


def test_class_accuracies_by_hand() -> None:
    correct, labels = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]), torch.tensor([5, 5, 2, 2, 0, 5])
    assert class_accuracy(correct, labels) == {0: 1.0, 2: 0.5, 5: 1 / 3}
    assert worst_class_accuracy(correct, labels) == (5, 1 / 3)
    assert worst_class_accuracy(torch.zeros(2), torch.tensor([3, 1])) == (1, 0.0)


def test_metrics_of_records_are_the_functions_on_logits() -> None:
    logits, labels = example()
    metrics = classification_metrics(classification_records(logits, labels))
    assert next(iter(metrics)) == "accuracy"
    assert metrics["accuracy"] == (logits.argmax(1) == labels).double().mean().item()
    assert metrics["loss"] == pytest.approx(negative_log_likelihood(logits, labels), rel=1e-6)
    assert metrics["brier"] == pytest.approx(brier_score(logits, labels), rel=1e-6)
    confidence, answers = logits.double().softmax(1).max(1)
    correct = (answers == labels).double()
    assert metrics["ece"] == pytest.approx(expected_calibration_error(confidence, correct), rel=1e-6)
    worst = worst_class_accuracy(correct, labels)
    assert (metrics["worst_class"], metrics["worst_class_accuracy"]) == worst


def test_metrics_are_the_same_to_the_last_digit_for_any_batches_order_and_sharing() -> None:
    logits, labels = example(images=2000, classes=1000, scale=4.0)
    records = classification_records(logits, labels)
    whole = classification_metrics(records)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(2))
    assert classification_metrics({name: kept[order] for name, kept in records.items()}) == whole

    class Given(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    def share(start: int, stop: int, size: int) -> dict[str, Tensor]:
        evaluator = ClassificationTask(mean=(0.0,), std=(1.0,)).evaluator()
        for i in range(start, stop, size):
            evaluator.update(Given(), (logits[i : min(i + size, stop)], labels[i : min(i + size, stop)]))
        return evaluator.records()

    shares = share(0, 700, 64), share(700, 2000, 333)
    joined = {name: torch.cat([part[name] for part in shares]) for name in shares[0]}
    assert all(torch.equal(joined[name], records[name]) for name in records)
    assert ClassificationEvaluator.metrics_of(joined) == whole


def test_an_evaluator_can_be_shared_and_computes_from_its_records() -> None:
    evaluator = ClassificationTask(mean=(0.0,), std=(1.0,)).evaluator()
    assert isinstance(evaluator, MergeableEvaluator)
    logits, labels = example(images=5)
    evaluator.update(nn.Identity(), (logits, labels))
    assert evaluator.compute() == evaluator.metrics_of(evaluator.records())
    assert torch.equal(evaluator.per_image(), evaluator.records()["correct"])
    assert {name: kept.dtype for name, kept in evaluator.records().items()} == {
        **dict.fromkeys(("correct", "confidence", "loss", "brier"), torch.float32),
        "label": torch.int64,
    }


def test_half_precision_logits_are_scored_in_single_precision() -> None:
    logits, labels = example(images=50)
    logits = logits.bfloat16()
    wanted, found = classification_records(logits.float(), labels), classification_records(logits, labels)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_sure_model_keeps_its_small_brier_score() -> None:
    records = classification_records(torch.tensor([[12.0, 0.0]]), torch.tensor([0]))
    p = 1 / (1 + math.exp(12.0))
    assert records["brier"].item() == pytest.approx(2 * p * p, rel=0.05)


def test_broken_logits_count_as_wrong_and_show_as_nan() -> None:
    logits, labels = torch.tensor([[math.nan, 0.0], [0.0, 2.0]]), torch.tensor([0, 1])
    metrics = classification_metrics(classification_records(logits, labels))
    assert (metrics["accuracy"], metrics["worst_class"], metrics["worst_class_accuracy"]) == (0.5, 0.0, 0.0)
    assert all(math.isnan(metrics[name]) for name in ("loss", "brier", "ece"))


@pytest.mark.parametrize("score", [negative_log_likelihood, brier_score])
@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "N > 0"),
        (torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64), "C > 1"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "from 0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0]), "one per image"),
        (torch.tensor([[math.nan, 0.0]]), torch.tensor([0]), "NaN"),
    ],
)
def test_degenerate_logits_are_refused(score: object, logits: Tensor, labels: Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        score(logits, labels)  # type: ignore[operator]


def test_degenerate_scores_are_refused() -> None:
    with pytest.raises(ValueError, match="N > 0"):
        expected_calibration_error(torch.zeros(0), torch.zeros(0))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        expected_calibration_error(torch.tensor([1.5]), torch.ones(1))
    with pytest.raises(ValueError, match=r"outside \[0, 1\]"):
        expected_calibration_error(torch.tensor([math.nan]), torch.ones(1))
    with pytest.raises(ValueError, match="at least one"):
        expected_calibration_error(torch.ones(1), torch.ones(1), num_bins=0)
    with pytest.raises(ValueError, match="one number per image"):
        class_accuracy(torch.ones(2), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="two classes"):
        classification_records(torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError, match="saw no images"):
        classification_metrics(classification_records(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)))
