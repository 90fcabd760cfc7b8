"""Pictures of a run folder: chosen, made, opened with suspicion, put into a page.

Only PNG files are opened, and none that would not fit into memory: anybody may have written them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image
from torch import Tensor

from adasap.errors import DataError
from adasap.evaluation import Cell

SEVERITY = 3
"""The severity shown, or the nearest one that a suite has."""

IMAGE_SIDE = 128
"""Larger images are shown this large."""

MOST_BYTES = 1 << 26
MOST_PIXELS = 1 << 25
"""33 million, more than any camera image that a test set holds; 100 MB when decoded."""


def read_picture(path: Path) -> bytes:
    """The bytes of a picture.

    Raises:
        DataError: If it cannot be read or is too large.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); run the command that made it again") from error
    if len(content) > MOST_BYTES:
        raise DataError(f"{path} has more than {MOST_BYTES:,} bytes, too many for a picture on a page")
    return content


def open_picture(content: bytes, *, where: str = "a picture") -> Image.Image:
    """A PNG, decoded.

    Raises:
        DataError: If it is something else, damaged, or of more pixels than `MOST_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(content), formats=("PNG",))
        if image.width * image.height > MOST_PIXELS:
            raise DataError(f"{where} has {image.width:,} x {image.height:,} pixels, too many for a page")
        image.load()
    except DataError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{where} is not a PNG that can be shown ({error}); run its command again") from error
    return image


def image_source(content: bytes, *, where: str = "a picture") -> str:
    """A data URI of a PNG: small images as they are, larger ones as JPEG of at most `IMAGE_SIDE` pixels."""
    image = open_picture(content, where=where)
    if max(image.size) <= IMAGE_SIDE // 2:
        return data_uri("image/png", content)
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    text = io.BytesIO()
    image.convert("RGB").save(text, "JPEG", quality=85)
    return data_uri("image/jpeg", text.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Content as an address that needs no network.

    Example:
        >>> data_uri("text/csv", b"a,b")
        'data:text/csv;base64,YSxi'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(image: Tensor) -> Image.Image:
    """An image uint8 [C, H, W] to look at: grey or colour; of more channels the first three, of two the first.

    Example:
        >>> import torch
        >>> [picture(torch.zeros(channels, 4, 4, dtype=torch.uint8)).mode for channels in (1, 2, 3, 5)]
        ['L', 'L', 'RGB', 'RGB']
    """
    shown = image[:3] if image.shape[0] >= 3 else image[:1]
    pixels = shown.permute(1, 2, 0).contiguous().cpu().numpy()
    return Image.fromarray(pixels if len(shown) == 3 else pixels[..., 0])


def nearest_severities(cells: Iterable[Cell]) -> list[Cell]:
    """Of each corruption the cell whose severity is nearest to the one shown; the clean one as it is.

    Example:
        >>> [str(cell) for cell in nearest_severities([Cell(), Cell("fog", 1), Cell("fog", 5), Cell("fog", 4)])]
        ['clean', 'fog/4']
    """
    wanted: dict[str, Cell] = {}
    for cell in cells:
        best = wanted.setdefault(cell.corruption, cell)
        if abs(cell.severity - SEVERITY) < abs(best.severity - SEVERITY):
            wanted[cell.corruption] = cell
    return list(wanted.values())
