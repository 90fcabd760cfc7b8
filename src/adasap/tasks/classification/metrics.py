"""What a classifier's evaluation keeps of each image, and the metrics as a pure function of it.

Sums over images are exact (`math.fsum`), so metrics do not depend on how images were batched, ordered or shared out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from adasap.errors import ArgumentError, DataError


def classification_records(logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What is kept of each image.

    Args:
        logits: float [N, C] on any device.
        labels: int64 [N], 0 to C - 1.

    Returns:
        On the CPU `correct` (1.0 or 0.0), `confidence` (largest probability), `loss` (cross-entropy in nats, which is
        the negative log-likelihood) and `brier` (sum over classes of (probability - one-hot)^2, 0 to 2), float32 [N],
        and `label`, int64 [N]. An image with a NaN among its logits counts as wrong; its other numbers are NaN.

    Raises:
        ArgumentError: For fewer than two classes.

    Example:
        >>> records = classification_records(torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1, 0]))
        >>> records["correct"], records["confidence"]
        (tensor([0., 1.]), tensor([0.5000, 0.8808]))
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ArgumentError(f"give logits of at least two classes, float [N, C], not shape {list(logits.shape)}")
    log_probabilities = logits.float().log_softmax(dim=1)
    best, answers = log_probabilities.amax(dim=1), logits.argmax(dim=1)
    loss = -log_probabilities.gather(1, labels[:, None]).squeeze(1)
    residual = log_probabilities.exp()
    # p - onehot and not sum p^2 - 2 p + 1, which cancels where the model is sure
    residual.scatter_add_(1, labels[:, None], torch.full_like(residual[:, :1], -1.0))
    correct = ((answers == labels) & ~best.isnan()).float()
    kept = torch.stack([correct, best.exp(), loss, residual.square().sum(dim=1)]).cpu()
    return dict(zip(("correct", "confidence", "loss", "brier"), kept, strict=True)) | {"label": labels.cpu()}


def classification_metrics(records: Mapping[str, Tensor]) -> dict[str, float]:
    """The metrics of a data set from what was kept of its images.

    Args:
        records: As from `classification_records`, joined over the batches or processes, each image once.

    Returns:
        `accuracy`; `loss` (mean negative log-likelihood, nats) and `brier` (0 to 2), both NaN where an image's logits
        were; `ece` (15 bins of equal width, NaN likewise); `worst_class_accuracy` and `worst_class`, its label.

    Raises:
        DataError: For no images.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), torch.tensor([0, 1, 0])
        >>> metrics = classification_metrics(classification_records(logits, labels))
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'accuracy': 0.667, 'loss': 0.794, 'brier': 0.536, 'ece': 0.214,
         'worst_class_accuracy': 0.5, 'worst_class': 0.0}
    """
    correct, confidence, labels = records["correct"], records["confidence"], records["label"]
    if len(labels) == 0:
        raise DataError("the evaluation saw no images; check that the data set is not empty")
    sure = not confidence.isnan().any()
    worst_class, worst_accuracy = worst_class_accuracy(correct, labels)
    return {
        "accuracy": _mean(correct),
        "loss": _mean(records["loss"]),
        "brier": _mean(records["brier"]),
        "ece": expected_calibration_error(confidence, correct) if sure else math.nan,
        "worst_class_accuracy": worst_accuracy,
        "worst_class": float(worst_class),
    }


def expected_calibration_error(
    confidence: Tensor, correct: Tensor, *, num_bins: int = 15, bins: Literal["width", "count"] = "width"
) -> float:
    """Gap between confidence and accuracy, averaged over bins of confidence.

    ECE = sum_b n_b / N |accuracy_b - confidence_b|    (Guo et al., 2017, arXiv:1706.04599, eq. 3)

    Args:
        confidence: Largest probability of each image, float [N] in [0, 1].
        correct: 1 where the answer is right, [N].
        num_bins: Bins; the value depends on them.
        bins: `width`: intervals (b / B, (b + 1) / B]; `count`: as many images in each, by rank, equal ones in the order
            given (adaptive bins, Nguyen and O'Connor, 2015, arXiv:1508.05154). Fewer images than bins leave bins empty.

    Returns:
        0 (calibrated) to 1.

    Raises:
        ArgumentError: For no images, shapes that differ, or confidences outside [0, 1].

    Example:
        >>> expected_calibration_error(torch.tensor([0.75, 0.75, 1.0]), torch.tensor([1.0, 0.0, 1.0]))
        0.16666666666666666
    """
    _check_images(confidence, correct, "confidence")
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise ArgumentError("a confidence is NaN or outside [0, 1]; give the largest softmax probability of each image")
    if num_bins < 1:
        raise ArgumentError(f"{num_bins} bins; give at least one")
    if bins == "width":
        place = torch.bucketize(confidence.double(), torch.arange(1, num_bins, dtype=torch.float64) / num_bins)
    else:
        rank = torch.empty_like(confidence, dtype=torch.int64)
        rank[confidence.argsort(stable=True)] = torch.arange(len(confidence))
        place = rank * num_bins // len(confidence)
    gaps = torch.bincount(place, correct.double() - confidence.double(), minlength=num_bins)
    return math.fsum(gaps.abs().tolist()) / len(confidence)


def class_accuracy(correct: Tensor, labels: Tensor) -> dict[int, float]:
    """Accuracy over the images of each label; a label without images is left out.

    Args:
        correct: 1 where the answer is right, [N].
        labels: int64 [N].

    Raises:
        ArgumentError: For no images or shapes that differ.

    Example:
        >>> class_accuracy(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 2]))
        {0: 0.5, 2: 1.0}
    """
    _check_images(correct, labels, "correct")
    counts, right = torch.bincount(labels), torch.bincount(labels, correct.double())
    present = counts.nonzero().squeeze(1)
    return dict(zip(present.tolist(), (right[present] / counts[present]).tolist(), strict=True))


def worst_class_accuracy(correct: Tensor, labels: Tensor) -> tuple[int, float]:
    """The label with the lowest accuracy (the smaller label of equal ones) and that accuracy.

    With few images per class it is far below the worst class's true accuracy: compare it between models on the same
    images, not between data sets.

    Raises:
        ArgumentError: As `class_accuracy`.

    Example:
        >>> worst_class_accuracy(torch.tensor([1.0, 0.0, 1.0]), torch.tensor([0, 0, 2]))
        (0, 0.5)
    """
    return min(class_accuracy(correct, labels).items(), key=lambda item: item[1])


def negative_log_likelihood(logits: Tensor, labels: Tensor) -> float:
    """Mean of -log p(label), in nats: cross-entropy without smoothing, a proper score; infinite where p(label) is 0.

    Args:
        logits: float [N, C]; of probabilities give `probabilities.log()`.
        labels: int64 [N].

    Raises:
        ArgumentError: For no images, fewer than two classes, NaN, or labels that do not fit.

    Example:
        >>> negative_log_likelihood(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1]))
        0.28768...
    """
    return _mean(-_log_probabilities(logits, labels).gather(1, labels[:, None]))


def brier_score(logits: Tensor, labels: Tensor) -> float:
    """Mean over images of sum_c (p_c - onehot_c)^2, 0 to 2, a proper score (Brier, 1950; for two classes twice the
    one-sided form).

    Args:
        logits: float [N, C]; of probabilities give `probabilities.log()`.
        labels: int64 [N].

    Raises:
        ArgumentError: For no images, fewer than two classes, NaN, or labels that do not fit.

    Example:
        >>> round(brier_score(torch.tensor([[0.25, 0.75]]).log(), torch.tensor([1])), 6)
        0.125
    """
    residual = _log_probabilities(logits, labels).exp()
    residual[torch.arange(len(labels)), labels] -= 1
    return _mean(residual.square().sum(dim=1))


def _log_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    if logits.ndim != 2 or len(logits) == 0 or logits.shape[1] < 2:
        raise ArgumentError(f"give logits float [N, C] with N > 0 and C > 1, not shape {list(logits.shape)}")
    if labels.shape != logits.shape[:1] or labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise ArgumentError(f"labels must be int64 [{len(logits)}] from 0 to {logits.shape[1] - 1}, one per image")
    log_probabilities = logits.double().log_softmax(dim=1)
    if log_probabilities.isnan().any():
        raise ArgumentError("a logit is NaN or +inf; look for the first layer whose output is not finite")
    return log_probabilities


def _check_images(first: Tensor, second: Tensor, name: str) -> None:
    if first.ndim != 1 or len(first) == 0 or first.shape != second.shape:
        raise ArgumentError(
            f"give one number per image, [N] with N > 0: {name} is {list(first.shape)}, the other {list(second.shape)}"
        )


def _mean(values: Tensor) -> float:
    return math.fsum(values.flatten().tolist()) / values.numel()
