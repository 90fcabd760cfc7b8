"""Folders of images and masks: plain ones, Pascal VOC, Cityscapes: each a way of pairing files and naming classes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from adasap.data.decoding import AS_SHOWN, Reading, decode_numbers
from adasap.data.files import EXTENSIONS
from adasap.data.findings import Findings
from adasap.data.folders import is_hidden
from adasap.data.splits import say_parts
from adasap.errors import DataError
from adasap.io import read_text
from adasap.tasks.segmentation.data.segmentation_set import (
    IGNORED,
    Colour,
    FileSamples,
    MaskCode,
    Pair,
    SegmentationImages,
    checked_pairs,
)

VOC_SEGMENTATION_CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""Pascal VOC's 20 classes and the background, which is one here (Everingham et al., 2010)."""

CITYSCAPES_IDS = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""The 19 classes that count, in the order of their train ids, and their numbers in `labelIds` files (Cordts et al.,
2016, arXiv:1604.01685)."""


def read_mask_folder(
    root: Path,
    split: str,
    *,
    classes: Sequence[str] | None = None,
    ignored: Sequence[int] = (IGNORED,),
    palette: Sequence[Colour] | None = None,
    mask_suffix: str = "",
    reading: Reading = AS_SHOWN,
) -> SegmentationImages:
    """Images and masks that share their names: `images/SPLIT/a.jpg` and `masks/SPLIT/a.png`, or `SPLIT/images/` and
    `SPLIT/masks/`; with the split "." `images/` and `masks/` themselves. Sub-folders are part of a name.

    A mask holds the number of each pixel's class (also as a palette image, whose indices count), or with a palette its
    colour. Classes are `classes`, else the lines of `classes.txt` in the root: a name each, which the three numbers of
    its colour may follow; a class called `void` is ignored. Without either the numbers that occur are the classes,
    for which all masks of the split are read once.

    Args:
        root: The folder that holds them.
        split: Such as `train`.
        classes: Names of the classes 0, 1, ...
        ignored: Numbers in masks that take no part.
        palette: Colour of each class, red, green and blue; black takes no part if no class has it.
        mask_suffix: What a mask is called more than its image, such as `_mask`.
        reading: How the files are read.
    Raises:
        DataError: If a folder is missing, no pair is left, or a mask has another size than its image.
    """
    findings: Findings[str] = Findings()
    image_folder, mask_folder = _folders(root, split)
    pairs = _paired(_files(image_folder, findings), _files(mask_folder, findings), mask_suffix, findings)
    if not pairs:
        raise DataError(
            f"{image_folder} and {mask_folder} have no names in common; {findings.summary() or 'both are empty'}; "
            "masks are called as their images, with `mask_suffix` behind it"
        )
    where = f"{root}, split {split}"
    pairs = checked_pairs(pairs, reading, findings, where=where)
    if classes is None:
        classes, palette = _listed_classes(root / "classes.txt", palette)
    names, code = names_and_code(pairs, classes, palette, ignored, reading, where=where)
    samples = FileSamples(pairs, code, reading)
    return SegmentationImages(samples, names, [pair.name for pair in pairs], findings, where=where)


_VOID = "void"


def _folders(root: Path, split: str) -> tuple[Path, Path]:
    choices = [tuple(root / kind / split for kind in _KINDS), tuple(root / split / kind for kind in _KINDS)]
    for images, masks in choices:
        if images.is_dir() and masks.is_dir():
            return images, masks
    missing = " and ".join(str(path.relative_to(root)) for path in choices[0])
    known = sorted({path.name for path in (root / _KINDS[0]).glob("*") if path.is_dir()})
    raise DataError(
        f"{root} holds no folders {missing}"
        + (f"; {say_parts(split, known)}" if known else "; lay images and masks out so")
    )


_KINDS = ("images", "masks")


def _files(folder: Path, findings: Findings[str]) -> dict[str, str]:
    """Name without its ending, relative to the folder -> path; of two files of a name the first, by their endings.

    Hidden folders and files are passed over.
    """
    found: dict[str, str] = {}
    listed: list[Path] = []
    for here, folders, names in os.walk(folder):
        findings.add("hidden files and folders, passed over", *filter(is_hidden, (*folders, *names)))
        folders[:] = [name for name in folders if not is_hidden(name)]
        listed += [Path(here) / name for name in names if not is_hidden(name)]
    for path in sorted(listed):
        if path.suffix.lower() in (*EXTENSIONS, ".gif"):
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                findings.add("files of a name that another has, left out", name)
            found.setdefault(name, str(path))
    return found


def _paired(images: dict[str, str], masks: dict[str, str], suffix: str, findings: Findings[str]) -> list[Pair]:
    """Pairs by name, sorted; images and masks that are alone are counted."""
    of_image = {name.removesuffix(suffix): path for name, path in masks.items() if name.endswith(suffix)}
    findings.add("images without a mask, left out", *sorted(images.keys() - of_image.keys()))
    findings.add("masks without an image, left out", *sorted(of_image.keys() - images.keys()))
    return [Pair(name, images[name], of_image[name]) for name in sorted(images.keys() & of_image.keys())]


def _listed_classes(
    listing: Path, palette: Sequence[Colour] | None
) -> tuple[Sequence[str] | None, Sequence[Colour] | None]:
    """Names and, if every line has one, colours of `classes.txt`; None where there is no such file."""
    if not listing.is_file():
        return None, palette
    lines = [line.split() for line in read_text(listing, what="a list of classes", error=DataError).splitlines()]
    lines = [words for words in lines if words and not words[0].startswith("#")]
    coloured = [len(words) > 3 and all(word.isdecimal() for word in words[-3:]) for words in lines]
    if not lines or any(coloured) != all(coloured):
        raise DataError(
            f"{listing} gives colours to {sum(coloured)} of {len(lines)} classes; give all of them one, or none"
        )
    if not all(coloured):
        return [" ".join(words) for words in lines], palette
    colours = [(int(words[-3]), int(words[-2]), int(words[-1])) for words in lines]
    return [" ".join(words[:-3]) for words in lines], palette or colours


def names_and_code(
    pairs: Sequence[Pair],
    classes: Sequence[str] | None,
    palette: Sequence[Colour] | None,
    ignored: Sequence[int],
    reading: Reading,
    *,
    where: str,
) -> tuple[tuple[str, ...], MaskCode]:
    """Names of the classes that count, and what masks say, by their colours or numbers (`read_mask_folder`)."""
    if palette is not None:
        return _palette_code(classes, palette, where=where)
    if classes is None:
        names = _numbered_classes(pairs, ignored, reading)
        return names, MaskCode.plain(len(names), ignored)
    return tuple(name for name in classes if name != _VOID), _listed_code(classes, ignored)


def _palette_code(
    classes: Sequence[str] | None, palette: Sequence[Colour], *, where: str
) -> tuple[tuple[str, ...], MaskCode]:
    """Names of the classes that count, and which colour says which."""
    listed = [str(number) for number in range(len(palette))] if classes is None else list(classes)
    if len(listed) != len(palette) or len(set(map(tuple, palette))) < len(palette):
        raise DataError(
            f"{where}: {len(listed)} classes and {len(set(map(tuple, palette)))} colours; give each its own"
        )
    names = tuple(name for name in listed if name != _VOID)
    class_of = {(0, 0, 0): IGNORED}
    for name, colour in zip(listed, palette, strict=True):
        class_of[colour[0], colour[1], colour[2]] = IGNORED if name == _VOID else names.index(name)
    return names, MaskCode(colours=class_of)


def _listed_code(classes: Sequence[str], ignored: Sequence[int]) -> MaskCode:
    """Numbers in the order of the list, those of `void` ignored."""
    names = [name for name in classes if name != _VOID]
    numbers = {place: IGNORED if name == _VOID else names.index(name) for place, name in enumerate(classes)}
    return MaskCode(numbers | dict.fromkeys(ignored, IGNORED))


def _numbered_classes(pairs: Sequence[Pair], ignored: Sequence[int], reading: Reading) -> tuple[str, ...]:
    """The numbers that occur, as names; all masks are read for them."""
    largest = 0
    for pair in pairs:
        numbers = set(np.unique(decode_numbers(pair.mask, reading).numpy()).tolist()) - set(ignored)
        largest = max(largest, *numbers, 0)
        if largest >= IGNORED:
            raise DataError(
                f"{pair.mask} holds {largest}; classes are numbered from 0 to {IGNORED - 1}: name the classes, or have "
                f"{largest} ignored"
            )
    return tuple(str(number) for number in range(largest + 1))


def read_voc_masks(root: Path, split: str, reading: Reading = AS_SHOWN) -> SegmentationImages:
    """Pascal VOC's segmentation: `JPEGImages/`, `SegmentationClass/`, `ImageSets/Segmentation/SPLIT.txt`.

    Masks are palette images whose indices are the classes; 255 is the band around objects, which is ignored. Other
    classes than VOC's are the lines of `classes.txt` in the folder, background first.

    Args:
        root: The folder that holds them, such as `VOCdevkit/VOC2012`.
        split: A list, such as `train`, `val`, `trainval`.
        reading: How the files are read.
    Raises:
        DataError: If a folder or the list is missing, or no pair is left.
    """
    listing = root / "ImageSets" / "Segmentation" / f"{split}.txt"
    for needed in ("JPEGImages", "SegmentationClass"):
        if not (root / needed).is_dir():
            raise DataError(f"{root} has no folder {needed}, so it is not in the layout of Pascal VOC's segmentation")
    if not listing.is_file():
        raise DataError(
            f"{listing} does not exist; {say_parts(split, sorted(path.stem for path in listing.parent.glob('*.txt')))}"
        )
    findings: Findings[str] = Findings()
    images, masks = (_files(root / folder, findings) for folder in ("JPEGImages", "SegmentationClass"))
    lines = read_text(listing, what="a list of images", error=DataError).splitlines()
    names = list(dict.fromkeys(line.strip() for line in lines if line.strip() and not line.startswith("#")))
    findings.add("images that are listed and not there, left out", *(name for name in names if name not in images))
    findings.add("images without a mask, left out", *(name for name in names if name in images and name not in masks))
    both = [name for name in names if name in images and name in masks]
    pairs = [Pair(name, images[name], masks[name]) for name in both]
    pairs = checked_pairs(pairs, reading, findings, where=f"{root}, split {split}")
    classes = _listed_classes(root / "classes.txt", None)[0] or VOC_SEGMENTATION_CLASSES
    samples = FileSamples(pairs, MaskCode.plain(len(classes)), reading)
    return SegmentationImages(samples, classes, [pair.name for pair in pairs], findings, where=f"{root}, split {split}")


def read_cityscapes(root: Path, split: str, reading: Reading = AS_SHOWN) -> SegmentationImages:
    """Cityscapes' layout: `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`.

    The 19 classes that count, in the order of their train ids; all others are ignored. `*_labelTrainIds.png` is taken
    where it is there, which says the same.

    Args:
        root: The folder that holds both.
        split: `train`, `val` or `test`.
        reading: How the files are read.
    Raises:
        DataError: If a folder is missing or no pair is left.
    """
    folders = [root / "leftImg8bit" / split, root / "gtFine" / split]
    for folder in folders:
        if not folder.is_dir():
            known = sorted(path.name for path in folder.parent.glob("*") if path.is_dir())
            raise DataError(
                f"{folder} does not exist; {say_parts(split, known) if known else 'wanted the layout of Cityscapes'}"
            )
    findings: Findings[str] = Findings()
    where = f"{root}, split {split}"
    images, masks = (_files(folder, findings) for folder in folders)
    images = {name.removesuffix("_leftImg8bit"): path for name, path in images.items() if name.endswith("_leftImg8bit")}
    trained, plain = (
        {name.removesuffix(suffix): path for name, path in masks.items() if name.endswith(suffix)}
        for suffix in ("_gtFine_labelTrainIds", "_gtFine_labelIds")
    )
    uses_train_ids = trained.keys() >= images.keys() & (trained.keys() | plain.keys())
    pairs = _paired(images, trained if uses_train_ids else plain, "", findings)
    if not pairs:
        raise DataError(
            f"{where}: no image has a mask; {findings.summary() or 'the folders are empty'}; unpack gtFine too"
        )
    pairs = checked_pairs(pairs, reading, findings, where=where)
    code = MaskCode.plain(len(CITYSCAPES_IDS)) if uses_train_ids else MaskCode(_cityscapes_numbers())
    samples = FileSamples(pairs, code, reading)
    return SegmentationImages(samples, tuple(CITYSCAPES_IDS), [pair.name for pair in pairs], findings, where=where)


def _cityscapes_numbers() -> dict[int, int]:
    numbers = dict.fromkeys(range(34), IGNORED)
    return numbers | {number: label for label, number in enumerate(CITYSCAPES_IDS.values())} | {IGNORED: IGNORED}
