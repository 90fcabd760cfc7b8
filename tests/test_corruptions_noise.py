"""The noises have the distributions that they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from adasap.corruptions import corrupt
from adasap.corruptions.noise import IMPULSE_SHARE, SHOT_PHOTONS, SPECKLE_STD, poisson_alias_tables, shot_noise
from adasap.corruptions.protocol import Constants


def flat(level: int, *, count: int = 8, side: int = 64) -> torch.Tensor:
    return torch.full((count, 3, side, side), level, dtype=torch.uint8)


@pytest.mark.parametrize("full", [3, 60, 500])
def test_alias_tables_hold_the_poisson_distribution(full: int) -> None:
    thresholds, others = (table.double().numpy() for table in poisson_alias_tables(full))
    num_columns = thresholds.shape[1]
    for level in (0, 1, 100, 255):
        share = thresholds[level].copy()
        np.add.at(share, others[level].astype(int), 1 - thresholds[level])
        wanted = stats.poisson.pmf(np.arange(num_columns), level / 255 * full)
        wanted[full] = stats.poisson.sf(full - 1, level / 255 * full)
        wanted[full + 1 :] = 0
        assert np.abs(share / num_columns - wanted).max() < 1e-7


@pytest.mark.parametrize("constants", ["32", "224"])
def test_shot_noise_counts_photons(constants: Constants) -> None:
    """Mean and variance of Poisson(rate) / full, below saturation; whole numbers of photons and no others."""
    full = SHOT_PHOTONS[constants][0]
    photons = shot_noise(flat(80).float() / 255, 1, torch.arange(8), constants).double() * full
    assert torch.allclose(photons, photons.round(), rtol=0, atol=1e-4)
    rate = 80 / 255 * full
    error = (rate / photons.numel()) ** 0.5
    assert photons.mean().item() == pytest.approx(rate, abs=4 * error)
    assert photons.var().item() == pytest.approx(rate, rel=0.03)


def test_black_stays_black_under_noise_that_multiplies_or_counts() -> None:
    for name in ("shot_noise", "speckle_noise"):
        assert corrupt(flat(0), name, 5).max() == 0


@pytest.mark.parametrize("severity", [1, 5])
def test_impulses_are_black_or_white_half_each_and_no_other_value_moves(severity: int) -> None:
    noisy = corrupt(flat(128), "impulse_noise", severity, constants="224")
    share = IMPULSE_SHARE["224"][severity - 1]
    counts = torch.bincount(noisy.flatten().long(), minlength=256).double() / noisy.numel()
    assert counts[0].item() == pytest.approx(share / 2, abs=4 * (share / 2 / noisy.numel()) ** 0.5)
    assert counts[255].item() == pytest.approx(share / 2, abs=4 * (share / 2 / noisy.numel()) ** 0.5)
    assert counts[[0, 128, 255]].sum().item() == pytest.approx(1.0)


def test_speckles_grow_with_the_value() -> None:
    for level in (40, 80):
        noise = corrupt(flat(level), "speckle_noise", 2, constants="32").double() - level
        assert noise.std().item() == pytest.approx(SPECKLE_STD["32"][1] * level, rel=0.02)


def test_noise_of_different_corruptions_pixels_and_colours_is_unrelated() -> None:
    grey = flat(128, count=1, side=128)
    rows = [corrupt(grey, name, 1).double().view(3, -1) for name in ("gaussian_noise", "speckle_noise", "shot_noise")]
    related = torch.corrcoef(torch.cat(rows)) - torch.eye(9)
    assert related.abs().max() < 4.5 / 128
