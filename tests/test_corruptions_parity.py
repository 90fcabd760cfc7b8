"""The corruptions beside the benchmark authors' own arrays (32 pixels) and imagecorruptions-imaug (224 pixels)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import parity
from adasap.corruptions import BENCHMARK, CORRUPTIONS, VALIDATION, corrupt
from test_corruptions import photos

RANDOM = sorted({*BENCHMARK, *VALIDATION} - parity.DETERMINISTIC)


@pytest.mark.shared_data
@pytest.mark.parametrize("name", sorted(parity.DETERMINISTIC))
def test_deterministic_corruptions_equal_the_benchmarks_own(name: str, shared_data: Path) -> None:
    clean, theirs, _ = parity.reference(shared_data, name)
    for severity in range(1, 6):
        difference = (corrupt(clean, name, severity).float() - theirs[severity - 1].float()).abs().mean().item()
        assert difference <= parity.MAX_DIFFERENCE_LEVELS


@pytest.mark.parametrize("name", sorted(parity.DETERMINISTIC))
def test_deterministic_corruptions_equal_the_peers_at_224(name: str) -> None:
    clean = photos(1, 224)
    for severity in (1, 3, 5):
        difference = (corrupt(clean, name, severity).float() - parity.peer(clean, name, severity).float()).abs().mean()
        assert difference <= parity.MAX_DIFFERENCE_LEVELS


@pytest.mark.shared_data
@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_distribution_of_the_benchmarks_own(name: str, shared_data: Path) -> None:
    clean, theirs, _ = parity.reference(shared_data, name)
    for severity in (1, 3, 5):
        row = parity.compared(clean, corrupt(clean, name, severity), theirs[severity - 1])
        assert row["std_of_change"] == pytest.approx(row["std_of_change_theirs"], rel=0.15)
        assert row["mean_of_change"] == pytest.approx(row["mean_of_change_theirs"], abs=0.5 + 3 * row["mean_error"])
        assert row["spectrum_decades_apart"] <= 0.3


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_random_corruptions_have_the_distribution_of_the_peers_at_224(name: str) -> None:
    clean = photos(8, 224)
    for severity in (1, 5):
        np.random.seed(severity)  # noqa: NPY002 the peer draws from it
        row = parity.compared(clean, corrupt(clean, name, severity), parity.peer(clean, name, severity))
        assert row["std_of_change"] == pytest.approx(row["std_of_change_theirs"], rel=0.25)
        assert row["mean_of_change"] == pytest.approx(row["mean_of_change_theirs"], abs=1 + 3 * row["mean_error"])
        assert row["spectrum_decades_apart"] <= 0.5


@pytest.mark.slow
@pytest.mark.shared_data
def test_corruptions_cost_the_accuracy_that_the_benchmarks_own_do(shared_data: Path) -> None:
    """Over three seeds; `benchmarks/corruptions_parity.py` takes ten."""
    model, gaps = parity.resnet20(shared_data), {}
    for name in (*BENCHMARK, *VALIDATION):
        result = parity.accuracy_gap(model, shared_data, name, num_seeds=min(3, parity.num_seeds(name)))
        gaps[name] = result["ours"] - result["theirs"]
        assert abs(gaps[name]) <= parity.points_allowed(name, result["error"]), name
    assert abs(sum(gaps.values()) / len(gaps)) <= parity.MAX_MEAN_POINTS


def test_spectrum_of_white_noise_is_flat() -> None:
    noise = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 10
    assert parity.spectrum(noise).tolist() == pytest.approx([100] * 8, rel=0.1)


def test_all_19_are_registered() -> None:
    assert len({*BENCHMARK, *VALIDATION}) == 19
    assert set(CORRUPTIONS) >= {*BENCHMARK, *VALIDATION}
