"""Closed forms of fog, snow, frost and spatter; OpenCV and the benchmark's photographs as independent references."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adasap.corruptions import corrupt
from adasap.corruptions.blur import blur_axes
from adasap.corruptions.edges import distance, edges, equalize
from adasap.corruptions.frost_texture import LEVELS, PICTURES, SCALE, crops, textures, with_quantiles, with_spectrum
from adasap.corruptions.spatter import water_light
from adasap.corruptions.weather import plasma, snow_layer

CPU = torch.device("cpu")
NAMES = ("fog", "snow", "frost", "spatter")


def drops(height: int, width: int, sigma: float, seed: int = 0) -> Tensor:
    """An 8-bit map of drops, as spatter makes it, float [1, H, W]."""
    noise = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(seed))
    liquid = blur_axes(0.65 + 0.3 * noise, sigma)[:, 0]
    return liquid.where(liquid >= 0.68, 0).mul(255).floor().clamp(0, 255)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(5, 7), (1, 9), (33, 32), (70, 20)])
def test_takes_tiny_and_oblong_grey_images(name: str, size: tuple[int, int]) -> None:
    grey = torch.full((2, 3, *size), 90, dtype=torch.uint8)
    for constants in ("32", "224"):
        out = corrupt(grey, name, 3, constants=constants)
        assert out.shape == grey.shape


class TestFog:
    def test_cloud_spans_zero_to_one_on_a_torus(self) -> None:
        field = plasma(torch.arange(8), 64, 2.0)
        assert field.amin(dim=(1, 2)).eq(0).all()
        assert field.amax(dim=(1, 2)).eq(1).all()
        for dim in (1, 2):
            steps = (field - field.roll(1, dims=dim)).abs().transpose(1, dim).mean(dim=(0, 2))
            assert steps[0] < 2 * steps[1:].max()  # from the last row back to the first, as anywhere

    @pytest.mark.parametrize("decay", [1.5, 2.0, 3.0])
    def test_every_level_moves_the_middles_by_a_uniform_number_that_decays_twice(self, decay: float) -> None:
        def moved(field: Tensor) -> Tensor:
            corners = field[:, ::2, ::2]
            four = sum(corners.roll((-down, -right), dims=(1, 2)) for down in (0, 1) for right in (0, 1))
            return field[:, 1::2, 1::2] - four / 4

        field = plasma(torch.arange(8), 64, decay).double()
        fine, coarse = moved(field), moved(field[:, ::2, ::2])
        for level in (fine, coarse):
            share = level.std(dim=(1, 2)) / level.abs().amax(dim=(1, 2))
            torch.testing.assert_close(share, torch.full_like(share, 3**-0.5), rtol=0.12, atol=0)
        ratio = coarse.abs().amax(dim=(1, 2)) / fine.abs().amax(dim=(1, 2))
        torch.testing.assert_close(ratio, torch.full_like(ratio, decay**2), rtol=0.05, atol=0)

    def test_a_flat_image_lies_between_its_own_value_and_that_dimmed(self) -> None:
        grey = torch.full((3, 3, 64, 64), 200, dtype=torch.uint8)
        out = corrupt(grey, "fog", 3, constants="64")  # strength 1
        value = 200 / 255
        assert out.amax(dim=(1, 2, 3)).tolist() == [200] * 3
        assert out.amin(dim=(1, 2, 3)).tolist() == [math.floor(255 * value**2 / (value + 1))] * 3

    def test_brightens_a_dark_image_with_a_bright_spot(self) -> None:
        image = torch.full((1, 3, 40, 40), 10, dtype=torch.uint8)
        image[:, :, 5, 5] = 255
        assert corrupt(image, "fog", 2).float().mean() > 1.5 * image.float().mean()


class TestSnow:
    def test_the_layer_has_the_mean_of_the_normal_tail(self) -> None:
        mean, deviation, threshold = 0.1, 0.2, 0.5  # severity 2 at 32 pixels, no enlargement
        z = (threshold - mean) / deviation
        share = 0.5 * math.erfc(z / 2**0.5)
        tail = mean * share + deviation * math.exp(-(z**2) / 2) / (2 * math.pi) ** 0.5 - share * 0.5 / 255
        layer = snow_layer((64, 64), 2, torch.arange(64), "32")
        assert layer.mean().item() == pytest.approx(tail, rel=0.03)

    def test_is_added_twice_once_turned_by_half_a_circle(self) -> None:
        out = corrupt(torch.zeros(2, 3, 48, 40, dtype=torch.uint8), "snow", 1)
        assert torch.equal(out, out.flip(2, 3))
        assert out.unique().min().item() == math.floor(255 * 0.05 * 0.5)  # where no flake fell: whitened only

    def test_streaks_run_downwards(self) -> None:
        layer = snow_layer((224, 224), 5, torch.arange(8), "224")
        along = (layer[:, :, 4:] - layer[:, :, :-4]).square().mean()
        across = (layer[..., 4:] - layer[..., :-4]).square().mean()
        assert along < 0.7 * across


class TestSpatter:
    @pytest.mark.parametrize(("height", "width", "sigma"), [(80, 61, 0.7), (61, 120, 2.0), (90, 90, 4.0), (5, 7, 1.0)])
    def test_edges_distances_and_light_equal_those_of_opencv(self, height: int, width: int, sigma: float) -> None:
        cv2 = pytest.importorskip("cv2")
        for seed in range(5):
            liquid = drops(height, width, sigma, seed)
            reference = liquid[0].numpy().astype(np.uint8)
            outline = cv2.Canny(reference, 50, 150)
            np.testing.assert_array_equal(edges(liquid)[0].numpy(), outline > 0)
            depth = np.minimum(cv2.distanceTransform(255 - outline, cv2.DIST_L2, 5), 20)
            np.testing.assert_allclose(distance(torch.from_numpy(outline > 0)[None])[0] / 10_000, depth, atol=1e-5)
            flat = cv2.equalizeHist(cv2.blur(depth, (3, 3)).astype(np.uint8))
            kernel = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
            light = cv2.blur(cv2.filter2D(flat, cv2.CV_8U, kernel), (3, 3)).astype(np.float32) * reference
            np.testing.assert_allclose(water_light(liquid)[0], light / max(light.max(), 1), atol=1e-6)

    def test_edges_of_noise_equal_those_of_opencv(self) -> None:
        cv2 = pytest.importorskip("cv2")
        noise = np.random.default_rng(0).integers(0, 60, (3, 90, 120)).astype(np.uint8)
        ours = edges(torch.from_numpy(noise).float(), 100, 180)
        for own, picture in zip(ours, noise, strict=True):
            np.testing.assert_array_equal(own.numpy(), cv2.Canny(picture, 100, 180) > 0)

    def test_distances_to_one_point_are_those_of_the_chamfer_norm(self) -> None:
        point = torch.zeros(1, 15, 17, dtype=torch.bool)
        point[0, 4, 5] = True
        rows, columns = (torch.arange(15) - 4).abs()[:, None], (torch.arange(17) - 5).abs()
        long, short = torch.maximum(rows, columns), torch.minimum(rows, columns)
        flat = (long - 2 * short) * 10_000 + short * 21_969
        steep = (2 * short - long) * 14_000 + (long - short) * 21_969
        wanted = torch.where(long >= 2 * short, flat, steep).float()
        assert torch.equal(distance(point, limit=60)[0], wanted)
        assert torch.equal(distance(point, limit=5)[0], wanted.clamp(max=50_000))

    def test_equalised_values_are_shares_of_the_pixels(self) -> None:
        maps = torch.tensor([[[0.0, 0, 1, 1, 3]], [[2.0, 2, 2, 2, 2]]])
        assert equalize(maps, 4).tolist() == [[[0, 0, 170, 170, 255]], [[2, 2, 2, 2, 2]]]

    def test_no_liquid_means_no_light(self) -> None:
        assert water_light(torch.zeros(2, 9, 9)).eq(0).all()

    def test_mud_is_brown_and_water_only_brightens(self) -> None:
        image = torch.full((4, 3, 64, 64), 200, dtype=torch.uint8)
        mud = corrupt(image, "spatter", 5, constants="32")
        brown = torch.tensor([63, 42, 20]).view(1, 3, 1, 1)
        is_mud = (mud != image).any(dim=1)
        assert 0.02 < is_mud.float().mean() < 0.2
        cover = (200 - mud.float()) / (200 - brown)
        assert cover.movedim(1, -1)[is_mud].min() > 0.79
        assert cover.max() <= 1.01
        water = corrupt(image, "spatter", 3, constants="32")
        assert (water >= image).all()
        assert (water > image).any(dim=1).float().mean() > 0.1


class TestFrost:
    def test_pictures_have_the_stated_colours(self) -> None:
        full = textures(1.0, CPU).double()
        for picture, ice in zip(full, dict.fromkeys(PICTURES), strict=True):
            assert picture.mean(dim=(1, 2)).tolist() == pytest.approx(ice.mean, abs=1)
            deviation = [math.hypot(main, second) for main, second in zip(ice.main, ice.second, strict=True)]
            assert picture.std(dim=(1, 2)).tolist() == pytest.approx(deviation, abs=1)

    def test_every_picture_is_drawn_as_often_as_its_photograph(self) -> None:
        mean = crops((12, 12), torch.arange(2000), "32").mean(dim=(2, 3)) * 255
        stated = torch.tensor([ice.mean for ice in dict.fromkeys(PICTURES)])
        teal = (mean[:, 2] - mean[:, 0]) > 60
        assert teal.float().mean().item() == pytest.approx(0.2, abs=0.04)
        white = (mean - stated[1]).abs().amax(dim=1) < 22
        assert white.float().mean().item() == pytest.approx(0.4, abs=0.06)

    def test_image_and_ice_are_added_with_the_stated_weights(self) -> None:
        images, seeds = torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.tensor([4, 8, 15])
        ice = crops((32, 32), seeds, "32")
        out = corrupt(images, "frost", 5, seeds=seeds)
        assert torch.equal(out, (ice * 0.45 * 255 + 1e-4).to(torch.uint8))
        assert not torch.equal(ice[0], ice[1])

    def test_images_larger_than_the_picture_get_a_larger_one(self) -> None:
        assert crops((40, 700), torch.arange(1), "32").shape == (1, 3, 40, 700)

    def test_quantiles_and_spectrum_become_the_stated_ones(self) -> None:
        noise = torch.randn(480, 640, generator=torch.Generator().manual_seed(0))
        wanted = torch.tensor(PICTURES[0].quantiles)
        got = with_quantiles(noise, PICTURES[0].quantiles).flatten().sort().values
        got = got[(torch.tensor(LEVELS) * (len(got) - 1)).long()]
        assert torch.corrcoef(torch.stack([got, wanted]))[0, 1] > 0.9999  # moved to mean 0 and deviation 1 afterwards
        powers = (3.0, 2.0, 1.0, 0.0, -0.5, -1.0, -1.5, -2.0)
        shaped = with_spectrum(noise, powers)
        density = torch.fft.fft2(shaped).abs().square() / shaped.numel()
        radius = torch.hypot(torch.fft.fftfreq(480)[:, None], torch.fft.fftfreq(640)[None])
        for power, octave in zip(powers[2:], range(6, 0, -1), strict=True):
            ring = (radius.log2() + octave).abs() < 0.06
            assert density[ring].mean().log10().item() == pytest.approx(power, abs=0.1)

    @pytest.mark.slow
    def test_pictures_are_the_same_in_every_process(self) -> None:
        code = (
            "import hashlib, torch; from adasap.corruptions.frost_texture import textures;"
            "print(hashlib.sha256(textures(0.2, torch.device('cpu')).numpy().tobytes()).hexdigest())"
        )
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        assert hashlib.sha256(textures(0.2, CPU).numpy().tobytes()).hexdigest() == other

    @pytest.mark.parametrize("constants", ["32", "224"])
    def test_crops_have_the_statistics_of_the_benchmarks_photographs(self, constants: str) -> None:
        cv2, peer = pytest.importorskip("cv2"), pytest.importorskip("imagecorruptions")
        scale, side = SCALE[constants], 32 if constants == "32" else 160
        for picture, name in zip(textures(scale, CPU), ("1.png", "2.png", "4.jpg", "5.jpg"), strict=True):
            photo = cv2.imread(str(Path(peer.__file__).parent / "frost" / f"frost{name}"))[..., ::-1]
            method = cv2.INTER_LINEAR if scale < 1 else cv2.INTER_CUBIC
            photo = cv2.resize(photo.copy(), (0, 0), fx=scale, fy=scale, interpolation=method)
            ours, theirs = picture.permute(1, 2, 0).numpy().astype(float), photo.astype(float)
            assert ours.mean(axis=(0, 1)) == pytest.approx(theirs.mean(axis=(0, 1)), abs=2.5)
            assert ours.std(axis=(0, 1)) == pytest.approx(theirs.std(axis=(0, 1)), rel=0.08)
            own, photos = crop_statistics(ours.mean(-1), side), crop_statistics(theirs.mean(-1), side)
            assert own[0] == pytest.approx(photos[0], rel=0.2)
            assert 10 * np.log10(own[1:] / photos[1:]) == pytest.approx(0, abs=3)


def crop_statistics(picture: np.ndarray, side: int) -> np.ndarray:
    """Mean deviation within a crop, then its power density in octaves from 2 to side / 4 waves per side."""
    generator = np.random.default_rng(0)
    window = np.hanning(side)[:, None] * np.hanning(side)
    power, deviation = np.zeros((side, side)), 0.0
    for _ in range(40):
        top, left = (generator.integers(0, length - side + 1) for length in picture.shape)
        crop = picture[top : top + side, left : left + side]
        power += np.abs(np.fft.fft2((crop - crop.mean()) * window)) ** 2 / 40
        deviation += crop.std() / 40
    waves = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)) * side
    octaves = [power[(waves >= low) & (waves < 2 * low)].mean() for low in (2, 4, 8, 16, 32) if low <= side / 4]
    return np.array([deviation, *octaves])
