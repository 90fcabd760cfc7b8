"""A set of images with masks, wherever its pixels come from, and what its reader found wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adasap.data.decoding import AS_SHOWN, ImageFile, Reading, decode_image, decode_numbers, header_or_none
from adasap.data.findings import Findings
from adasap.data.images import require_channels, with_channels
from adasap.data.orientation import frame_of, turned, unturned
from adasap.errors import DataError

IGNORED = 255
"""The class number of pixels that take no part; so a set has at most 255 classes."""

Sample = tuple[Tensor, Tensor]
"""Image uint8 [C, H, W] and mask uint8 [H, W]: 0 to num_classes - 1, or `IGNORED`."""

Colour = tuple[int, int, int]
_NAMES_SHOWN = 3
_UNKNOWN = -1
_NUMBERS = 1 << 16


class Samples(Protocol):
    """Samples by index: a list, or files."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class SegmentationImages:
    """8-bit images of any sizes with a mask each, indexed from 0.

    Args:
        samples: Images with their masks.
        classes: Names of the classes 0, 1, ...
        names: What the images are called; by default their index.
        findings: What the reader met.
        where: What error messages call the source.
    Raises:
        DataError: For no image, another number of names, or over 255 classes.

    Example:
        >>> sample = torch.zeros(3, 4, 4, dtype=torch.uint8), torch.zeros(4, 4, dtype=torch.uint8)
        >>> data = SegmentationImages([sample, sample], ["sky", "road"])
        >>> len(data), data.num_classes, data.names
        (2, 2, ('0', '1'))
    """

    def __init__(
        self,
        samples: Samples,
        classes: Sequence[str],
        names: Sequence[str] | None = None,
        findings: Findings[str] | None = None,
        *,
        where: str = "the images",
    ) -> None:
        names = [str(index) for index in range(len(samples))] if names is None else names
        if len(samples) == 0 or len(names) != len(samples):
            raise DataError(
                f"{where}: {len(samples)} images and {len(names)} names; give at least one, and a name each"
            )
        if not 1 <= len(classes) <= IGNORED:
            raise DataError(
                f"{where} has {len(classes)} classes; masks hold 1 to {IGNORED} of them: name those that count, and "
                "have the others ignored"
            )
        if len(set(classes)) < len(classes):
            twice = next(name for place, name in enumerate(classes) if name in classes[:place])
            raise DataError(f"{where} names the class {twice!r} twice; name each class once")
        self.samples, self.classes, self.names = samples, tuple(classes), tuple(names)
        self.findings, self.where = findings or Findings(), where

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def num_channels(self) -> int:
        """Number of channels, by the first image."""
        return int(self[0][0].shape[0])

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        """Image uint8 [C, H, W] and mask uint8 [H, W].

        Raises:
            DataError: If a file is damaged, the mask has another size than the image, or holds an unknown number.
        """
        return self.samples[index]

    def some(self, indices: Tensor) -> SegmentationImages:
        """Some of the images, read when they are asked for; findings stay those of the whole."""
        chosen = indices.tolist()
        names = [self.names[index] for index in chosen]
        return SegmentationImages(_Some(self.samples, chosen), self.classes, names, self.findings, where=self.where)

    def without_broken(self) -> SegmentationImages:
        """Those whose image and mask can be read, for which all are; the others are counted.

        Raises:
            DataError: If none can.
        """
        sound = [index for index in range(len(self)) if self._can_be_read(index)]
        broken = [name for index, name in enumerate(self.names) if index not in set(sound)]
        self.findings.add("images that cannot be read, or their masks, left out", *broken)
        if not sound:
            raise DataError(f"{self.where}: no image with its mask can be read; `adasap check` says why of each")
        return self.some(torch.tensor(sound))

    def _can_be_read(self, index: int) -> bool:
        try:
            return bool(self[index])
        except DataError:
            return False

    def files(self) -> list[ImageFile]:
        """Paths of the images and masks that a reader found; empty for others."""
        found: list[ImageFile] = self.samples.files() if hasattr(self.samples, "files") else []
        return found

    def with_channels(self, channels: int | None) -> SegmentationImages:
        """The images with as many channels as a model wants; None leaves them.

        Raises:
            DataError: If they have others, and are not grey or colour.
        """
        if channels is None or self.num_channels == channels:
            return self
        require_channels(self.num_channels, channels, where=self.where)
        samples = _Changed(self.samples, partial(_with_channels, channels=channels))
        return SegmentationImages(samples, self.classes, self.names, self.findings, where=self.where)

    def renumbered(self, classes: Sequence[str], numbers: Sequence[int] | None) -> SegmentationImages:
        """The images under other classes; class i of theirs gets `numbers[i]`, None keeps the numbers."""
        samples = self.samples
        if numbers is not None:
            table = torch.full((IGNORED + 1,), IGNORED, dtype=torch.uint8)
            table[: len(numbers)] = torch.tensor(numbers, dtype=torch.uint8)
            samples = _Changed(samples, partial(_with_numbers, table=table))
        return SegmentationImages(samples, classes, self.names, self.findings, where=self.where)

    def summary(self) -> str:
        """One line: how many images and classes, and what was found wrong."""
        found = self.findings.summary()
        return f"{self.where}: {len(self):,} images with masks, {self.num_classes} classes" + (found and f"; {found}")


class _Some:
    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        self.samples, self.indices = samples, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[self.indices[index]]


class _Changed:
    def __init__(self, samples: Samples, change: Callable[[Sample], Sample]) -> None:
        self.samples, self.change = samples, change

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.change(self.samples[index])


def _with_channels(sample: Sample, *, channels: int) -> Sample:
    return with_channels(sample[0], channels), sample[1]


def _with_numbers(sample: Sample, *, table: Tensor) -> Sample:
    return sample[0], table[sample[1].long()]


class MaskCode:
    """How the numbers or colours of mask files say which class a pixel is of.

    Args:
        numbers: Number in a mask -> class, or `IGNORED`; other numbers are refused.
        colours: Colour in a mask -> class, or `IGNORED`, in place of numbers; other colours are refused.

    Example:
        >>> code = MaskCode({7: 0, 8: 1, 0: IGNORED})
        >>> code.of_numbers(torch.tensor([[7, 8], [0, 7]]), "a.png")
        tensor([[  0,   1],
                [255,   0]], dtype=torch.uint8)
        >>> code.of_numbers(torch.tensor([[9, 7]]), "a.png")
        Traceback (most recent call last):
        ...
        adasap.errors.DataError: a.png holds 9, which is no class; known are 0, 7, 8: correct the mask, or name the
        class, or have 9 ignored
    """

    def __init__(self, numbers: Mapping[int, int] | None = None, colours: Mapping[Colour, int] | None = None) -> None:
        self.numbers, self.colours = dict(numbers or {}), dict(colours or {})
        self._class_of = torch.full((_NUMBERS,), _UNKNOWN, dtype=torch.int16)
        for number, label in self.numbers.items():
            self._class_of[number] = label

    @classmethod
    def plain(cls, num_classes: int, ignored: Sequence[int] = (IGNORED,)) -> MaskCode:
        """Each number is its class, some are ignored."""
        return cls({number: number for number in range(num_classes)} | dict.fromkeys(ignored, IGNORED))

    def read(self, path: ImageFile, reading: Reading) -> Tensor:
        """The mask of a file, uint8 [H, W]."""
        if self.colours:
            return self.of_colours(decode_image(path, reading), path)
        return self.of_numbers(decode_numbers(path, reading), path)

    def of_numbers(self, numbers: Tensor, path: ImageFile) -> Tensor:
        """Numbers [H, W] as classes, uint8 [H, W]."""
        inside = (numbers >= 0) & (numbers < _NUMBERS)
        classes = self._class_of[numbers.clamp(0, _NUMBERS - 1).long()]
        wrong = ~inside | (classes == _UNKNOWN)
        if wrong.any():
            value = int(numbers[wrong][0])
            raise DataError(
                f"{path} holds {value}, which is no class; known are {_listed(self.numbers)}: correct the mask, or "
                f"name the class, or have {value} ignored"
            )
        return classes.to(torch.uint8)

    def of_colours(self, image: Tensor, path: ImageFile) -> Tensor:
        """Colours uint8 [3, H, W] as classes, uint8 [H, W]."""
        red, green, blue = image.int()
        codes = (red << 16) | (green << 8) | blue
        classes = torch.full_like(codes, _UNKNOWN)
        for colour, label in self.colours.items():
            classes[codes == (colour[0] << 16 | colour[1] << 8 | colour[2])] = label
        if (wrong := classes == _UNKNOWN).any():
            code = int(codes[wrong][0])
            value = f"({code >> 16}, {code >> 8 & 255}, {code & 255})"
            raise DataError(
                f"{path} has a pixel of the colour {value}, which no class has; add it to the palette, or have it "
                "ignored, and store masks as PNG"
            )
        return classes.to(torch.uint8)


def _listed(numbers: Mapping[int, int]) -> str:
    known = sorted(numbers)
    return ", ".join(map(str, known[:20])) + (", ..." if len(known) > 20 else "")


@dataclass(frozen=True)
class Pair:
    """The files of an image and its mask.

    Attributes:
        name: What the image is called.
        image, mask: Paths, or where they lie inside larger files.
        orientation: How the mask is turned after it is read, so that it lies on the image as read; EXIF's 1 to 8.
        backwards: Whether that turn is undone and not done.
    """

    name: str
    image: ImageFile
    mask: ImageFile
    orientation: int = 1
    backwards: bool = False


class FileSamples:
    """Image and mask files, decoded when they are asked for.

    Args:
        pairs: The files.
        code: What the masks say.
        reading: How the files are read.
    """

    def __init__(self, pairs: Sequence[Pair], code: MaskCode, reading: Reading = AS_SHOWN) -> None:
        self.pairs, self.code, self.reading = tuple(pairs), code, reading

    def files(self) -> list[ImageFile]:
        """Paths of all images and masks."""
        return [path for pair in self.pairs for path in (pair.image, pair.mask)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        pair = self.pairs[index]
        image, mask = decode_image(pair.image, self.reading), self.code.read(pair.mask, self.reading)
        if pair.orientation != 1:
            turn = unturned if pair.backwards else turned
            mask = torch.from_numpy(np.array(turn(Image.fromarray(mask.numpy()), pair.orientation)))
        if image.shape[1:] != mask.shape:
            raise DataError(_contradiction(pair, (image.shape[1], image.shape[2]), (mask.shape[0], mask.shape[1])))
        return image, mask


def checked_pairs(pairs: Sequence[Pair], reading: Reading, findings: Findings[str], *, where: str) -> list[Pair]:
    """The pairs that can be opened, each mask turned as its image is; the others are counted.

    A mask that was made for the pixels as stored, while a viewer turns the image, is turned with it, as boxes are
    (`data/orientation.py`). Where the sizes cannot tell (squares, half turns, mirror images), it is taken as shown.

    Raises:
        DataError: Names the first masks of another size than their image; or if no pair is left.
    """
    kept, wrong = [], []
    for pair in pairs:
        image, mask = header_or_none(pair.image, reading), header_or_none(pair.mask, reading)
        if image is None or mask is None:
            kind = "images" if image is None else "masks"
            findings.add(f"{kind} that are not there or cannot be opened, left out", pair.name)
            continue
        size = mask.size(reading.exif_orientation)
        frame = frame_of(size, image)
        wanted = "as shown" if reading.exif_orientation else "as stored"
        if frame is None and image.orientation != 1:
            findings.add(
                "images turned by their EXIF orientation whose mask does not tell which way up it is", pair.name
            )
        if frame not in (None, wanted):
            findings.add("masks turned with their image, which has an EXIF orientation", pair.name)
            pair, size = replace(pair, orientation=image.orientation, backwards=wanted == "as stored"), size[::-1]
        if size != image.size(reading.exif_orientation):
            wrong.append(_contradiction(pair, image.size(reading.exif_orientation), size))
        kept.append(pair)
    if wrong:
        more = f"; and {len(wrong) - _NAMES_SHOWN:,} more" if len(wrong) > _NAMES_SHOWN else ""
        raise DataError(
            f"{where}: {len(wrong):,} masks have another size than their image: {'; '.join(wrong[:_NAMES_SHOWN])}{more}"
            "; take image and mask from the same release, or scale the masks by nearest neighbour"
        )
    if not kept:
        raise DataError(
            f"{where}: no image with a mask is left; {findings.summary() or 'the list is empty'}; complete the folder, "
            "or choose another split"
        )
    return kept


def _contradiction(pair: Pair, image: tuple[int, int], mask: tuple[int, int]) -> str:
    return f"{pair.mask} is {mask[1]} x {mask[0]} pixels, its image {image[1]} x {image[0]} (width x height)"
