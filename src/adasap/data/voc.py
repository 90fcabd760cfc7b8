"""Reads Pascal VOC as it lies on disk, and any set in its layout (Everingham et al., 2010)."""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from adasap.data.detection_set import Annotations, DetectionImages, FilePixels, Findings, objects_in_image
from adasap.data.files import EXTENSIONS
from adasap.errors import DataError, suggestion

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The 20 classes of Pascal VOC 2007 and 2012; `aeroplane` has label 1."""

UNIONS = {
    "07+12": "VOC2007/trainval+VOC2012/trainval",
    "07++12": "VOC2007/trainval+VOC2007/test+VOC2012/trainval",
}
"""The usual training sets by their names in papers: for the test sets of 2007 and of 2012."""

Box = tuple[float, float, float, float]
NamedObject = tuple[str, Box, bool]


@dataclass(frozen=True)
class _Record:
    """One image as it was read: its name, file, (height, width), and objects."""

    name: str
    file: str
    size: tuple[int, int]
    objects: tuple[NamedObject, ...]


def read_voc(root: Path, split: str, classes: Sequence[str] | None = None) -> DetectionImages:
    """Images of one or several splits, with what is wrong in them counted (`DetectionImages.findings`).

    Boxes on disk are 1-based and inclusive; here they are (xmin - 1, ymin - 1, xmax, ymax), so that areas and overlaps
    are the benchmark's own. An image without a readable annotation, or without a file, is left out.

    Args:
        root: The folder that holds `JPEGImages`, `Annotations` and `ImageSets/Main`, or one that holds several such.
        split: A list in `ImageSets/Main`, such as `trainval`; `FOLDER/SPLIT` below the root; several joined by `+`, as
            in `VOC2007/trainval+VOC2012/trainval`, which is also called `07+12`.
        classes: Class names, labels 1, 2, ...; by default Pascal's 20 if no other name occurs in these splits, else the
            lines of `classes.txt` in the (first) folder, else all names that occur in the folders, sorted.
    Raises:
        DataError: If a folder or list is missing, or no image is left.
    """
    findings = Findings()
    parts = [_part(root, name) for name in UNIONS.get(split, split).split("+")]
    records = [record for folder, listing in parts for record in _records(folder, listing, findings)]
    if not records:
        raise DataError(
            f"{root}, split {split!r}: no image is left; {findings.summary() or 'the list is empty'}; complete the "
            "folder, or choose another split"
        )
    names = tuple(classes) if classes else _class_names(records, list(dict.fromkeys(folder for folder, _ in parts)))
    numbers = {name: number for number, name in enumerate(names, start=1)}
    annotations = Annotations.of_targets(
        objects_in_image(record.objects, numbers, record.size, findings, name=record.name, image_id=index)
        for index, record in enumerate(records)
    )
    pixels = FilePixels([record.file for record in records], [record.size for record in records])
    return DetectionImages(pixels, annotations, names, findings, where=f"{root}, split {split}")


def _part(root: Path, name: str) -> tuple[Path, Path]:
    """The folder in VOC layout and the list of one split.

    Raises:
        DataError: If one is missing.
    """
    below, _, split = name.strip().rpartition("/")
    folder = root / below
    for needed in ("JPEGImages", "Annotations", "ImageSets/Main"):
        if not (folder / needed).is_dir():
            inner = sorted(path.parent.name for path in root.glob("*/JPEGImages"))
            hint = f"; name a split such as {inner[0]}/trainval" if inner else ""
            raise DataError(f"{folder} has no folder {needed}, so it is not in the layout of Pascal VOC{hint}")
    listing = folder / "ImageSets" / "Main" / f"{split}.txt"
    if not listing.is_file():
        known = sorted(path.stem for path in listing.parent.glob("*.txt"))
        raise DataError(f"{listing} does not exist; {suggestion(split, known)}")
    return folder, listing


def _records(folder: Path, listing: Path, findings: Findings) -> Iterator[_Record]:
    """The images that a list names, those that can be used."""
    images = folder / "JPEGImages"
    file_of = {Path(entry.name).stem: entry.path for entry in os.scandir(images) if _is_image(entry.name)}
    for name in (line.split()[0] for line in listing.read_text().splitlines() if line.strip()):
        size = _image_size(file_of.get(name))
        if size is None:
            findings.add("missing", name)
            continue
        objects = read_annotation(folder / "Annotations" / f"{name}.xml")
        if objects is None:
            findings.add("broken", name)
            continue
        yield _Record(name, file_of[name], size, objects)


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _image_size(path: str | None) -> tuple[int, int] | None:
    """Height and width by the file's header, or None: sizes in annotations are often wrong."""
    if path is None:
        return None
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def read_annotation(path: Path) -> tuple[NamedObject, ...] | None:
    """The objects of one annotation: class, (x_min, y_min, x_max, y_max) from 0, difficult; None if it is broken."""
    try:
        root = ElementTree.parse(path).getroot()
        return tuple(_object(element) for element in root.findall("object"))
    except (OSError, ElementTree.ParseError, ValueError):
        return None


def _object(element: ElementTree.Element) -> NamedObject:
    """ValueError for an object without a name or a number."""
    name, box = (element.findtext("name") or "").strip(), element.find("bndbox")
    if not name or box is None:
        raise ValueError("an object needs a name and a bndbox")
    left, top, right, bottom = (float(box.findtext(key) or "") for key in ("xmin", "ymin", "xmax", "ymax"))
    difficult = (element.findtext("difficult") or "0").strip()
    return name, (left - 1, top - 1, right, bottom), difficult not in ("0", "")


def _class_names(records: Sequence[_Record], folders: Sequence[Path]) -> tuple[str, ...]:
    found = {name for record in records for name, _, _ in record.objects}
    listing = folders[0] / "classes.txt"
    if listing.is_file():
        return tuple(line.strip() for line in listing.read_text().splitlines() if line.strip())
    if found <= set(VOC_CLASSES):
        return VOC_CLASSES
    everywhere = (path for folder in folders for path in sorted((folder / "Annotations").glob("*.xml")))
    return tuple(sorted({name for path in everywhere for name, _, _ in read_annotation(path) or ()}))
