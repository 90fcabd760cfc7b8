"""What several seeds say together: means, paired differences, and a correction for many comparisons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from adasap.robustness.intervals import Interval


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
        ValueError: For fewer than two values, one that is not finite, or a level outside (0, 1).
    Example:
        >>> f"{mean_over_seeds([0.90, 0.92, 0.94]):.3f}"
        '0.920 [0.870, 0.970]'
    """
    from scipy.stats import t

    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        raise ValueError(f"an interval over seeds needs two finite numbers or more, got {list(values)}; add seeds")
    if not 0 < level < 1:
        raise ValueError(f"level is {level}; give the coverage as a fraction between 0 and 1, such as 0.95")
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    half = float(t.ppf((1 + level) / 2, len(values) - 1)) * error
    return Interval(mean, mean - half, mean + half)


def paired_over_seeds(values: Sequence[float], baseline: Sequence[float], *, level: float = 0.95) -> SeedDifference:
    """Mean of value minus baseline with Student's paired t interval and test.

    Args:
        values: One number per seed.
        baseline: That of the other recipe with the same seeds, in the same order.
    Raises:
        ValueError: If the lengths differ; else as `mean_over_seeds`.
    Example:
        >>> found = paired_over_seeds([0.90, 0.92, 0.94], [0.89, 0.90, 0.91])
        >>> f"{found.interval:.3f}", f"{found.p_value:.3f}"
        ('0.020 [-0.005, 0.045]', '0.074')
    """
    from scipy.stats import t

    if len(values) != len(baseline):
        raise ValueError(f"paired seeds are needed: {len(values)} against {len(baseline)} values")
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
