"""Bootstrap intervals against SciPy, the normal distribution, and the coverage they promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from adasap.evaluation.statistics import bootstrap_mean, paired_difference

TRUE_DIFFERENCE = 0.70 - stats.norm(scale=0.2).expect(lambda e: np.clip(0.65 - e, 0, 1), lb=-2, ub=2)
"""Of a model right on hardness below 0.70 and one that sees hardness with an error and is right below 0.65."""


def test_bootstrap_interval_is_the_normal_one_for_many_images() -> None:
    scores = (torch.rand(2000, generator=torch.Generator().manual_seed(1)) < 0.7).float()
    interval = bootstrap_mean(scores, resamples=4000)
    error = scores.std().item() / 2000**0.5
    assert interval.value == pytest.approx(scores.mean().item())
    assert interval.low == pytest.approx(interval.value - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(interval.value + 1.96 * error, abs=0.15 * error)


def test_pairing_removes_what_both_models_share() -> None:
    base = (torch.rand(300, generator=torch.Generator().manual_seed(2)) < 0.5).float()
    better = base.clone()
    better[:6] = 1.0
    paired = paired_difference(better, base)
    alone = bootstrap_mean(better)
    assert paired.high - paired.low < 0.3 * (alone.high - alone.low)
    assert paired.value == pytest.approx((better - base).mean().item())


def test_degenerate_scores() -> None:
    assert bootstrap_mean(torch.ones(1)).low == 1.0
    with pytest.raises(ValueError, match="N > 0"):
        bootstrap_mean(torch.zeros(0))
    with pytest.raises(ValueError, match="same images: 3 against 4"):
        paired_difference(torch.zeros(3), torch.zeros(4))
    with pytest.raises(ValueError, match="1 of 3 scores are not finite"):
        bootstrap_mean(torch.tensor([0.0, float("nan"), 1.0]))
    with pytest.raises(ValueError, match="as a fraction between 0 and 1"):
        bootstrap_mean(torch.ones(2), level=95)


def test_the_paired_interval_is_scipys() -> None:
    generator = torch.Generator().manual_seed(3)
    base = torch.rand(400, 15, generator=generator).gt(0.5).double().mean(1)  # means over cells, as suites give them
    ours = (base + 0.1 * torch.rand(400, generator=generator) - 0.03).clamp(0, 1)
    found = paired_difference(ours, base, seed=5)
    wanted = stats.bootstrap(
        (ours.numpy(), base.numpy()),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        rng=np.random.default_rng(0),
        batch=1000,
    )
    low, high = wanted.confidence_interval
    # a 2.5 % quantile of 10,000 means has itself an error of sqrt(p (1 - p) / R) / density = 0.027 standard errors
    tolerance = 4 * 2**0.5 * 0.027 * wanted.standard_error
    assert found.low == pytest.approx(low, abs=tolerance)
    assert found.high == pytest.approx(high, abs=tolerance)


def test_the_order_of_pairs_matters_and_their_joint_order_does_not() -> None:
    generator = torch.Generator().manual_seed(4)
    base = torch.rand(200, generator=generator)
    ours = base + 0.01 * torch.rand(200, generator=generator)
    order = torch.randperm(200, generator=generator)
    together, apart = paired_difference(ours[order], base[order]), paired_difference(ours[order], base)
    paired = paired_difference(ours, base)
    assert together.value == pytest.approx(paired.value)
    assert together.high - together.low == pytest.approx(paired.high - paired.low, rel=0.05)
    assert apart.high - apart.low > 20 * (paired.high - paired.low)


def test_a_seed_draws_the_same_images_for_every_model() -> None:
    scores = torch.rand(50, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    one, other = bootstrap_mean(scores, seed=1), bootstrap_mean(0.5 * scores + 0.25, seed=1)
    assert (other.low, other.high) == pytest.approx((0.5 * one.low + 0.25, 0.5 * one.high + 0.25), abs=1e-12)
    assert bootstrap_mean(scores, seed=1) == one
    assert bootstrap_mean(scores, seed=2) != one


def test_drawing_in_parts_gives_the_numbers_of_drawing_at_once() -> None:
    scores = torch.rand(1500, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    drawn = torch.randint(1500, (600, 1500), generator=torch.Generator().manual_seed(9))
    wanted = scores[drawn].mean(dim=1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    interval = bootstrap_mean(scores, resamples=600, seed=9)
    assert (interval.low, interval.high) == pytest.approx(wanted.tolist(), rel=1e-12)


@pytest.mark.parametrize("images", [7, 60_000])
def test_means_are_of_images_drawn_with_replacement(images: int) -> None:
    # also where a resample is larger than what is drawn at a time
    scores = torch.arange(images, dtype=torch.float64) / images
    interval = bootstrap_mean(scores, resamples=500)
    error = scores.std(correction=0).item() / images**0.5
    assert (interval.high - interval.low) / error == pytest.approx(2 * 1.96, rel=0.15)


@pytest.mark.slow
def test_a_95_percent_interval_covers_the_true_difference_95_percent_of_the_time() -> None:
    rng, trials, images = np.random.default_rng(0), 1000, 200
    covered = 0
    for _ in range(trials):
        hardness = rng.uniform(size=images)
        ours = torch.from_numpy((hardness < 0.70).astype(np.float64))
        base = torch.from_numpy((hardness + rng.normal(scale=0.2, size=images) < 0.65).astype(np.float64))
        interval = paired_difference(ours, base, resamples=1000)
        covered += interval.low <= TRUE_DIFFERENCE <= interval.high
    # three binomial standard deviations are 2.1 points; percentile intervals fall a little short for few images
    assert 0.92 <= covered / trials <= 0.97
