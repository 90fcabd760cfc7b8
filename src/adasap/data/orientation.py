"""Which way up an image is: the EXIF orientation of its file, and boxes that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from PIL import Image

Box = tuple[float, float, float, float]

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATIONS = (1, *_TURNS)
"""1 is upright; see the EXIF standard (CIPA DC-008), tag 274."""


@dataclass(frozen=True)
class Header:
    """What a file says about its image.

    Attributes:
        height, width: Of the pixels as they are stored.
        orientation: EXIF's, 1 to 8: how a viewer turns them.
        format: Such as JPEG, by the content and not by the name.
        mode: Pillow's name of the pixels' kind, such as RGB or I;16.
        several: Whether the file holds more than one image.
    """

    height: int
    width: int
    orientation: int = 1
    format: str = ""
    mode: str = ""
    several: bool = False

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width as a viewer shows them.

        Example:
            >>> Header(480, 640, orientation=6).shown_size
            (640, 480)
        """
        return (self.width, self.height) if self.orientation >= 5 else (self.height, self.width)

    def size(self, exif_orientation: bool) -> tuple[int, int]:
        """Height and width as the image is read."""
        return self.shown_size if exif_orientation else (self.height, self.width)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """Stored pixels as a viewer shows them."""
    return image if orientation == 1 else image.transpose(_TURNS[orientation])


def unturned(image: Image.Image, orientation: int) -> Image.Image:
    """Pixels as a viewer shows them as they are stored: the turn backwards."""
    return turned(image, inverse(orientation))


def inverse(orientation: int) -> int:
    """The turn that undoes another; all but the quarter turns undo themselves."""
    return {6: 8, 8: 6}.get(orientation, orientation)


def turned_box(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """A box (x_min, y_min, x_max, y_max) in the stored pixels, where it is once they are turned.

    Args:
        size: Height and width of the stored pixels.

    Example:
        >>> turned_box((0, 0, 2, 1), 6, (4, 3))  # the upper left corner comes to the upper right
        (3, 0, 4, 2)
    """
    height, width = size
    left, top, right, bottom = box
    if orientation >= 5:  # all of these begin by exchanging rows and columns
        left, top, right, bottom, height, width = top, left, bottom, right, width, height
    if orientation in (2, 3, 6, 7):
        left, right = width - right, width - left
    if orientation in (3, 4, 7, 8):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


Frame = Literal["as shown", "as stored"]


def frame_of(size: tuple[int, int] | None, header: Header) -> Frame | None:
    """Which of the two an annotation's boxes are in, by the height and width that it states; None if that cannot tell.

    Example:
        >>> frame_of((480, 640), Header(480, 640, orientation=6)), frame_of((9, 9), Header(9, 9, orientation=6))
        ('as stored', None)
    """
    stored = (header.height, header.width)
    if size is None or stored == header.shown_size:
        return None
    return "as stored" if size == stored else "as shown" if size == header.shown_size else None
