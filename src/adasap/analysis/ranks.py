"""Do two measures order the channels alike, and are the channels that go flatter than those that stay?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from scipy.stats import rankdata

MEASURES = ("damage", "predicted", "slope", "curvature", "trace")
"""What is known of each channel, beside its importance."""

Row = Mapping[str, Any]
"""One channel: `group`, `channel`, `goes`, the measures, and `importance` by criterion."""


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's coefficient, ties sharing their mean rank; None for fewer than three pairs or equal values.

    Example:
        >>> rank_correlation([1, 2, 3, 9], [1, 4, 9, 8])
        0.8
    """
    if len(first) < 3:
        return None
    ranks = [rankdata(values) - (len(values) + 1) / 2 for values in (first, second)]
    lengths = [float(np.sqrt((r * r).sum())) for r in ranks]
    return round(float((ranks[0] * ranks[1]).sum()) / (lengths[0] * lengths[1]), 12) if all(lengths) else None


def probability_below(first: Sequence[float], second: Sequence[float]) -> float | None:
    """P(a < b) + P(a = b) / 2 for a of the first and b of the second (Mann, Whitney 1947); None if one is empty.

    Example:
        >>> probability_below([1, 2], [2, 3])
        0.875
    """
    if not first or not second:
        return None
    ranks = rankdata([*first, *second])
    above = float(ranks[len(first) :].sum()) - len(second) * (len(second) + 1) / 2
    return above / (len(first) * len(second))


def channel_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Correlations of every measure with every importance and the radius, and those that go against those that stay.

    `pooled` ranks all channels together, `within` is the mean over groups, weighted by their channels: the radius
    rule and many criteria compare channels within a group only.
    """
    known = [row for row in rows if row["damage"] is not None]
    yardsticks = list(known[0]["importance"]) if known else []
    return {
        "channels": len(rows),
        "going": sum(row["goes"] for row in rows),
        "correlations": {
            measure: {
                yardstick: {
                    "pooled": rank_correlation(*_columns(known, measure, yardstick)),
                    "within": _within(known, measure, yardstick),
                }
                for yardstick in yardsticks
            }
            for measure in MEASURES
            if _has(known, measure)
        },
        "going_against_staying": {measure: _halves(known, measure) for measure in MEASURES if _has(known, measure)},
    }


def _has(rows: Sequence[Row], measure: str) -> bool:
    return bool(rows) and all(row.get(measure) is not None for row in rows)


def _columns(rows: Sequence[Row], measure: str, yardstick: str) -> tuple[list[float], list[float]]:
    return [row[measure] for row in rows], [row["importance"][yardstick] for row in rows]


def _within(rows: Sequence[Row], measure: str, yardstick: str) -> float | None:
    by_group: dict[str, list[Row]] = {}
    for row in rows:
        by_group.setdefault(row["group"], []).append(row)
    found = [(rank_correlation(*_columns(part, measure, yardstick)), len(part)) for part in by_group.values()]
    known = [(value, count) for value, count in found if value is not None and math.isfinite(value)]
    return sum(value * count for value, count in known) / sum(count for _, count in known) if known else None


def _halves(rows: Sequence[Row], measure: str) -> dict[str, float | None]:
    going, staying = ([row[measure] for row in rows if row["goes"] is goes] for goes in (True, False))
    return {
        "median_going": median(going) if going else None,
        "median_staying": median(staying) if staying else None,
        "probability_going_is_smaller": probability_below(going, staying),
    }
