"""Performance under corruption of a detector (Michaelis et al., 2019, arXiv:1907.07484): P, mPC, rPC, with intervals.

P is the clean average precision, mPC its mean over corruptions and severities. rPC has two definitions that differ:
for COCO it is mPC / P; for Pascal VOC the reference code takes that ratio class by class and then the mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from adasap.errors import ArgumentError
from adasap.evaluation import SuiteResult
from adasap.evaluation.metrics import cell_accuracies, mean_corrupted_accuracy
from adasap.evaluation.statistics import Interval, bootstrap_mean
from adasap.tasks.detection.matching import Records
from adasap.tasks.detection.metrics import weighted_map

CLASS = "ap50:"
CLASS_11POINT = "ap50_11point:"
COCO_CLASS = "coco_ap:"
"""How the metrics of one class begin."""


@dataclass(frozen=True)
class Performance:
    """One detector, clean and corrupted; fractions.

    Attributes:
        clean: P.
        corrupted: mPC.
        ratio_of_means: rPC as for COCO, mPC / P.
        mean_of_class_ratios: rPC as for Pascal VOC, the mean over classes of mPC_c / P_c; classes with P_c = 0 are left
            out. None where the metric is not known by class.
    """

    clean: float
    corrupted: float
    ratio_of_means: float
    mean_of_class_ratios: float | None


def performance(
    clean: SuiteResult,
    corrupted: SuiteResult,
    corruptions: Sequence[str],
    *,
    metric: str = "map50",
    by_class: str = CLASS,
) -> Performance:
    """P, mPC and both rPC of a metric.

    Args:
        clean: With one cell.
        corrupted: With cells of corruptions.
        corruptions: Which of them count.
        metric: Such as `map50`, `map50_11point`, `coco_ap`.
        by_class: How the names of the same metric by class begin.
    Raises:
        ArgumentError: For a corruption that is missing, or severities that differ between corruptions.

    Example:
        >>> from adasap.evaluation import Cell
        >>> scores = torch.zeros(1)
        >>> def metrics(a, b):
        ...     return {"map50": (a + b) / 2, "ap50:a": a, "ap50:b": b}
        >>> clean = SuiteResult("clean", {Cell(): scores}, {Cell(): metrics(0.8, 0.4)})
        >>> fog = SuiteResult("fog", {Cell("fog", 1): scores}, {Cell("fog", 1): metrics(0.4, 0.3)})
        >>> found = performance(clean, fog, ["fog"])
        >>> round(found.ratio_of_means, 4), round(found.mean_of_class_ratios, 4)  # 0.35 / 0.6, and (1/2 + 3/4) / 2
        (0.5833, 0.625)
    """
    (before,) = clean.metrics.values()
    mean = mean_corrupted_accuracy(cell_accuracies(corrupted.metrics, metric), corruptions)
    classes = class_performance(clean, corrupted, corruptions, by_class=by_class)
    ratios = [after / start for start, after in classes.values() if start]
    ratio = mean / before[metric] if before[metric] else math.nan
    return Performance(before[metric], mean, ratio, math.fsum(ratios) / len(ratios) if ratios else None)


def class_performance(
    clean: SuiteResult, corrupted: SuiteResult, corruptions: Sequence[str], *, by_class: str = CLASS
) -> dict[str, tuple[float, float]]:
    """Class -> P_c and mPC_c."""
    (before,) = clean.metrics.values()
    found = {}
    for metric in (name for name in before if name.startswith(by_class)):
        mean = mean_corrupted_accuracy(cell_accuracies(corrupted.metrics, metric), corruptions)
        found[metric.removeprefix(by_class)] = before[metric], mean
    return found


def ratio_interval(clean: Tensor, corrupted: Tensor, *, resamples: int = 10_000) -> Interval:
    """mPC / P with a bootstrap interval over images, to first order.

    Args:
        clean: What each image contributes to P, float [N] (`image_influences`).
        corrupted: The same of mPC, the mean over the cells.
    """
    before, after = clean.double().mean(), corrupted.double().mean()
    if not before:
        return Interval(math.nan, math.nan, math.nan)
    ratio = after / before
    return bootstrap_mean(ratio + (corrupted - after - ratio * (clean - before)) / before, resamples=resamples)


def bootstrap_map(cells: Sequence[Records], *, level: float = 0.95, resamples: int = 1000, seed: int = 0) -> Interval:
    """Mean average precision (area), mean over cells of the same images; percentile interval from images redrawn.

    Every resample is evaluated whole. `bootstrap_mean` of `image_influences` gives nearly the same interval in a
    fraction of the time, and pairs with other models; this one lies a little higher, because images that are drawn
    twice raise the average precision.

    Args:
        cells: `detection_records` of the same images: one for clean, all corrupted ones for mPC.
    Raises:
        ArgumentError: For cells of different numbers of images.
    """
    counts = {len(records["objects"]) for records in cells}
    if len(counts) != 1:
        raise ArgumentError(f"cells hold {sorted(counts)} images; give cells of the same images")
    (number,) = counts
    drawn = torch.randint(number, (resamples, number), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(resamples, number, dtype=torch.float64)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    chunks = torch.split(weights, 50)  # a chunk's running counts stay small
    values = torch.stack([torch.cat([weighted_map(records, chunk) for chunk in chunks]) for records in cells]).mean(0)
    tail = (1 - level) / 2
    low, high = values[values.isfinite()].quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    ones = torch.ones(number, dtype=torch.float64)
    return Interval(torch.stack([weighted_map(records, ones) for records in cells]).mean().item(), low, high)
