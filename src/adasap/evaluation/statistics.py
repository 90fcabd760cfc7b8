"""Intervals over images and over seeds, tests of seeds against each other, and the line of plain models.

Over images: bootstrap percentiles (`bootstrap_mean`, `paired_difference`). Over seeds: Student's t from SciPy
(`mean_over_seeds`, `paired_over_seeds`), corrected for many comparisons by `holm`. `fit_baseline` is the line that
effective robustness is measured from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal

import torch
from torch import Tensor

from adasap.checks import whole_number
from adasap.errors import ArgumentError

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


def bootstrap_mean(
    scores: Tensor, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0, block_length: int = 1
) -> Interval:
    """Mean over images with a percentile interval from resampled images (Efron, 1979).

    It speaks of other images from the same source, not of other seeds of the training. Where neighbours are alike, as
    the frames of a film, images are no independent draws and the interval is too narrow: then blocks of neighbours are
    drawn (the moving-block bootstrap; Kuensch, 1989), as long as the likeness reaches.

    Args:
        scores: One score per image, float [N]; for a corruption suite the image's mean over all cells.
        level: Coverage of the interval.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling: the same images are drawn for every model compared.
        block_length: Images that are drawn together, neighbours in the order given.

    Returns:
        The mean and its interval; a single image gives an interval of width zero.

    Raises:
        ArgumentError: For no images, a score that is not finite, a level outside (0, 1), or blocks longer than the
            data.
    """
    if scores.ndim != 1 or len(scores) == 0:
        raise ArgumentError(f"give one score per image, float [N] with N > 0, not shape {list(scores.shape)}")
    if not scores.isfinite().all():
        raise ArgumentError(
            f"{int((~scores.isfinite()).sum())} of {len(scores)} scores are not finite; look at the model"
        )
    if not 0 < level < 1:
        raise ArgumentError(f"level is {level}; give the coverage as a fraction between 0 and 1, such as 0.95")
    whole_number(block_length, "block_length", least=1, most=len(scores))
    scores = scores.double().cpu()
    if block_length == 1:
        means = _resampled_means(scores, resamples, seed)
    else:
        means = _block_means(scores, block_length, resamples, seed)
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


def _block_means(scores: Tensor, length: int, resamples: int, seed: int) -> Tensor:
    """Means of N scores drawn in blocks of neighbours, of which the last is cut short, float64 [resamples]."""
    generator, number = torch.Generator().manual_seed(seed), len(scores)
    blocks = -(-number // length)
    starts = torch.randint(number - length + 1, (resamples, blocks), generator=generator)
    sums = torch.cat([scores.new_zeros(1), scores.cumsum(0)])
    last = number - (blocks - 1) * length
    lengths = torch.tensor([length] * (blocks - 1) + [last])
    return (sums[starts + lengths] - sums[starts]).sum(dim=1) / number


def paired_difference(
    scores: Tensor,
    baseline: Tensor,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    block_length: int = 1,
) -> Interval:
    """Mean of scores minus baseline over the same images, with a paired bootstrap interval.

    Args:
        scores: float [N] of one model.
        baseline: float [N] of the other model on the same images in the same order.
        level: As for `bootstrap_mean`.
        resamples: As for `bootstrap_mean`.
        seed: As for `bootstrap_mean`.
        block_length: As for `bootstrap_mean`.

    Raises:
        ArgumentError: If the two do not hold the same number of images; else as `bootstrap_mean`.

    Example:
        >>> f"{paired_difference(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])):.2f}"
        '0.33 [0.00, 1.00]'
    """
    if scores.shape != baseline.shape:
        raise ArgumentError(f"paired scores need the same images: {len(scores)} against {len(baseline)}")
    return bootstrap_mean(
        scores.double() - baseline.double(), level=level, resamples=resamples, seed=seed, block_length=block_length
    )


@dataclass(frozen=True)
class SeedDifference:
    """Mean difference over seeds.

    Attributes:
        interval: Mean and its interval.
        p_value: Two-sided, of the mean being zero; 1 where all differences are equal, which nothing can be read from.
        num_seeds: How many pairs.
    """

    interval: Interval
    p_value: float
    num_seeds: int


def mean_over_seeds(values: Sequence[float], *, level: float = 0.95) -> Interval:
    """Mean with Student's t interval: it speaks of other seeds of the same recipe, on the same test images.

    Args:
        values: One number per seed, two or more.
        level: Coverage.
    Raises:
        ArgumentError: For fewer than two values, one that is not finite, or a level outside (0, 1).
    Example:
        >>> f"{mean_over_seeds([0.90, 0.92, 0.94]):.3f}"
        '0.920 [0.870, 0.970]'
    """
    from scipy.stats import t

    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        raise ArgumentError(f"an interval over seeds needs two finite numbers or more, got {list(values)}; add seeds")
    if not 0 < level < 1:
        raise ArgumentError(f"level is {level}; give the coverage as a fraction between 0 and 1, such as 0.95")
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def paired_over_seeds(values: Sequence[float], baseline: Sequence[float], *, level: float = 0.95) -> SeedDifference:
    """Mean of value minus baseline with Student's paired t interval and test.

    Args:
        values: One number per seed.
        baseline: That of the other recipe with the same seeds, in the same order.
    Raises:
        ArgumentError: If the lengths differ; else as `mean_over_seeds`.
    Example:
        >>> found = paired_over_seeds([0.90, 0.92, 0.94], [0.89, 0.90, 0.91])
        >>> f"{found.interval:.3f}", f"{found.p_value:.3f}"
        ('0.020 [-0.005, 0.045]', '0.074')
    """
    from scipy.stats import t

    if len(values) != len(baseline):
        raise ArgumentError(f"paired seeds are needed: {len(values)} against {len(baseline)} values")
    gaps = [value - base for value, base in zip(values, baseline, strict=True)]
    interval = mean_over_seeds(gaps, level=level)
    error = stdev(gaps) / math.sqrt(len(gaps))
    if error == 0:
        return SeedDifference(interval, 1.0, len(gaps))
    return SeedDifference(interval, float(2 * t.sf(abs(interval.value) / error, len(gaps) - 1)), len(gaps))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm, 1979): below 0.05 in at most 5 % of families where nothing is true.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected


Scale = Literal["logit", "probit"]


@dataclass(frozen=True)
class BaselineLine:
    """Accuracy on shifted data as plain models have it, a straight line in their clean accuracy on a stretched scale.

    Attributes:
        slope: Of scale(shifted) in scale(clean).
        intercept: On that scale.
        scale: `logit`, log(a / (1 - a)), or `probit`, the inverse of the normal distribution function.
        r_squared: Share of the variance that the line explains, on that scale; 1 for two models.
        num_models: How many models were fitted.
        clean_range: The lowest and highest clean accuracy among them; outside it the line is extrapolated.
    """

    slope: float
    intercept: float
    scale: Scale
    r_squared: float
    num_models: int
    clean_range: tuple[float, float]

    def predict(self, clean: float) -> float:
        """The shifted accuracy of a plain model with this clean accuracy, a fraction.

        Raises:
            ArgumentError: For a clean accuracy that is not between 0 and 1.
        """
        return _inverse(self.intercept + self.slope * _stretched(clean, self.scale), self.scale)

    def effective_robustness(self, clean: float, shifted: float) -> float:
        """shifted - predict(clean): positive for a model that is more robust than its clean accuracy explains.

        Taori et al. (2020), arXiv:2007.00644.

        Raises:
            ArgumentError: For accuracies that are no fractions.
        """
        if not 0 <= shifted <= 1:
            raise ArgumentError(f"the shifted accuracy is {shifted}; give a fraction from 0 to 1")
        return shifted - self.predict(clean)


def fit_baseline(clean: Sequence[float], shifted: Sequence[float], *, scale: Scale = "logit") -> BaselineLine:
    """Least squares of scale(shifted) on scale(clean) over plain models of several sizes.

    On the logit scale as Taori et al. (2020), arXiv:2007.00644; on the probit scale as Miller et al. (2021),
    arXiv:2107.04649. The models must be plain: the dense architecture at several widths or depths, trained alike.

    Args:
        clean: Clean accuracy of each model, between 0 and 1.
        shifted: Accuracy of each on the shifted data, in the same order.
        scale: On which the line is straight.

    Raises:
        ArgumentError: For fewer than two different clean accuracies, or accuracies that are not between 0 and 1.

    Example:
        >>> line = fit_baseline([0.5, 0.8], [0.2, 0.5])
        >>> round(line.predict(0.8), 3), round(line.effective_robustness(0.8, 0.55), 3)
        (0.5, 0.05)
    """
    if len(clean) != len(shifted) or len(set(clean)) < 2:
        raise ArgumentError(
            f"{len(clean)} clean and {len(shifted)} shifted accuracies; a line needs one pair per model and two "
            "different clean accuracies or more: evaluate the dense model at several widths"
        )
    x, y = ([_stretched(accuracy, scale) for accuracy in accuracies] for accuracies in (clean, shifted))
    mean_x, mean_y = math.fsum(x) / len(x), math.fsum(y) / len(y)
    slope = math.fsum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / _squares(x, mean_x)
    intercept = mean_y - slope * mean_x
    residuals = math.fsum((b - intercept - slope * a) ** 2 for a, b in zip(x, y, strict=True))
    total = _squares(y, mean_y)
    r_squared = 1 - residuals / total if total > 0 else 1.0
    return BaselineLine(slope, intercept, scale, r_squared, len(x), (min(clean), max(clean)))


def _squares(values: Sequence[float], mean: float) -> float:
    return math.fsum((value - mean) ** 2 for value in values)


def _stretched(accuracy: float, scale: Scale) -> float:
    if not 0 < accuracy < 1:
        raise ArgumentError(f"an accuracy is {accuracy}; the {scale} scale needs fractions strictly between 0 and 1")
    return math.log(accuracy / (1 - accuracy)) if scale == "logit" else NormalDist().inv_cdf(accuracy)


def _inverse(value: float, scale: Scale) -> float:
    return (1 + math.tanh(value / 2)) / 2 if scale == "logit" else NormalDist().cdf(value)
