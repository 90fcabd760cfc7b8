"""What every corruption must do, and the closed forms of the simple ones."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from adasap.corruptions import BENCHMARK, CORRUPTIONS, VALIDATION, constants_for, corrupt
from adasap.corruptions.draws import integers, normal, random_words, uniform
from adasap.corruptions.protocol import Constants
from adasap.errors import DataError
from adasap.testing import CorruptionContract
from adasap.testing.corruption import photos


class TestEveryCorruption(CorruptionContract):
    @pytest.fixture(params=sorted(CORRUPTIONS))
    def corruption(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    def rising(self, corruption: str) -> tuple[Sequence[int], Constants]:
        # Glass: blurring takes back part of what copied pixels change; only severity 3 of 224 surely beats severity 1.
        # Frost and spatter: from 3 to 5 the benchmark's own change falls (more ice on less image; mud for water).
        constants: Constants = "224" if corruption in ("glass_blur", "elastic_transform") else "32"
        # The first two severities of saturate take colour away, the others add to it.
        some = {"saturate": (3, 4, 5), **dict.fromkeys(("glass_blur", "frost", "spatter"), (1, 3))}
        return some.get(corruption, (1, 3, 5)), constants


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.gpu
@pytest.mark.parametrize("side", [32, 64, 160])
def test_cpu_and_gpu_differ_by_one_step_of_256_at_most(name: str, side: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    images = photos(3, side)
    for severity in (1, 3, 5):
        on_gpu = corrupt(images.cuda(), name, severity)
        assert on_gpu.is_cuda
        assert (on_gpu.cpu().int() - corrupt(images, name, severity).int()).abs().max() <= 1


def test_new_threads_start_with_the_processs_number() -> None:
    threads = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            corrupt(photos(3, 224), "fog", 4)
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(torch.get_num_threads).result() == number
    finally:
        torch.set_num_threads(threads)


def test_severities_outside_one_to_five_are_refused() -> None:
    with pytest.raises(DataError, match="whole number from 1 to 5"):
        corrupt(photos(), "fog", 6)


def test_contrast_pulls_towards_the_mean_colour() -> None:
    images = torch.tensor([100, 200], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert corrupt(images, "contrast", 2, constants="32").flatten().tolist()[:2] == [125, 175]


def test_noise_has_the_stated_deviation() -> None:
    grey = torch.full((8, 3, 64, 64), 128, dtype=torch.uint8)
    noise = corrupt(grey, "gaussian_noise", 3, constants="32").float() / 255 - 128 / 255
    assert noise.std().item() == pytest.approx(0.08, rel=0.01)


def test_blur_of_a_point_is_the_gaussian() -> None:
    point = torch.zeros(1, 3, 33, 33, dtype=torch.uint8)
    point[:, :, 16, 16] = 255
    blurred = corrupt(point, "gaussian_blur", 1, constants="224")[0, 0].float() / 255
    assert blurred[16, 16].item() == pytest.approx(1 / (2 * np.pi), abs=2 / 255)
    assert blurred[16, 18].item() == pytest.approx(np.exp(-2) / (2 * np.pi), abs=2 / 255)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match="did you mean 'gaussian_blur'"):
        corrupt(photos(), "gausian_blur", 1)


def test_reported_and_validation_corruptions_are_kept_apart() -> None:
    assert (len(BENCHMARK), len(VALIDATION)) == (15, 4)
    assert not set(BENCHMARK) & set(VALIDATION)
    assert constants_for(224, 300) == "224"


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["gaussian_blur", "contrast"])
def test_deterministic_corruptions_equal_the_benchmarks_own(name: str, shared_data: Path) -> None:
    with np.load(shared_data / "cifar10c_reference" / "reference.npz") as file:
        clean, reference = torch.from_numpy(file["clean"]), torch.from_numpy(file[name])
    for severity in range(1, 6):
        ours = corrupt(clean.permute(0, 3, 1, 2), name, severity).permute(0, 2, 3, 1)
        difference = (ours.float() - reference[severity - 1].float()).abs().mean().item()
        assert difference <= 2.0


class TestDraws:
    def test_words_are_those_of_splitmix64(self) -> None:
        def mixed(word: int) -> int:
            word &= 2**64 - 1
            word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
            word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
            return word ^ (word >> 31)

        key = mixed(mixed(5) ^ int.from_bytes(b"noise", "little"))
        wanted = [mixed(key + step * 0x9E3779B97F4A7C15) for step in (1, 2, 3)]
        assert [word % 2**64 for word in random_words(torch.tensor([5]), "noise", 3)[0].tolist()] == wanted

    def test_numbers_have_the_distribution_they_claim(self) -> None:
        seeds = torch.arange(40)
        flat, bell = uniform(seeds, "a", (5001,)), normal(seeds, "a", (5001,))
        grid = torch.linspace(0, 1, 101)
        share = (flat.flatten()[:, None] <= grid).double().mean(dim=0)
        assert (share - grid).abs().max() < 1.63 / flat.numel() ** 0.5  # Kolmogorov and Smirnov, 1 %
        cumulated = torch.special.ndtr(bell.flatten().double())
        share = (cumulated[:, None] <= grid).double().mean(dim=0)
        assert (share - grid).abs().max() < 1.63 / bell.numel() ** 0.5
        assert integers(seeds, "b", (5000,), 3).flatten().bincount().tolist() == pytest.approx([66667] * 3, rel=0.01)

    def test_purposes_and_seeds_are_independent(self) -> None:
        seeds = torch.arange(2)
        numbers = torch.cat([normal(seeds, "a", (20_000,)), normal(seeds, "b", (20_000,))])
        assert (torch.corrcoef(numbers) - torch.eye(4)).abs().max() < 0.03
