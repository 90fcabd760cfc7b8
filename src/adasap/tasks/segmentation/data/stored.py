"""Masks beside images in shards and in sets of Hugging Face `datasets`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from adasap.data.decoding import AS_SHOWN, Reading
from adasap.data.findings import Findings
from adasap.data.hugging_face import Rows, image_column, open_rows
from adasap.data.shards import find_shards, samples_in
from adasap.tasks.segmentation.data.readers import names_and_code
from adasap.tasks.segmentation.data.segmentation_set import (
    IGNORED,
    FileSamples,
    Pair,
    SegmentationImages,
    checked_pairs,
)

Byte = Annotated[int, Field(ge=0, le=255)]


@dataclass(frozen=True)
class MaskCoding:
    """What the numbers or colours of masks say, in `options` of every kind whose masks are not of a published set.

    Attributes:
        ignored: Numbers in masks that take no part.
        palette: Colour of each class, red, green and blue, in place of numbers; black takes no part if no class has it.
    """

    ignored: tuple[Annotated[int, Field(ge=0, lt=1 << 16)], ...] = (IGNORED,)
    palette: tuple[tuple[Byte, Byte, Byte], ...] | None = None


@dataclass(frozen=True)
class ShardMaskOptions(MaskCoding):
    """`options` of the kind `wds-masks`.

    Attributes:
        mask: What the name of a mask goes on with after the first dot.
    """

    mask: str = "mask.png"


@dataclass(frozen=True)
class RowMaskOptions(MaskCoding):
    """`options` of the kind `hf-masks`.

    Attributes:
        image: The column of images; by default `image`, or the only one.
        mask: The column of masks; by default the only other one of images.
    """

    image: str | None = None
    mask: str | None = None


def read_mask_shards(
    path: str,
    split: str | None,
    classes: Sequence[str] | None = None,
    reading: Reading = AS_SHOWN,
    *,
    options: ShardMaskOptions | None = None,
) -> SegmentationImages:
    """The images of shards with the masks that lie beside them: `a.jpg` and `a.mask.png`.

    Args:
        path, split: As of `adasap.data.shards.read_shards`.
        classes: Names of the classes 0, 1, ...; by default the numbers that occur, for which all masks are read once.
        reading: How the images are read.
        options: What masks are called, and what they say.
    Raises:
        DataError: If a shard cannot be read, no pair is left, or a mask has another size than its image.
    """
    options, findings = options or ShardMaskOptions(), Findings[str]()
    kind, pairs = options.mask.lower().lstrip("."), []
    for sample in samples_in(find_shards(path, split), (kind,), Counter(), read=False):
        if kind in sample.beside:
            pairs.append(Pair(sample.key, sample.picture, sample.beside[kind][0]))
        else:
            findings.add("images without a mask, left out", str(sample))
    return _images(pairs, findings, classes, options, reading, path)


def read_mask_rows(
    path: str,
    split: str | None,
    classes: Sequence[str] | None = None,
    reading: Reading = AS_SHOWN,
    *,
    options: RowMaskOptions | None = None,
) -> SegmentationImages:
    """The images of a set of `datasets` with the masks of another of its columns of images.

    Args:
        path, split: As of `adasap.data.hugging_face.read_hugging_face`.
        classes: As of `read_mask_shards`.
        reading: How the images are read.
        options: The columns, and what masks say.
    Raises:
        DataError: If the set, split or columns are not there, no pair is left, or a mask has another size than its
            image.
    """
    options = options or RowMaskOptions()
    rows = open_rows(path, split)
    image = image_column(rows, path, options.image or ("image" if "image" in rows.features else None))
    mask = image_column(rows, path, options.mask, what="mask", but=image)
    images, masks = Rows.of(rows, image, path), Rows.of(rows, mask, path)
    pairs = [Pair(str(row), images.image(row), masks.image(row)) for row in range(len(rows))]
    return _images(pairs, Findings[str](), classes, options, reading, path)


def _images(
    pairs: Sequence[Pair],
    findings: Findings[str],
    classes: Sequence[str] | None,
    coding: MaskCoding,
    reading: Reading,
    where: str,
) -> SegmentationImages:
    found = checked_pairs(pairs, reading, findings, where=where)
    names, code = names_and_code(found, classes, coding.palette, coding.ignored, reading, where=where)
    return SegmentationImages(
        FileSamples(found, code, reading), names, [pair.name for pair in found], findings, where=where
    )
