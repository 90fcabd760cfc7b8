"""Closed forms of the digital corruptions, against colorsys, Pillow and SciPy."""

from __future__ import annotations

import colorsys
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from adasap.corruptions import corrupt
from adasap.corruptions.digital import shrink_columns
from adasap.corruptions.elastic import displaced, smooth_fields
from test_corruptions import photos

COLOURS = torch.tensor([[0, 0, 0], [255, 255, 255], [90, 90, 90], [255, 0, 0], [3, 200, 200], [17, 140, 80], [9, 0, 4]])


@pytest.mark.parametrize(("name", "change"), [("brightness", (1, 0, 0.3)), ("saturate", (2, 0.1, 0))])
def test_changes_hsv_as_stated(name: str, change: tuple[float, float, float]) -> None:
    factor, offset, added = change
    severity = {"brightness": 5, "saturate": 4}[name]
    out = corrupt(COLOURS.to(torch.uint8).T.reshape(1, 3, 1, -1), name, severity, constants="32")[0, :, 0].T
    for colour, got in zip(COLOURS.tolist(), out.tolist(), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*(level / 255 for level in colour))
        wanted = colorsys.hsv_to_rgb(h, min(1, s * factor + offset), min(1, v + added))
        assert got == pytest.approx([255 * part for part in wanted], abs=1)


@pytest.mark.parametrize(("size", "new"), [(32, 30), (41, 33), (224, 67), (100, 7), (5, 5), (9, 1)])
def test_box_means_are_pillows_to_the_bit(size: int, new: int) -> None:
    levels = torch.randint(0, 256, (size, 50), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    wanted = np.array(Image.fromarray(levels.numpy()).resize((50, new), Image.Resampling.BOX))
    assert torch.equal(shrink_columns(levels.float(), new), torch.from_numpy(wanted).float())


def test_jpeg_is_pillows_to_the_bit() -> None:
    image, file = photos(1, 41)[:, :, :23], BytesIO()
    Image.fromarray(image[0].permute(1, 2, 0).contiguous().numpy()).save(file, "JPEG", quality=40)
    wanted = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    assert torch.equal(corrupt(image, "jpeg_compression", 5, constants="32")[0], wanted)


def test_no_displacement_is_the_identity() -> None:
    images = photos(2, 33).float() / 255
    torch.testing.assert_close(displaced(images, torch.zeros(2, 2, 33, 33)), images, atol=1e-4, rtol=0)


def test_elastic_is_scipys_given_the_same_fields() -> None:
    image = photos(1, 30)[..., :24].float() / 255
    fields = torch.rand(1, 2, 30, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ours = smooth_fields(fields, 3.0, 2.0) * 20
    theirs = [gaussian_filter(field, (3.0, 2.0), mode="reflect", truncate=3) * 20 for field in fields[0].numpy()]
    torch.testing.assert_close(ours[0], torch.from_numpy(np.stack(theirs)), atol=1e-4, rtol=1e-4)
    rows, columns = np.mgrid[:30, :24]
    wanted = map_coordinates(image[0, 0].numpy(), [rows + theirs[1], columns + theirs[0]], order=1, mode="reflect")
    torch.testing.assert_close(displaced(image, ours)[0, 0], torch.from_numpy(wanted), atol=1e-4, rtol=1e-4)
