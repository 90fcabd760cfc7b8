"""The blurs are the linear maps, or the scan, that they claim to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from adasap.corruptions import corrupt
from adasap.corruptions.blur import DISK_RADIUS_AND_ALIAS_SIGMA, defocus_blur, disk_kernel
from adasap.corruptions.glass import scan_sources
from adasap.corruptions.motion import line_offsets, motion_blur_by_angle, motion_kernel
from adasap.corruptions.protocol import Constants
from adasap.corruptions.shifts import beyond_border, shifted_sum
from adasap.corruptions.zoom import centre_zoom, zoom_blur, zoom_factors

BLURS = ("gaussian_blur", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur")


def noise(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", BLURS)
@pytest.mark.parametrize("constants", ["32", "64", "224"])
def test_a_flat_image_stays_as_it_is(name: str, constants: Constants) -> None:
    grey = torch.full((1, 3, 50, 40), 100, dtype=torch.uint8)
    for severity in range(1, 6):
        brightening = 1.0
        if name == "defocus_blur":
            brightening = disk_kernel(*DISK_RADIUS_AND_ALIAS_SIGMA[constants][severity - 1]).double().sum().item()
        wanted = math.floor(100 * brightening + 1e-3)
        assert corrupt(grey, name, severity, constants=constants).unique().tolist() == [wanted]


@pytest.mark.parametrize(("border", "mode"), [("repeated", "nearest"), ("mirrored", "mirror")])
def test_shifted_sums_are_scipys_correlation(border: str, mode: str) -> None:
    weights = noise(5, 9)
    offsets = {(row - 2, column - 4): weights[row, column].item() for row in range(5) for column in range(9)}
    for shape in ((12, 13), (3, 2), (1, 7)):
        image = noise(*shape)
        wanted = ndimage.correlate(image.numpy().astype(float), weights.numpy().astype(float), mode=mode)
        assert np.abs(shifted_sum(image, offsets, border=border).numpy() - wanted).max() < 1e-5


def test_mirroring_goes_to_and_fro_where_the_image_is_small() -> None:
    assert beyond_border(torch.tensor([[0, 1, 2]]), (0, 0), (5, 5), border="mirrored").tolist() == [
        [1, 0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2, 1]
    ]


class TestDefocus:
    def test_a_hard_disk_is_flat_and_round(self) -> None:
        kernel = disk_kernel(3, 0.1)
        inside = kernel > 1e-9
        assert inside.sum() == 29  # whole points within 3 of the middle
        assert kernel[inside].numpy() == pytest.approx(1 / 29, rel=1e-6)

    @pytest.mark.parametrize(("radius", "total"), [(3, 1.0), (4, 1.0), (6, 1.0), (8, 1.0130), (10, 1.0108)])
    def test_sums_of_the_kernels(self, radius: float, total: float) -> None:
        kernel = disk_kernel(radius, 0.5)
        assert kernel.sum().item() == pytest.approx(total, abs=1e-4)
        assert torch.allclose(kernel, kernel.T)
        assert torch.allclose(kernel, kernel.flip(0))

    @pytest.mark.parametrize("severity", [1, 3, 5])
    def test_both_ways_to_convolve_are_scipys_correlation(self, severity: int) -> None:
        image = noise(1, 3, 37, 26)
        kernel = disk_kernel(*DISK_RADIUS_AND_ALIAS_SIGMA["224"][severity - 1])
        wanted = ndimage.correlate(image[0, 1].numpy().astype(float), kernel.numpy().astype(float), mode="mirror")
        out = defocus_blur(image, severity, torch.zeros(1, dtype=torch.int64), "224")[0, 1]
        assert np.abs(out.numpy() - wanted.clip(0, 1)).max() < 2e-6


class TestMotion:
    def test_weights_fall_and_sum_to_one(self) -> None:
        weights = motion_kernel(10, 3)
        assert (len(weights), sum(weights)) == (21, pytest.approx(1.0))
        assert weights == sorted(weights, reverse=True)
        assert weights[3] / weights[0] == pytest.approx(math.exp(-0.5))

    @pytest.mark.parametrize("angle_deg", [-135.0, -60.0, 0.0, 30.0])
    def test_a_point_becomes_the_line_backwards(self, angle_deg: float) -> None:
        point = torch.zeros(1, 1, 41, 41)
        point[..., 20, 20] = 1
        blurred = motion_blur_by_angle(point, 4, 2.0, torch.tensor([angle_deg]))[0, 0]
        wanted = torch.zeros(41, 41)
        for (down, right), weight in zip(line_offsets(9, angle_deg), motion_kernel(4, 2.0), strict=True):
            wanted[20 - down, 20 - right] += weight
        assert torch.allclose(blurred, wanted, atol=1e-7)

    def test_offsets_stay_within_half_a_pixel_of_the_line(self) -> None:
        for angle_deg in (-120.0, -45.0, 17.0):
            angle = math.radians(angle_deg)
            for step, (down, right) in enumerate(line_offsets(41, angle_deg)):
                assert abs(down - step * math.sin(angle)) <= 0.5 + 1e-9
                assert abs(right - step * math.cos(angle)) <= 0.5 + 1e-9

    def test_angles_spread_over_ninety_degrees(self) -> None:
        """A vertical edge is washed out by all; a horizontal one by steep lines, upwards or downwards."""
        edge = torch.zeros(200, 3, 32, 32, dtype=torch.uint8)
        edge[:, :, 16:] = 200
        blurred = corrupt(edge, "motion_blur", 5)[:, 0, :, 0]
        bright_above, dark_below = blurred[:, 15] > 5, blurred[:, 16] < 195
        assert 0.35 < bright_above.float().mean() < 0.55
        assert 0.35 < dark_below.float().mean() < 0.55
        assert not (bright_above & dark_below).any()


class TestZoom:
    @pytest.mark.parametrize("shape", [(224, 224), (37, 50), (5, 7), (1, 3)])
    @pytest.mark.parametrize("factor", [1.0, 1.05, 1.3])
    def test_enlarging_is_scipys_zoom_of_the_middle(self, shape: tuple[int, int], factor: float) -> None:
        image = noise(*shape)
        crops = [math.ceil(side / factor) for side in shape]
        top, left = ((side - crop) // 2 for side, crop in zip(shape, crops, strict=True))
        middle = image[top : top + crops[0], left : left + crops[1]].numpy()
        wanted = ndimage.zoom(middle, factor, order=1)[: shape[0], : shape[1]]
        assert np.abs(centre_zoom(image[None, None], factor)[0, 0].numpy() - wanted).max() < 1e-4

    @pytest.mark.parametrize(("stop", "step"), [(1.11, 0.01), (1.21, 0.02), (1.31, 0.03), (1.06, 0.01)])
    def test_factors_are_numpys_range(self, stop: float, step: float) -> None:
        assert zoom_factors(stop, step) == np.arange(1, stop, step).tolist()

    def test_a_ramp_is_flattened_about_its_middle(self) -> None:
        ramp = torch.linspace(0, 1, 101).expand(1, 3, 101, 101)
        out = zoom_blur(ramp, 5, torch.zeros(1, dtype=torch.int64), "32")[0, 0, 50]
        factors = zoom_factors(1.26, 0.01)
        slope = (1 + sum(1 / factor for factor in factors)) / (len(factors) + 1)
        assert (out[90] - out[10]).item() / 0.8 == pytest.approx(slope, rel=0.02)


class TestGlass:
    @pytest.mark.parametrize(("height", "width", "reach"), [(32, 32, 1), (23, 17, 2), (40, 31, 4), (5, 4, 4)])
    def test_following_the_copies_is_the_scan(self, height: int, width: int, reach: int) -> None:
        moves = torch.randint((2 * reach) ** 2, (1, height * width), generator=torch.Generator().manual_seed(1))
        pixels = np.arange(height * width).reshape(height, width)
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                move = moves[0, row * width + column].item()
                down, right = move // (2 * reach) - reach, move % (2 * reach) - reach
                pixels[row, column] = pixels[row + down, column + right]
        assert scan_sources(moves, height, width, reach)[0].tolist() == pixels.flatten().tolist()

    def test_without_blur_every_pixel_is_one_from_nearby_and_the_border_stays(self) -> None:
        image = torch.arange(32 * 32).view(1, 1, 32, 32)
        image = torch.cat([image // 32, image % 32, image * 0], dim=1).to(torch.uint8)
        out = corrupt(image, "glass_blur", 1, constants="32")
        moved = image.int() - out.int()
        assert torch.equal(moved[0, :2].unique(), torch.tensor([0, 1], dtype=torch.int32))
        assert 0.7 < moved[0, :2, 2:, 2:].any(dim=0).float().mean() < 0.8
        assert not moved[:, :, :2].any()
        assert not moved[:, :, :, :2].any()
