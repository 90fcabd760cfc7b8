"""Robustness numbers as pure functions of per-image scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
    """Mean over images with a percentile interval from resampled images.

    Args:
        scores: One score per image, float [N]; for a corruption suite the image's mean over all cells.
        level: Coverage of the interval.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling: the same images are drawn for every model compared.

    Returns:
        The mean and its interval; a single image gives an interval of width zero.

    Raises:
        ValueError: For no images.
    """
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"give one score per image, float [N] with N > 0, not shape {list(scores.shape)}")
    generator = torch.Generator().manual_seed(seed)
    means = torch.empty(resamples, dtype=torch.float64)
    chunk = max(1, 4_000_000 // len(scores))
    for start in range(0, resamples, chunk):
        count = min(chunk, resamples - start)
        drawn = torch.randint(len(scores), (count, len(scores)), generator=generator)
        means[start : start + count] = scores.double()[drawn].mean(dim=1)
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(scores.double().mean().item(), low, high)


def paired_difference(scores: Tensor, baseline: Tensor, *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean of scores minus baseline over the same images, with a paired bootstrap interval.

    Args:
        scores: float [N] of one model.
        baseline: float [N] of the other model on the same images in the same order.

    Raises:
        ValueError: If the two do not hold the same number of images.
    """
    if scores.shape != baseline.shape:
        raise ValueError(f"paired scores need the same images: {len(scores)} against {len(baseline)}")
    return bootstrap_mean(scores.double() - baseline.double(), level=level, seed=seed)
