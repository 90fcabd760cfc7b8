"""One way from an image file to 8-bit pixels, as a viewer shows them: every mode, depth and orientation has its rule.

The rules are tabled in docs/images.md. Pillow reads the files; what it would clip, wrap or drop is handled here.
"""

from __future__ import annotations

import os
import struct
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from adasap.data.orientation import ORIENTATIONS, Header, turned, unturned
from adasap.data.samples import grey_white, scaled_samples
from adasap.errors import DataError

MOST_PIXELS = 64_000_000
"""A file of more pixels is refused before memory is taken for them."""
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""What is read; Pillow knows more, some of which start other programs."""
_FORMAT = {"MPO": "JPEG"}  # JPEG with further images behind it, as telephones write
_MOST_CHUNKS = 100_000
_LONGEST_CHUNK = 1 << 24  # EXIF data hold previews
_WITH_ALPHA = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True)
class Reading:
    """How image files are read.

    Attributes:
        exif_orientation: Turn an image upright as its EXIF orientation says, as viewers do.
        white: The sample value that is white, in images of more than 8 bits whose files do not say it.
        most_pixels: A file of more pixels is refused.

    Example:
        >>> Reading(white=0)
        Traceback (most recent call last):
        ...
        adasap.errors.DataError: white is 0; give the sample value that is white, such as 4095 for 12 bits
    """

    exif_orientation: bool = True
    white: float | None = None
    most_pixels: int = MOST_PIXELS

    def __post_init__(self) -> None:
        if self.white is not None and not 0 < self.white < float("inf"):
            raise DataError(f"white is {self.white}; give the sample value that is white, such as 4095 for 12 bits")
        if self.most_pixels < 1:
            raise DataError(f"most_pixels is {self.most_pixels}; give a number of pixels, 1 or more")


AS_SHOWN = Reading()
"""The default."""


class Encoded(Protocol):
    """An image file that lies inside a larger file; `str` of it is how messages name it."""

    def open(self) -> BinaryIO:
        """Its bytes, from their start.

        Raises:
            DataError: If they cannot be read.
        """


ImageFile = str | Encoded
"""The path of an image file, or one inside a larger file."""


def _open(file: ImageFile) -> BinaryIO:
    return open(file, "rb") if isinstance(file, str) else file.open()


def decode_image(path: ImageFile, reading: Reading = AS_SHOWN) -> Tensor:
    """An image file as uint8 [3, H, W], RGB, as a viewer shows its first frame.

    Raises:
        DataError: If the file is damaged, no image, too large, or of a range that nothing tells; the message names it.
    """
    with _opened(path, reading) as (image, header):
        pixels = np.array(_upright(_shown(image, path, reading), image.format, header, reading))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def decode_numbers(path: ImageFile, reading: Reading = AS_SHOWN) -> Tensor:
    """The whole numbers of an image file of one channel as they are stored, int32 [H, W]: class numbers of a mask.

    Of a palette its indices and not its colours; grey of 1, 2 or 4 bits is not stretched to 8; an alpha channel is left
    out, and colour whose three channels are equal counts as grey.

    Raises:
        DataError: If the file is damaged, no image, too large, in colour, of fractions, or a JPEG, by name.
    """
    with _opened(path, reading) as (image, header):
        if header.format == "JPEG":
            raise DataError(f"{path} is a JPEG, whose pixels are not exactly those that were saved; store masks as PNG")
        numbers = np.array(_upright(_numbers(image, path), header.format, header, reading))
        bits = image.info["png chunks"].get(b"IHDR", b"\0" * 10)
    if header.mode == "L" and bits[9] == 0 and bits[8] in (2, 4):  # Pillow stretches them to 0 ... 255
        numbers //= 255 // (2 ** bits[8] - 1)
    return torch.from_numpy(numbers.astype(np.int32))


def _numbers(image: Image.Image, path: ImageFile) -> Image.Image:
    """The channel that holds the numbers."""
    if image.mode in ("1", "L", "P") or image.mode[0] == "I":
        return image
    if image.mode in ("LA", "PA"):
        return image.getchannel(0)
    if image.mode in ("RGB", "RGBA") and not _is_deep(image):
        red, green, blue = (np.asarray(image.getchannel(place)) for place in range(3))
        if (red == green).all() and (red == blue).all():
            return image.getchannel(0)
    raise DataError(
        f"{path} holds no class numbers, it is an image of mode {image.mode}; store one channel of whole numbers, or "
        "name the class of each colour"
    )


def _upright(image: Image.Image, kind: str | None, header: Header, reading: Reading) -> Image.Image:
    """The image as its EXIF orientation says, or as it is stored."""
    if kind != "TIFF" and reading.exif_orientation:
        return turned(image, header.orientation)
    if kind == "TIFF" and not reading.exif_orientation:
        return unturned(image, header.orientation)  # Pillow has turned it already
    return image


def read_image_header(path: ImageFile, reading: Reading = AS_SHOWN) -> Header:
    """What a file says about its image, without its pixels.

    Raises:
        DataError: If there is no such file, or it is no image or too large.
    """
    with _opened(path, reading) as (image, header):
        return replace(header, several=bool(getattr(image, "is_animated", False)))


def header_or_none(path: ImageFile | None, reading: Reading = AS_SHOWN) -> Header | None:
    """The same; None where there is no file, or it cannot be read."""
    try:
        return None if path is None else read_image_header(path, reading)
    except DataError:
        return None


@contextmanager
def _opened(path: ImageFile, reading: Reading) -> Iterator[tuple[Image.Image, Header]]:
    """The image, its size checked; whatever goes wrong in between is a DataError."""
    try:
        with warnings.catch_warnings(), _limit(reading.most_pixels), _open(path) as file:
            warnings.simplefilter("ignore")  # Pillow's, about damaged EXIF data and the like
            with Image.open(file, formats=FORMATS) as image:
                header = _header(image, file)
                _check_pixels(path, header, reading.most_pixels)
                yield image, header
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; complete the folder, or take it out of the list") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} has more pixels than the {reading.most_pixels:,} that are read{_ADVICE}") from error
    except Exception as error:  # on damaged files Pillow's readers raise nearly anything
        raise DataError(
            f"{path} cannot be decoded ({_reason(path, error)}); replace the file or take it out of the folder"
        ) from error


_ADVICE = "; scale the image down, or raise `most_pixels` of the data source if you trust the file"


@contextmanager
def _limit(most_pixels: int) -> Iterator[None]:
    """Pillow's own limit, raised for a while where ours is higher."""
    before = Image.MAX_IMAGE_PIXELS
    if before is None or most_pixels <= before:
        yield
        return
    Image.MAX_IMAGE_PIXELS = most_pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_pixels(path: ImageFile, header: Header, most: int) -> None:
    if header.width * header.height > most:
        raise DataError(
            f"{path} has {header.width:,} x {header.height:,} pixels, more than the {most:,} that are read{_ADVICE}"
        )


def _reason(path: ImageFile, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        with _open(path) as file:
            begin = file.read(16)
        if not begin:
            return "the file is empty"
        if begin.startswith((b"II*\0", b"MM\0*")):
            return "a TIFF of a layout that is not read, or damaged; convert it to PNG, or to a TIFF of 8 bits"
        is_text = all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in begin)
        what = f"text, it begins with {begin.decode('ascii')!r}" if is_text else "data of another kind, or damaged"
        return f"not an image of the kinds {', '.join(FORMATS)}, but {what}"
    return str(error) or type(error).__name__


def _header(image: Image.Image, file: BinaryIO) -> Header:
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer versions of Pillow give the turned size
        width, height = int(image.tag_v2[256]), int(image.tag_v2[257])
    chunks = _png_chunks(file) if image.format == "PNG" else {}
    orientation = _orientation(image, chunks)
    image.info["png chunks"] = chunks
    return Header(height, width, orientation, _FORMAT.get(image.format or "", image.format or ""), image.mode)


def _orientation(image: Image.Image, chunks: dict[bytes, bytes]) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none or the EXIF data are damaged."""
    try:
        if image.format == "PNG":  # Pillow would decode all pixels to look behind them
            exif = Image.Exif()
            exif.load(b"Exif\0\0" + chunks[b"eXIf"])
        else:
            exif = image.getexif()
        orientation = exif.get(274, 1)
    except Exception:  # a viewer ignores damaged EXIF data too
        return 1
    return orientation if orientation in ORIENTATIONS else 1


def _png_chunks(file: BinaryIO) -> dict[bytes, bytes]:
    """IHDR, sBIT and eXIf of a PNG; the file stays where it was."""
    place, found = file.tell(), {}
    file.seek(8)
    for _ in range(_MOST_CHUNKS):
        if len(head := file.read(8)) < 8:
            break
        length, name = struct.unpack(">I4s", head)
        if name in (b"IHDR", b"sBIT", b"eXIf") and length < _LONGEST_CHUNK:
            found[name] = file.read(length)
            length = 0
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(place)
    return found


def _shown(image: Image.Image, path: ImageFile, reading: Reading) -> Image.Image:
    """The first frame in 8 bits, RGB; the orientation stays as Pillow has it."""
    if image.mode[0] in "IF":
        image = _scaled_grey(image, path, reading)
    elif _is_deep(image):
        image = _scaled_colour(image, path, reading)
    if image.mode == "LAB":
        image = _lab_to_rgb(image)
    if image.mode == "La":
        image = image.convert("LA")
    if image.mode not in _WITH_ALPHA and "transparency" not in image.info:
        return image.convert("RGB")
    image = image.convert("RGBA")
    shown = Image.new("RGB", image.size, (255, 255, 255))
    shown.paste(image, mask=image.getchannel("A"))
    return shown


def _is_deep(image: Image.Image) -> bool:
    """Whether a colour image has 16 bits per sample in its file."""
    if image.format == "PNG":
        return bool(image.info["png chunks"].get(b"IHDR", b"")[8:9] == b"\x10")
    return isinstance(image, TiffImagePlugin.TiffImageFile) and max(image.tag_v2.get(258, (8,))) > 8


def _scaled_grey(image: Image.Image, path: ImageFile, reading: Reading) -> Image.Image:
    tags: Any = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    inverted, clear = tags.get(262) == 0, image.info.get("transparency")  # white is zero
    samples = np.asarray(image)
    chunks = image.info.get("png chunks", {})
    white = reading.white or grey_white(samples, image.format or "", tags, chunks.get(b"sBIT"), str(path))
    levels = scaled_samples(samples, white, str(path))
    grey = Image.fromarray(255 - levels if inverted else levels)
    if clear is not None:
        grey.putalpha(Image.fromarray(np.where(samples == clear, 0, 255).astype(np.uint8)))
    return grey


def _scaled_colour(image: Image.Image, path: ImageFile, reading: Reading) -> Image.Image:
    """16 bits per sample, of several."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        samples, mode = _tiff_samples(image, path)
        kind, significant = "TIFF", None
        tags: Any = image.tag_v2
    else:
        samples = _png_samples(path)
        mode = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[samples.shape[2]]
        kind, tags, significant = "PNG", {}, image.info["png chunks"].get(b"sBIT")
    colours = samples[..., :-1] if mode in _WITH_ALPHA else samples
    white = reading.white or grey_white(colours, kind, tags, significant, str(path))
    levels = scaled_samples(colours, white, str(path))
    if mode in _WITH_ALPHA:
        levels = np.concatenate([levels, scaled_samples(samples[..., -1:], 65535, str(path))], axis=2)
    if mode == "RGBa":  # fromarray does not know it
        return Image.frombuffer("RGBa", image.size, np.ascontiguousarray(levels), "raw", "RGBa", 0, 1).convert("RGBA")
    return Image.fromarray(levels[..., 0] if mode == "L" else levels, mode)


def _png_samples(path: ImageFile) -> np.ndarray[Any, Any]:
    """uint16 [H, W, C], by torchvision: Pillow keeps the high bytes only."""
    from torchvision.io import decode_png

    with _open(path) as file:
        content = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    samples: np.ndarray[Any, Any] = decode_png(content).permute(1, 2, 0).numpy()
    return samples


def _tiff_samples(image: TiffImagePlugin.TiffImageFile, path: ImageFile) -> tuple[np.ndarray[Any, Any], str]:
    """uint16 [H, W, C] and Pillow's name of what they are.

    Pillow keeps one byte of each sample, the high one by the order that it is told: the file is decoded once in its
    own order and once in the other, which gives the low bytes.
    """
    if image.tag_v2.get(284) == 2:
        raise DataError(
            f"{path} is a TIFF of 16 bits with a plane for each colour, which is not read exactly; convert it to 8 "
            "bits, to PNG, or to a TIFF whose colours lie together"
        )
    stored = str(_rawmodes(image)[0]).partition(";")[0]
    high = _bytes_of(image, stored.replace("RGBa", "RGBA"), other=False)
    with _open(path) as file, Image.open(file, formats=("TIFF",)) as again:
        low = _bytes_of(again, stored.replace("RGBa", "RGBA"), other=True)
    return high.astype(np.uint16) << 8 | low, "RGBa" if stored == "RGBa" else image.mode


def _rawmodes(image: Image.Image) -> list[str]:
    return [tile.args[0] for tile in image.tile]  # type: ignore[attr-defined]


def _bytes_of(image: Image.Image, stored: str, *, other: bool) -> np.ndarray[Any, Any]:
    """One byte of each sample, uint8 [H, W, C]: the high one, or the other."""
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        order = str(tile.args[0])[-1]
        swapped = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[order]
        rawmode = f"{stored};16{swapped if other else order}"
        tiles.append(tile._replace(args=(rawmode, *tile.args[1:])))
    image.tile = tiles  # type: ignore[attr-defined]
    return np.asarray(image)


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, rgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(lab, rgb, "LAB", "RGB"))
    assert converted is not None
    return converted
