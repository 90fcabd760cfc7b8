"""Robustness to common corruptions from accuracies: pure functions of numbers, all fractions.

Corruption error, mCE and relative mCE are those of Hendrycks and Dietterich (2019), arXiv:1903.12261, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from adasap.corruptions import BENCHMARK, NUM_SEVERITIES
from adasap.errors import ArgumentError
from adasap.evaluation.cells import Cell

CellAccuracies = Mapping[str, Mapping[int, float]]
"""Corruption -> severity -> accuracy."""

CORRUPTION_GROUPS = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
"""The 15 corruptions of the benchmark by kind."""

ALEXNET_CLEAN_ERROR = 0.435
ALEXNET_ERRORS = {
    "gaussian_noise": 0.886428,
    "shot_noise": 0.894468,
    "impulse_noise": 0.922640,
    "defocus_blur": 0.819880,
    "glass_blur": 0.826268,
    "motion_blur": 0.785948,
    "zoom_blur": 0.798360,
    "snow": 0.866816,
    "frost": 0.826572,
    "fog": 0.819324,
    "brightness": 0.564592,
    "contrast": 0.853204,
    "elastic_transform": 0.646056,
    "pixelate": 0.717840,
    "jpeg_compression": 0.606500,
    "speckle_noise": 0.845388,
    "gaussian_blur": 0.787108,
    "spatter": 0.717512,
    "saturate": 0.658248,
}
"""AlexNet's top-1 error on ImageNet-C at 224 x 224, mean over the five severities."""


def cell_accuracies(
    metrics: Mapping[Cell, Mapping[str, float]], metric: str = "accuracy"
) -> dict[str, dict[int, float]]:
    """The accuracies of a suite's corruption cells, by corruption and severity; cells without them are left out.

    Args:
        metrics: Cell -> metrics.
        metric: Which of them, such as `accuracy`.

    Example:
        >>> cell_accuracies({Cell(): {"accuracy": 0.9}, Cell("fog", 3): {"accuracy": 0.5}})
        {'fog': {3: 0.5}}
    """
    cells: dict[str, dict[int, float]] = {}
    for cell, values in metrics.items():
        if not cell.is_clean and metric in values:
            cells.setdefault(cell.corruption, {})[cell.severity] = values[metric]
    return cells


def corruption_accuracy(cells: CellAccuracies, corruptions: Sequence[str] = BENCHMARK) -> dict[str, float]:
    """Accuracy of each of the named corruptions, the mean over its severities; others in `cells` are left out.

    Raises:
        ArgumentError: For a corruption that is missing, severities that differ between corruptions, or an accuracy
            that is no fraction.

    Example:
        >>> corruption_accuracy({"fog": {1: 0.75, 5: 0.25}, "spatter": {1: 0.9}}, ["fog"])
        {'fog': 0.5}
    """
    missing = [name for name in corruptions if not cells.get(name)]
    if missing or not corruptions:
        raise ArgumentError(
            f"{len(missing)} of {len(corruptions)} corruptions have no accuracy: {', '.join(missing)}; evaluate them, "
            "or name the corruptions that are meant"
        )
    severities = {name: sorted(cells[name]) for name in corruptions}
    first, *others = corruptions
    for name in others:
        if severities[name] != severities[first]:
            raise ArgumentError(
                f"severities differ: {first} has {severities[first]}, {name} {severities[name]}; a mean would weigh "
                "them unequally"
            )
    return {name: _mean([_fraction(value, name) for value in cells[name].values()]) for name in corruptions}


def mean_corrupted_accuracy(cells: CellAccuracies, corruptions: Sequence[str] = BENCHMARK) -> float:
    """Mean over severities, then over corruptions: by default the benchmark's 15, without its four extra ones.

    For CIFAR-10-C and CIFAR-100-C the usual number is 1 minus this, the un-normalised mean error.

    Raises:
        ArgumentError: As `corruption_accuracy`.

    Example:
        >>> mean_corrupted_accuracy({"fog": {1: 0.75, 2: 0.25}, "snow": {1: 0.25, 2: 0.25}}, ["fog", "snow"])
        0.375
    """
    return _mean(corruption_accuracy(cells, corruptions).values())


def group_accuracies(cells: CellAccuracies) -> dict[str, float]:
    """Mean corrupted accuracy of noise, blur, weather and digital corruptions; a group with one missing is left out.

    Example:
        >>> group_accuracies({name: {1: 0.5} for name in ("gaussian_noise", "shot_noise", "impulse_noise", "fog")})
        {'noise': 0.5}
    """
    return {
        group: mean_corrupted_accuracy(cells, names)
        for group, names in CORRUPTION_GROUPS.items()
        if all(cells.get(name) for name in names)
    }


def mean_corruption_error(cells: CellAccuracies, corruptions: Sequence[str] = BENCHMARK) -> float:
    """mCE: errors in units of AlexNet's, mean over the corruptions; 1 is AlexNet, papers print it in percent.

    mCE = mean_c E_c / E_c^AlexNet, E_c the mean error over the five severities. Only for ImageNet-C at 224 x 224.

    Raises:
        ArgumentError: For a corruption without an AlexNet error or without all five severities; else as
            `corruption_accuracy`.

    Example:
        >>> round(mean_corruption_error({"fog": dict.fromkeys(range(1, 6), 0.5)}, ["fog"]), 4)
        0.6103
    """
    accuracies = _of_five(cells, corruptions)
    return _mean((1 - accuracy) / ALEXNET_ERRORS[name] for name, accuracy in accuracies.items())


def relative_mean_corruption_error(
    cells: CellAccuracies, clean_accuracy: float, corruptions: Sequence[str] = BENCHMARK
) -> float:
    """Relative mCE: what corruptions add to the error, in units of what they add to AlexNet's.

    mean_c (E_c - E_clean) / (E_c^AlexNet - E_clean^AlexNet). It falls when the clean error rises: print mCE beside it.

    Raises:
        ArgumentError: As `mean_corruption_error`.

    Example:
        >>> round(relative_mean_corruption_error({"fog": dict.fromkeys(range(1, 6), 0.5)}, 0.7, ["fog"]), 4)
        0.5204
    """
    accuracies, clean = _of_five(cells, corruptions), _fraction(clean_accuracy, "clean")
    return _mean((clean - found) / (ALEXNET_ERRORS[name] - ALEXNET_CLEAN_ERROR) for name, found in accuracies.items())


@dataclass(frozen=True)
class AccuracyRatio:
    """Accuracy on shifted data over accuracy on clean data: R_C for corruptions, R_V2 for ImageNet-V2.

    It rises when the clean accuracy falls, and random guessing has ratio 1: so it is printed with both terms.

    Raises:
        ArgumentError: For a clean accuracy of 0, or an accuracy that is no fraction.

    Example:
        >>> print(AccuracyRatio(shifted=0.392, clean=0.7615))
        0.515 (39.20 % / 76.15 %)
    """

    shifted: float
    clean: float

    def __post_init__(self) -> None:
        if _fraction(self.clean, "clean") == 0:
            raise ArgumentError("a ratio to a clean accuracy of 0 says nothing; check the labels of the clean data")
        _fraction(self.shifted, "shifted")

    @property
    def value(self) -> float:
        """The ratio."""
        return self.shifted / self.clean

    def __str__(self) -> str:
        return f"{self.value:.3f} ({100 * self.shifted:.2f} % / {100 * self.clean:.2f} %)"


def _of_five(cells: CellAccuracies, corruptions: Sequence[str]) -> dict[str, float]:
    unknown = [name for name in corruptions if name not in ALEXNET_ERRORS]
    if unknown:
        raise ArgumentError(
            f"there is no AlexNet error for {', '.join(unknown)}; those are known: {', '.join(ALEXNET_ERRORS)}; for "
            "other corruptions give the mean corrupted accuracy"
        )
    accuracies = corruption_accuracy(cells, corruptions)
    severities = sorted(cells[corruptions[0]])
    if severities != list(range(1, NUM_SEVERITIES + 1)):
        raise ArgumentError(f"AlexNet's errors are means over severities 1 to 5, the accuracies are of {severities}")
    return accuracies


def _fraction(accuracy: float, name: str) -> float:
    if not 0 <= accuracy <= 1:
        raise ArgumentError(f"the accuracy of {name} is {accuracy}; give a fraction from 0 to 1")
    return accuracy


def _mean(values: Iterable[float]) -> float:
    terms = list(values)
    return math.fsum(terms) / len(terms)
