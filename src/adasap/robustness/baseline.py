"""Effective robustness: how far a model lies above the line of plain models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

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
            ValueError: For a clean accuracy that is not between 0 and 1.
        """
        return _inverse(self.intercept + self.slope * _stretched(clean, self.scale), self.scale)

    def effective_robustness(self, clean: float, shifted: float) -> float:
        """shifted - predict(clean): positive for a model that is more robust than its clean accuracy explains.

        Taori et al. (2020), arXiv:2007.00644.

        Raises:
            ValueError: For accuracies that are no fractions.
        """
        if not 0 <= shifted <= 1:
            raise ValueError(f"the shifted accuracy is {shifted}; give a fraction from 0 to 1")
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
        ValueError: For fewer than two different clean accuracies, or accuracies that are not between 0 and 1.

    Example:
        >>> line = fit_baseline([0.5, 0.8], [0.2, 0.5])
        >>> round(line.predict(0.8), 3), round(line.effective_robustness(0.8, 0.55), 3)
        (0.5, 0.05)
    """
    if len(clean) != len(shifted) or len(set(clean)) < 2:
        raise ValueError(
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
        raise ValueError(f"an accuracy is {accuracy}; the {scale} scale needs fractions strictly between 0 and 1")
    return math.log(accuracy / (1 - accuracy)) if scale == "logit" else NormalDist().inv_cdf(accuracy)


def _inverse(value: float, scale: Scale) -> float:
    return (1 + math.tanh(value / 2)) / 2 if scale == "logit" else NormalDist().cdf(value)
