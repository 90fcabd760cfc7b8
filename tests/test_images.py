"""Image files become what a viewer shows: modes, depths, orientations, sizes, and files that are no images."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from adasap.data.decoding import Reading, decode_image, read_image_header
from adasap.data.orientation import ORIENTATIONS, inverse, turned_box
from adasap.errors import DataError

LEVELS = np.array([[0, 1000, 32768], [40000, 65000, 65535]], dtype=np.uint16)
SHOWN = [[0, 4, 128], [156, 253, 255]]  # v / 65535 * 255, rounded


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _png(path: Path, samples: np.ndarray[Any, Any], colour: int, *chunks: bytes) -> str:
    """A 16-bit PNG, written by hand: Pillow writes none in colour."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    parts = (header, *chunks, _chunk(b"IDAT", zlib.compress(rows)), _chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return str(path)


def _tiff(path: Path, samples: np.ndarray[Any, Any], photometric: int, *, order: str = "<", **tags: int) -> str:
    """A 16-bit TIFF of several samples per pixel, written by hand: Pillow writes none."""
    packed = tags.get("compression", 1) == 8
    height, width, channels = samples.shape
    planes = samples.transpose(2, 0, 1) if tags.get("planes") == 2 else samples[None]
    strips = [plane.astype(f"{order}u2").tobytes() for plane in planes]
    strips = [zlib.compress(strip) if packed else strip for strip in strips]
    body, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(body))
        body += strip + b"\0" * (len(strip) % 2)
    entries: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [16] * channels),
        259: (3, [8 if packed else 1]),
        262: (3, [photometric]),
        273: (4, offsets),
        274: (3, [tags.get("orientation", 1)]),
        277: (3, [channels]),
        278: (4, [height]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [tags.get("planes", 1)]),
    }
    if "extra" in tags:
        entries[338] = (3, [tags["extra"]])
    directory, place = struct.pack(f"{order}H", len(entries)), 8 + len(body)
    behind, start = b"", place + 2 + 12 * len(entries) + 4
    for tag, (kind, values) in sorted(entries.items()):
        content = struct.pack(f"{order}{len(values)}{'H' if kind == 3 else 'I'}", *values)
        if len(content) > 4:
            behind, content = behind + content, struct.pack(f"{order}I", start + len(behind))
        directory += struct.pack(f"{order}HHI", tag, kind, len(values)) + content.ljust(4, b"\0")
    magic = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, place)
    path.write_bytes(magic + body + directory + bytes(4) + behind)
    return str(path)


def _saved(path: Path, image: Image.Image, **options: Any) -> str:
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize(
    ("name", "image", "pixel"),
    [
        ("1.png", Image.new("1", (2, 2), 1), [255, 255, 255]),
        ("L.png", Image.new("L", (2, 2), 7), [7, 7, 7]),
        ("LA.png", Image.new("LA", (2, 2), (0, 51)), [204, 204, 204]),
        ("RGB.png", Image.new("RGB", (2, 2), (1, 2, 3)), [1, 2, 3]),
        ("RGBA.png", Image.new("RGBA", (2, 2), (255, 0, 0, 0)), [255, 255, 255]),
        ("RGBA.webp", Image.new("RGBA", (2, 2), (0, 0, 0, 0)), [255, 255, 255]),
        ("P.gif", Image.new("RGB", (2, 2), (200, 100, 50)).quantize(4), [200, 100, 50]),
        ("CMYK.jpg", Image.new("CMYK", (2, 2), (0, 255, 255, 0)), [254, 0, 0]),
        ("CMYK.tif", Image.new("CMYK", (2, 2), (0, 255, 255, 0)), [255, 0, 0]),
        ("YCbCr.tif", Image.new("YCbCr", (2, 2), (90, 128, 128)), [90, 90, 90]),
        ("LAB.tif", Image.new("LAB", (2, 2), (255, 128, 128)), [255, 255, 255]),
        ("1.tif", Image.new("1", (2, 2), 0), [0, 0, 0]),
    ],
)
def test_every_mode_becomes_the_colour_that_is_seen(
    tmp_path: Path, name: str, image: Image.Image, pixel: list[int]
) -> None:
    found = decode_image(_saved(tmp_path / name, image))
    assert found.dtype == torch.uint8
    assert found.shape == (3, 2, 2)
    assert (found[:, 0, 0].int() - torch.tensor(pixel)).abs().max() <= 1


def test_eight_bit_grey_and_colour_are_unchanged(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(decode_image(_saved(tmp_path / "c.png", Image.fromarray(pixels))).permute(1, 2, 0), pixels)
    grey = decode_image(_saved(tmp_path / "g.bmp", Image.fromarray(pixels[..., 0])))
    assert np.array_equal(grey, np.broadcast_to(pixels[..., 0], (3, 9, 7)))


def test_a_transparent_colour_of_a_png_is_seen_as_white(tmp_path: Path) -> None:
    path = _saved(tmp_path / "key.png", Image.new("RGB", (1, 1), (9, 8, 7)), transparency=(9, 8, 7))
    assert decode_image(path).flatten().tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_sixteen_bits_keep_their_range(tmp_path: Path, name: str) -> None:
    path = _saved(tmp_path / name, Image.fromarray(LEVELS))
    assert decode_image(path)[0].tolist() == SHOWN


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_per_colour_keep_their_range(tmp_path: Path, colour: int, channels: int) -> None:
    samples = np.repeat(LEVELS[..., None], channels, axis=2)
    if channels in (2, 4):
        samples[..., -1] = 65535
    found = decode_image(_png(tmp_path / "c.png", samples, colour))
    assert found.tolist() == [SHOWN] * 3


LOW_BYTES = np.array([[[0, 127, 129], [255, 256, 400]], [[500, 32768, 65407], [65408, 65534, 65535]]], dtype=np.uint16)
"""Levels whose low byte decides how they are rounded."""


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_sixteen_bits_per_colour_of_a_tiff_keep_their_low_bytes(tmp_path: Path, order: str, compression: int) -> None:
    path = _tiff(tmp_path / "c.tif", LOW_BYTES, 2, order=order, compression=compression)
    wanted = np.rint(LOW_BYTES / 257).astype(np.uint8)
    assert np.array_equal(decode_image(path).permute(1, 2, 0), wanted)
    path = _tiff(tmp_path / "turned.tif", LOW_BYTES[1:], 2, order=order, compression=compression, orientation=6)
    assert np.array_equal(decode_image(path)[:, :, 0].T, wanted[1])
    assert np.array_equal(decode_image(path, Reading(exif_orientation=False)).permute(1, 2, 0), wanted[1:])
    path = _tiff(tmp_path / "twelve.tif", LOW_BYTES[:1] * 4, 2, order=order, compression=compression)
    with pytest.raises(DataError, match=r"run from 0 to 1600, and nothing says which value is white; give `white`"):
        decode_image(path)
    found = decode_image(path, Reading(white=4095))
    assert np.array_equal(found.permute(1, 2, 0), np.rint(LOW_BYTES[:1] * (4 * 255 / 4095)))


@pytest.mark.parametrize("compression", [1, 8])
def test_transparency_and_inks_of_sixteen_bits_in_a_tiff(tmp_path: Path, compression: int) -> None:
    half = np.full((1, 1, 1), 32768, dtype=np.uint16)
    red = np.array([[[65535, 0, 0]]], dtype=np.uint16)
    straight = _tiff(tmp_path / "a.tif", np.concatenate([red, half], 2), 2, extra=2, compression=compression)
    laid = np.concatenate([red // 2, half], 2)
    multiplied = _tiff(tmp_path / "m.tif", laid, 2, extra=1, compression=compression)
    unknown = _tiff(tmp_path / "x.tif", np.concatenate([red, half], 2), 2, extra=0, compression=compression)
    inks = np.array([[[0, 65535, 65535, 0]]], dtype=np.uint16)
    cmyk = _tiff(tmp_path / "k.tif", inks, 5, compression=compression)
    for path, wanted in {straight: (255, 127, 127), multiplied: (255, 127, 127), unknown: (255, 0, 0)}.items():
        assert (decode_image(path)[:, 0, 0].int() - torch.tensor(wanted)).abs().max() <= 1, path
    assert decode_image(cmyk)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("compression", [1, 8])
def test_sixteen_bits_in_planes_are_refused(tmp_path: Path, compression: int) -> None:
    path = _tiff(tmp_path / "planes.tif", LOW_BYTES, 2, planes=2, compression=compression)
    with pytest.raises(DataError, match=r"planes\.tif .* a plane for each colour.* convert it"):
        decode_image(path)


@pytest.mark.parametrize("channels", [2, 4])
def test_opaque_alpha_does_not_tell_which_value_is_white(tmp_path: Path, channels: int) -> None:
    samples = np.full((1, 2, channels), 4095, dtype=np.uint16)
    samples[..., -1] = 65535
    path = _png(tmp_path / "dark.png", samples, {2: 4, 4: 6}[channels])
    with pytest.raises(DataError, match=r"run from 0 to 4095, and nothing says which value is white"):
        decode_image(path)


def test_a_transparent_level_of_sixteen_bits_is_seen_as_white(tmp_path: Path) -> None:
    path = _png(tmp_path / "key.png", LEVELS[..., None], 0, _chunk(b"tRNS", struct.pack(">H", 40000)))
    assert decode_image(path)[0].tolist() == [SHOWN[0], [255, 253, 255]]


def test_a_layout_of_tiff_that_is_not_read_is_no_damage(tmp_path: Path) -> None:
    path = _tiff(tmp_path / "two.tif", LOW_BYTES[..., :2], 1, extra=2)
    with pytest.raises(DataError, match=r"a TIFF of a layout that is not read.* convert it"):
        decode_image(path)


def test_white_is_zero_in_a_tiff_that_says_so(tmp_path: Path) -> None:
    path = _saved(tmp_path / "inverted.tif", Image.fromarray(LEVELS), tiffinfo={262: 0})
    assert decode_image(path)[0].tolist() == [[255 - level for level in row] for row in SHOWN]


@pytest.mark.parametrize("name", ["twelve.png", "twelve.tif"])
def test_twelve_bits_in_sixteen_are_refused_until_white_is_told(tmp_path: Path, name: str) -> None:
    path = _saved(tmp_path / name, Image.fromarray(LEVELS >> 4))
    with pytest.raises(DataError, match=r"run from 0 to 4095, and nothing says which value is white; give `white`"):
        decode_image(path)
    found = decode_image(path, Reading(white=4095))
    assert (found[0] - torch.tensor(SHOWN)).abs().max() <= 1
    with pytest.raises(DataError, match="samples run from 0 to 4095, wanted 0 to 1023"):
        decode_image(path, Reading(white=1023))


def test_twelve_bits_are_read_where_the_file_says_so(tmp_path: Path) -> None:
    stated = _saved(tmp_path / "stated.tif", Image.fromarray(LEVELS >> 4), tiffinfo={281: 4095})
    significant = _png(tmp_path / "sbit.png", LEVELS[..., None] >> 4, 0, _chunk(b"sBIT", b"\x0c"))
    scaled = _png(tmp_path / "scaled.png", LEVELS[..., None] & 0xFFF0, 0, _chunk(b"sBIT", b"\x0c"))
    header = tmp_path / "header.pgm"
    header.write_bytes(b"P5 3 2 4095\n" + (LEVELS >> 4).astype(">u2").tobytes())
    for path in (stated, significant, scaled, str(header)):
        assert (decode_image(path)[0].int() - torch.tensor(SHOWN)).abs().max() <= 1, path


def test_a_maximum_that_is_a_statistic_is_no_range(tmp_path: Path) -> None:
    path = _saved(tmp_path / "statistic.tif", Image.fromarray(LEVELS >> 4), tiffinfo={281: 4090})
    with pytest.raises(DataError, match="which value is white"):
        decode_image(path)


@pytest.mark.parametrize(
    ("samples", "white"),
    [
        (np.array([[0.0, 0.5, 1.0]], dtype=np.float32), 1.0),
        (np.array([[0, 50_000, 100_000]], dtype=np.int32), 100_000),
    ],
)
def test_wide_samples_need_a_white(tmp_path: Path, samples: np.ndarray[Any, Any], white: float) -> None:
    path = _saved(tmp_path / "wide.tif", Image.fromarray(samples))
    with pytest.raises(DataError, match=r"32-bit .* nothing says which value is white"):
        decode_image(path)
    assert decode_image(path, Reading(white=white))[0].tolist() == [[0, 128, 255]]


def test_samples_that_are_negative_or_no_numbers_are_refused(tmp_path: Path) -> None:
    for value in (-0.5, np.nan, np.inf):
        path = _saved(tmp_path / "odd.tif", Image.fromarray(np.array([[0, value, 1]], dtype=np.float32)))
        with pytest.raises(DataError, match=r"wanted 0 to 1"):
            decode_image(path, Reading(white=1.0))


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_of_several_frames_the_first_is_read(tmp_path: Path, name: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((200, 0, 0), (0, 200, 0))]
    options = {"lossless": True} if name == "a.webp" else {}
    path = _saved(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], **options)
    assert decode_image(path)[:, 0, 0].tolist() == [200, 0, 0]
    assert read_image_header(path).several


@pytest.mark.parametrize("name", ["o.jpg", "o.png", "o.tif", "o.webp"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_images_are_turned_as_their_exif_orientation_says(tmp_path: Path, name: str, orientation: int) -> None:
    stored = np.kron((np.arange(6).reshape(2, 3) * 40).astype(np.uint8), np.ones((8, 8), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    options = {"lossless": True} if name == "o.webp" else {"quality": 100} if name == "o.jpg" else {}
    path = _saved(tmp_path / name, Image.fromarray(stored).convert("RGB"), exif=exif, **options)
    with Image.open(path) as image:
        shown = np.asarray(ImageOps.exif_transpose(image).convert("L"), dtype=int)
    found, as_stored = decode_image(path), decode_image(path, Reading(exif_orientation=False))
    assert np.abs(found[0].numpy() - shown).max() <= 3
    assert np.abs(as_stored[0].numpy() - stored.astype(int)).max() <= 3
    header = read_image_header(path)
    assert (header.height, header.width, header.orientation) == (16, 24, orientation)
    assert header.shown_size == shown.shape


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_boxes_turn_with_their_image(tmp_path: Path, orientation: int) -> None:
    stored = np.zeros((20, 30, 3), dtype=np.uint8)
    stored[4:9, 3:11] = 255
    exif = Image.Exif()
    exif[274] = orientation
    shown = decode_image(_saved(tmp_path / "b.png", Image.fromarray(stored), exif=exif))
    left, top, right, bottom = (int(n) for n in turned_box((3, 4, 11, 9), orientation, (20, 30)))
    assert shown[:, top:bottom, left:right].min() == 255
    assert shown.sum() == 255 * 3 * 8 * 5
    back = turned_box((left, top, right, bottom), inverse(orientation), shown.shape[1:])
    assert back == (3, 4, 11, 9)


def test_an_orientation_behind_the_pixels_of_a_png_counts_too(tmp_path: Path) -> None:
    path = tmp_path / "late.png"
    content = Path(_saved(path, Image.new("RGB", (4, 2)))).read_bytes()
    exif = Image.Exif()
    exif[274] = 6
    path.write_bytes(content[:-12] + _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + content[-12:])
    assert read_image_header(str(path)).shown_size == (4, 2)
    assert decode_image(str(path)).shape == (3, 4, 2)


def test_an_orientation_in_a_long_exif_of_a_png_counts_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a preview" * 10_000
    path = _saved(tmp_path / "long.png", Image.new("RGB", (4, 2)), exif=exif)
    assert decode_image(path).shape == (3, 4, 2)


def test_damaged_exif_data_turn_nothing(tmp_path: Path) -> None:
    path = _saved(tmp_path / "x.jpg", Image.new("RGB", (4, 2)), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xffgarbage")
    assert decode_image(path).shape == (3, 2, 4)


@pytest.mark.parametrize("side", [9_000, 13_000, 2_000_000, 2**31 - 1])
def test_a_bomb_is_refused_before_memory_is_taken(tmp_path: Path, side: int) -> None:
    path = tmp_path / "bomb.png"
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", zlib.compress(bytes(10**6))) + _chunk(b"IEND", b"")
    )
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"pixels, more than|has more pixels than the 64,000,000 .* `most_pixels`"):
            decode_image(str(path))
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


def test_the_limit_can_be_raised_and_pillows_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _saved(tmp_path / "large.png", Image.new("L", (40, 50)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(DataError, match="40 x 50 pixels, more than the 1,999"):
        decode_image(path, Reading(most_pixels=1_999))
    assert decode_image(path, Reading(most_pixels=2_000)).shape == (3, 50, 40)
    assert Image.MAX_IMAGE_PIXELS == 900


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "but text, it begins with '<html>not found<'"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of the kinds"),
        (b"\x00\x01\x02\xff" * 9, "data of another kind"),
    ],
)
def test_what_is_no_image_is_refused_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.jpg cannot be decoded") as refused:
        decode_image(str(path))
    assert words in str(refused.value)


def test_a_file_with_the_wrong_extension_is_read(tmp_path: Path) -> None:
    path = _saved(tmp_path / "really_a.jpg", Image.new("RGB", (2, 2), (5, 6, 7)), format="PNG")
    assert decode_image(path)[:, 0, 0].tolist() == [5, 6, 7]


def test_mutated_files_raise_nothing_but_our_errors(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    noise = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[274] = 6
    names = ("a.jpg", "a.png", "a.tif", "a.webp", "a.gif", "a.bmp", "a.ppm")
    for name in names:
        sound = Path(
            _saved(tmp_path / name, noise, **({"exif": exif} if name[2] in "jptw" and name != "a.ppm" else {}))
        )
        content = sound.read_bytes()
        for _ in range(60):
            mutated = bytearray(content[: generator.integers(1, len(content) + 1)])
            for place in generator.integers(0, min(len(mutated), 200), 4):
                mutated[place] = generator.integers(256)
            sound.write_bytes(bytes(mutated))
            with contextlib.suppress(DataError):
                assert decode_image(str(sound)).dtype == torch.uint8
