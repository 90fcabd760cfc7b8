"""Numbers over seeds, against SciPy and by hand; corrupted images kept on disk."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from adasap.data import DataSource, open_dataset
from adasap.evaluation import Cell, SuiteSource, kept_suite, open_suite
from adasap.evaluation.statistics import holm, mean_over_seeds, paired_over_seeds


def test_mean_and_interval_by_hand() -> None:
    """Tables give t(2) at 97.5 % as 4.302653; for two degrees of freedom it is (2 p - 1) / sqrt(2 p (1 - p))."""
    quantile = 0.95 / math.sqrt(2 * 0.975 * 0.025)
    assert quantile == pytest.approx(4.302653, abs=5e-7)
    found = mean_over_seeds([1.0, 2.0, 3.0])  # sd 1, error 1 / sqrt(3)
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(quantile / math.sqrt(3), rel=1e-12)
    assert 2.0 - found.low == pytest.approx(found.high - 2.0)


def test_the_paired_test_is_scipys() -> None:
    drawn = np.random.default_rng(0)
    values, baseline = drawn.normal(0.9, 0.02, 10), drawn.normal(0.88, 0.02, 10)
    found, theirs = paired_over_seeds(values.tolist(), baseline.tolist()), stats.ttest_rel(values, baseline)
    assert found.p_value == pytest.approx(theirs.pvalue, rel=1e-9)
    interval = theirs.confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.num_seeds == 10


def test_differences_that_do_not_spread() -> None:
    assert paired_over_seeds([0.5, 0.7], [0.5, 0.7]).p_value == 1.0
    assert paired_over_seeds([0.75, 1.0], [0.5, 0.75]).p_value == 1.0


def test_the_interval_covers_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(1)
    inside = [
        abs(found.value - 0.3) <= found.high - found.value
        for found in (mean_over_seeds(drawn.normal(0.3, 1.0, 3).tolist()) for _ in range(1000))
    ]
    assert 0.93 <= np.mean(inside) <= 0.97


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("values", [[], [1.0], [1.0, math.nan]])
def test_too_few_seeds_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="two finite numbers or more"):
        mean_over_seeds(values)


def test_unpaired_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="paired seeds are needed: 2 against 3"):
        paired_over_seeds([1.0, 2.0], [1.0, 2.0, 3.0])


def test_kept_corruptions_are_the_ones_made_on_the_fly(tmp_path: Path) -> None:
    images = open_dataset(DataSource("digits", count=7), "test")
    source = SuiteSource("corrupted", corruptions=("gaussian_noise", "contrast"), severities=(2, 5))
    suite = open_suite("corrupted", source, images)
    first, second = kept_suite(suite, tmp_path), kept_suite(suite, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert len(files) == 4
    assert first.cells == suite.cells
    for cell, found in suite.images_of.items():
        made = found.corrupted(found.images.images, torch.arange(7))
        assert second.images_of[cell].on_the_fly.is_clean
        assert torch.equal(second.images_of[cell].images.images, made)
        assert torch.equal(second.images_of[cell].images.labels, images.labels)
    assert {path: path.stat().st_mtime_ns for path in files} == files  # made once


def test_other_images_are_kept_elsewhere(tmp_path: Path) -> None:
    source = SuiteSource("corrupted", corruptions=("contrast",), severities=(3,))
    for first in (0, 5):
        images = open_dataset(DataSource("digits", first=first, count=5), "test")
        suite = open_suite("corrupted", source, images)
        kept = kept_suite(suite, tmp_path).images_of[Cell("contrast", 3)]
        made = suite.images_of[Cell("contrast", 3)].corrupted(images.images, torch.arange(5))
        assert torch.equal(kept.images.images, made)
