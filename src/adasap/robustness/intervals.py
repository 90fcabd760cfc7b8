"""Estimates with bootstrap intervals, from one score per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_CHUNK = 400_000
"""Indices drawn at a time: they stay in the processor's cache, which halves the time."""


@dataclass(frozen=True)
class Interval:
    """An estimate with a bootstrap percentile interval, in the unit of the scores.

    Example:
        >>> f"{Interval(0.5, 0.4, 0.6):.1%}"
        '50.0% [40.0%, 60.0%]'
    """

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def bootstrap_mean(scores: Tensor, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Mean over images with a percentile interval from resampled images (Efron, 1979).

    It speaks of other images from the same source, not of other seeds of the training.

    Args:
        scores: One score per image, float [N]; for a corruption suite the image's mean over all cells.
        level: Coverage of the interval.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling: the same images are drawn for every model compared.

    Returns:
        The mean and its interval; a single image gives an interval of width zero.

    Raises:
        ValueError: For no images, a score that is not finite, or a level outside (0, 1).
    """
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"give one score per image, float [N] with N > 0, not shape {list(scores.shape)}")
    if not scores.isfinite().all():
        raise ValueError(f"{int((~scores.isfinite()).sum())} of {len(scores)} scores are not finite; look at the model")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give the coverage as a fraction between 0 and 1, such as 0.95")
    scores = scores.double().cpu()
    means = _resampled_means(scores, resamples, seed)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(scores.mean().item(), low, high)


def _resampled_means(scores: Tensor, resamples: int, seed: int) -> Tensor:
    """Means of N scores drawn with replacement, float64 [resamples]."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, dtype=torch.float64)
    rows = max(1, _CHUNK // len(scores))
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = torch.randint(len(scores), (count * len(scores),), generator=generator, dtype=torch.int32)
        means[start : start + count] = scores.index_select(0, drawn).view(count, -1).mean(dim=1)
    return means


def paired_difference(
    scores: Tensor, baseline: Tensor, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean of scores minus baseline over the same images, with a paired bootstrap interval.

    Args:
        scores: float [N] of one model.
        baseline: float [N] of the other model on the same images in the same order.
        level: As for `bootstrap_mean`.
        resamples: As for `bootstrap_mean`.
        seed: As for `bootstrap_mean`.

    Raises:
        ValueError: If the two do not hold the same number of images; else as `bootstrap_mean`.

    Example:
        >>> f"{paired_difference(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])):.2f}"
        '0.33 [0.00, 1.00]'
    """
    if scores.shape != baseline.shape:
        raise ValueError(f"paired scores need the same images: {len(scores)} against {len(baseline)}")
    return bootstrap_mean(scores.double() - baseline.double(), level=level, resamples=resamples, seed=seed)
