"""Reads Pascal VOC as it lies on disk, and any set in its layout (Everingham et al., 2010)."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

from adasap.data.annotation_values import flag, number
from adasap.data.decoding import AS_SHOWN, Reading, header_or_none
from adasap.data.files import EXTENSIONS
from adasap.data.splits import say_parts
from adasap.errors import DataError
from adasap.io import read_text
from adasap.tasks.detection.data.annotation_xml import read_xml
from adasap.tasks.detection.data.detection_set import (
    Annotations,
    BoxFindings,
    DetectionImages,
    FilePixels,
    NamedObject,
    box_findings,
    boxes_as_read,
    check_class_names,
    objects_in_image,
    require_objects,
)

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

_COLUMN = frozenset({"-1", "0", "1"})
"""The second column of a list for one class: the image does not show it, shows it as difficult only, shows it."""


@dataclass(frozen=True)
class _Record:
    """One image as it was read: its name, file, (height, width), and objects."""

    name: str
    file: str
    size: tuple[int, int]
    objects: tuple[NamedObject, ...]


def read_voc(
    root: Path, split: str, classes: Sequence[str] | None = None, reading: Reading = AS_SHOWN
) -> DetectionImages:
    """Images of one or several splits, with what is wrong in them counted (`DetectionImages.findings`).

    Boxes on disk are 1-based and inclusive; here they are (xmin - 1, ymin - 1, xmax, ymax), so that areas and overlaps
    are the benchmark's own. An image without a readable annotation, or without a file, is left out.

    A list names an image on each line, perhaps followed by a column of -1, 0 and 1, as in `cat_train.txt`; all its
    images are read, whatever that column says. Blank lines and lines that begin with `#` are passed over.

    Args:
        root: The folder that holds `JPEGImages`, `Annotations` and `ImageSets/Main`, or one that holds several such.
        split: A list in `ImageSets/Main`, such as `trainval`; `FOLDER/SPLIT` below the root; several joined by `+`, as
            in `VOC2007/trainval+VOC2012/trainval`, which is also called `07+12`.
        classes: Class names, labels 1, 2, ...; by default Pascal's 20 if no other name occurs in these splits, else the
            lines of `classes.txt` in the (first) folder, else all names that occur in the folders, sorted.
        reading: How the image files are read.
    Raises:
        DataError: If a folder or list is missing, or no image is left.
    """
    findings = box_findings()
    parts = [_part(root, name) for name in UNIONS.get(split, split).split("+")]
    records = [record for folder, listing in parts for record in _records(folder, listing, reading, findings)]
    if not records:
        raise DataError(
            f"{root}, split {split!r}: no image is left; {findings.summary() or 'the list is empty'}; "
            f"{'correct' if findings.count('broken') else 'complete'} the folder, or choose another split"
        )
    folders = list(dict.fromkeys(folder for folder, _ in parts))
    names = check_class_names(classes, where="`classes`") if classes else _class_names(records, folders)
    numbers = {name: number for number, name in enumerate(names, start=1)}
    annotations = Annotations.of_targets(
        objects_in_image(record.objects, numbers, record.size, findings, name=record.name, image_id=index)
        for index, record in enumerate(records)
    )
    every = [found for record in records for found in record.objects]
    require_objects(annotations, every, names, findings, where=f"{root}, split {split!r}")
    pixels = FilePixels([record.file for record in records], [record.size for record in records], reading)
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
        raise DataError(f"{listing} does not exist; {say_parts(split, known)}")
    return folder, listing


def _records(folder: Path, listing: Path, reading: Reading, findings: BoxFindings) -> Iterator[_Record]:
    """The images that a list names, those that can be used."""
    files = sorted(entry.name for entry in os.scandir(folder / "JPEGImages") if _is_image(entry.name))
    file_of = {Path(name).stem: str(folder / "JPEGImages" / name) for name in reversed(files)}  # of two, the first
    names = _listed_names(read_text(listing, what="a list of images", error=DataError), file_of)
    for name, times in Counter(names).items():
        for _ in range(times - 1):
            findings.add("double", name)
        header = header_or_none(file_of.get(name), reading)
        if header is None:
            findings.add("missing", name)
            continue
        root = _root(folder / "Annotations" / f"{name}.xml")
        objects = None if root is None else _objects(root)
        if root is None or objects is None:
            findings.add("broken", name)
            continue
        for _, box, _ in objects:
            if -1 in box[:2]:
                findings.add("from 0", name)
        stated = _annotated_size(root)
        if stated is not None and stated not in (header.shown_size, (header.height, header.width)):
            findings.add("other size", _sizes(name, stated, header.shown_size))
        objects = tuple(boxes_as_read(objects, header, stated, reading, findings, name=name))
        yield _Record(name, file_of[name], header.size(reading.exif_orientation), objects)


def _listed_names(text: str, there: Container[str]) -> Iterator[str]:
    """The names in a list, which may hold spaces: a whole line where an image is called so, else without its column."""
    for line in filter(None, map(str.strip, text.splitlines())):
        first, last = line.rsplit(None, 1) if len(line.split()) > 1 else (line, "")
        if line in there:
            yield line
        elif first in there or last in _COLUMN:
            yield first
        elif not line.startswith("#"):
            yield line


def _is_image(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS)


def _sizes(name: str, stated: tuple[int, int], found: tuple[int, int]) -> str:
    turned = ", one of the two is turned" if stated == found[::-1] else ""
    return f"{name}: {stated[1]} x {stated[0]}, image {found[1]} x {found[0]}{turned}"


def _annotated_size(root: Element) -> tuple[int, int] | None:
    """Height and width that an annotation states; None if it states none."""
    size = root.find("size")
    try:
        height, width = (int(float((size.findtext(key) if size is not None else None) or 0)) for key in _SIZE)
    except (ValueError, OverflowError):
        return None
    return (height, width) if height > 0 and width > 0 else None


_SIZE = ("height", "width")


def read_annotation(path: Path) -> tuple[NamedObject, ...] | None:
    """The objects of one annotation: class, (x_min, y_min, x_max, y_max) from 0, difficult; None if it is broken."""
    root = _root(path)
    return None if root is None else _objects(root)


def _root(path: Path) -> Element | None:
    """The element `annotation` of a file, which may stand in another; None if there is none."""
    try:
        root = read_xml(path)
    except (OSError, ValueError):
        return None
    return root if root.tag == "annotation" else root.find(".//annotation")


def _objects(root: Element) -> tuple[NamedObject, ...] | None:
    """None if an object cannot be read, or lies where an annotation has none."""
    objects = root.findall("object")
    if len(objects) < sum(1 for _ in root.iter("object")):
        return None
    try:
        return tuple(map(_object, objects))
    except ValueError:
        return None


def _object(element: Element) -> NamedObject:
    """ValueError for an object without a name or a number."""
    name, box = unicodedata.normalize("NFC", (element.findtext("name") or "").strip()), element.find("bndbox")
    if not name or box is None:
        raise ValueError("an object needs a name and a bndbox")
    left, top, right, bottom = (number(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    return name, (left - 1, top - 1, right, bottom), flag(element.findtext("difficult"))


def _class_names(records: Sequence[_Record], folders: Sequence[Path]) -> tuple[str, ...]:
    listing = folders[0] / "classes.txt"
    if listing.is_file():
        lines = read_text(listing, what="a list of class names", error=DataError).splitlines()
        return check_class_names([line.strip() for line in lines if line.strip()], where=str(listing))
    if {name for record in records for name, _, _ in record.objects} <= set(VOC_CLASSES):
        return VOC_CLASSES
    everywhere = (path for folder in folders for path in sorted((folder / "Annotations").glob("*.xml")))
    return tuple(sorted({name for path in everywhere for name, _, _ in read_annotation(path) or ()}))
