"""Reads boxes in the JSON of COCO (Lin et al., 2014)."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adasap.data.annotation_values import flag, identifier, leaves_folder, number
from adasap.data.decoding import AS_SHOWN, Reading, header_or_none
from adasap.data.findings import shortened
from adasap.data.orientation import Header
from adasap.data.splits import say_parts
from adasap.errors import DataError
from adasap.io import read_json
from adasap.tasks.detection.data.detection_set import (
    NO_CLASS,
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

Id = int | str
MOST_PIXELS = 1_000_000
"""A longer side than this is not a size."""


@dataclass
class _Image:
    """An image of the listing, its (height, width) or None, and its objects; `broken` if one cannot be read."""

    id: Id
    name: str
    size: tuple[int, int] | None
    objects: list[NamedObject] = field(default_factory=list)
    broken: bool = False


def read_coco(
    path: Path, split: str | None = None, classes: Sequence[str] | None = None, reading: Reading = AS_SHOWN
) -> DetectionImages:
    """The images of an annotation file, sorted by their identifiers; crowds come as difficult objects.

    Labels are the identifiers of the categories where these are small whole numbers from 1, as in COCO, where 80
    classes have numbers up to 90 (the outputs of published detectors; the numbers between are named `N/A`). Otherwise
    they are 1, 2, ... in the order of the identifiers.

    Identifiers are joined whatever their type: 1, 1.0 and "1" are one, "01" is another. Where one of the images has a
    text, numbers come before texts, and `image_id` is the image's place instead. A file that is listed under several
    identifiers is one image with the objects of all.

    Args:
        path: The JSON, or the folder that holds it as `annotations/instances_SPLIT.json`, `SPLIT.json`, or as
            `_annotations.coco.json` below `SPLIT/`. Images lie in the folder `SPLIT` beside `annotations`, in `images/`
            (or `images/SPLIT/`), or beside the JSON, and never outside these folders.
        split: Such as `val2017`; needed where the path is a folder.
        classes: Names of the classes to read, labels 1, 2, ...; objects of others are left out and counted.
        reading: How the image files are read.
    Raises:
        DataError: If the file or all images are missing, it does not hold what it should, or no annotation belongs to
            a listed image and category.
    """
    listing = _listing(path, split)
    content, findings = _content(listing), box_findings()
    names = _category_names(content["categories"], findings, listing)
    chosen = check_class_names(classes or _class_names(names), where="`classes`" if classes else str(listing))
    numbers = {name: label for label, name in enumerate(chosen, start=1)}
    by_id = _images(content["images"], findings, listing)
    _give_objects(content["annotations"] or (), by_id, names, findings, listing)
    images = sorted({image.name: image for image in by_id.values()}.values(), key=lambda image: _order(image.id))
    numbered = all(isinstance(image.id, int) and abs(image.id) < 1 << 63 for image in images)
    files = _file_paths([image.name for image in images], _image_folders(listing))
    kept, targets = [], []
    objects: list[NamedObject] = []
    for place, image in enumerate(images):
        file, name, size = files[image.name], image.name, image.size
        header = header_or_none(file, reading)
        if file is None or header is None or image.broken or size is None:
            findings.add("missing" if header is None else "broken" if image.broken else "no size", name)
            continue
        mine = boxes_as_read(image.objects, header, size, reading, findings, name=name)
        size = size_as_read(header, size, reading)
        image_id = int(image.id) if numbered else place
        kept.append((file, size))
        objects += mine
        targets.append(objects_in_image(mine, numbers, size, findings, name=name, image_id=image_id))
    if not kept:
        found = findings.summary() or "it lists none"
        move = "put the images beside it" if findings.count("missing") else "correct its annotations"
        raise DataError(f"{listing}: no image is left; {found}; {move}")
    annotations = Annotations.of_targets(targets)
    require_objects(annotations, objects, chosen, findings, where=str(listing))
    pixels = FilePixels([file for file, _ in kept], [size for _, size in kept], reading)
    return DetectionImages(pixels, annotations, chosen, findings, where=str(listing))


def _order(key: Id) -> tuple[bool, Id]:
    """Numbers before texts."""
    return isinstance(key, str), key


def size_as_read(header: Header, annotated: tuple[int, int], reading: Reading) -> tuple[int, int]:
    """Height and width of the image as it is read; those of the annotation where it is of another image altogether.

    Such an image is refused when it is read.
    """
    known = annotated in (header.shown_size, (header.height, header.width))
    return header.size(reading.exif_orientation) if known else annotated


def _listing(path: Path, split: str | None) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path} does not exist; give COCO's JSON, or the folder that holds `annotations/`")
    names = [
        f"annotations/instances_{split}.json",
        f"annotations/{split}.json",
        f"{split}.json",
        f"{split}/_annotations.coco.json",
    ]
    found = [path / name for name in names if (path / name).is_file()]
    if not found:
        places = (path / "annotations", path)
        known = [p.stem.removeprefix("instances_") for place in places for p in sorted(place.glob("*.json"))]
        known += [f"{p.parent.name}/" for p in sorted(path.glob("*/_annotations.coco.json"))]
        raise DataError(f"{path} holds none of {', '.join(names)}; {say_parts(split, known)}; or give the JSON itself")
    return found[0]


def _content(listing: Path) -> dict[str, Any]:
    wanted = "wanted COCO's `images`, `annotations` and `categories`"
    content = read_json(listing, what="COCO's JSON", error=DataError)
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        given = ", ".join(content)[:200] if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{listing} holds {given}; {wanted}")
    for key in ("images", "annotations", "categories"):
        if not isinstance(content[key], list) and (key != "annotations" or content[key] is not None):
            raise DataError(f"{listing}: `{key}` is {_short(content[key])}; wanted a list")
    return content


def _category_names(categories: Sequence[Any], findings: BoxFindings, listing: Path) -> dict[Id, str]:
    """Name of each identifier, in their order; of two that share a name each gets its number added."""
    names: dict[Id, str] = {}
    for place, category in enumerate(categories):
        name = category.get("name") if isinstance(category, dict) else None
        if isinstance(name, bool) or not isinstance(name, str | int) or not str(name).strip():
            raise DataError(f"{listing}: categories[{place}] is {_short(category)}; wanted an id and a name")
        key = _id_of(category, f"categories[{place}]", listing)
        name = unicodedata.normalize("NFC", str(name).strip())
        if names.get(key, name) != name:
            both = f"{shortened(names[key])!r} and {shortened(name)!r}"
            raise DataError(f"{listing}: category {_short(key)} is {both}; give each its own id")
        if key in names:
            findings.add("double", f"category {name}")
        names[key] = name
    if not names:
        raise DataError(f"{listing} has no categories; list at least one with its id and name")
    ordered, count = sorted(names, key=_order), Counter(names.values())
    return {key: names[key] if count[names[key]] == 1 else f"{names[key]} ({key})" for key in ordered}


def _class_names(names: Mapping[Id, str]) -> tuple[str, ...]:
    labels = [key for key in names if isinstance(key, int)]
    if len(labels) == len(names) and min(labels) >= 1 and max(labels) <= 2 * len(labels):
        return tuple(names.get(label, NO_CLASS) for label in range(1, max(labels) + 1))
    return tuple(names.values())


def _images(entries: Sequence[Any], findings: BoxFindings, listing: Path) -> dict[Id, _Image]:
    """Identifier -> image; identifiers of one file share theirs, and files that share an identifier are left out."""
    by_id: dict[Id, _Image] = {}
    by_name: dict[str, _Image] = {}
    unclear: dict[Id, set[str]] = {}
    for place, entry in enumerate(entries):
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not name:
            given = f"an image is {_short(entry)} (images[{place}])"
            raise DataError(f"{listing}: {given}; wanted id, file_name, height and width")
        if leaves_folder(name):
            raise DataError(
                f"{listing}: the file_name {name[:200]!r} leaves the folder of the images; give it relative to that "
                "folder, without `..`"
            )
        key = _id_of(entry, f"images[{place}]", listing)
        if key in by_id and by_id[key].name != name:
            unclear.setdefault(key, {by_id[key].name}).add(name)
        if name in by_name:
            findings.add("double", name)
        image = by_name.setdefault(name, _Image(key, name, _size_of(entry)))
        by_id.setdefault(key, image)
    for key, names in unclear.items():
        for name in sorted(names):
            findings.add("same id", name)
        del by_id[key]
    return by_id


def _id_of(entry: Mapping[str, Any], place: str, listing: Path) -> Id:
    try:
        return identifier(entry.get("id"))
    except ValueError as error:
        raise DataError(f"{listing}: {place} is {_short(entry)}; its id must be a whole number or a text") from error


def _size_of(entry: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width, or None where they are no whole numbers of pixels."""
    try:
        height, width = number(entry.get("height")), number(entry.get("width"))
    except ValueError:
        return None
    whole = all(side == side // 1 and 1 <= side <= MOST_PIXELS for side in (height, width))
    return (int(height), int(width)) if whole else None


def _give_objects(
    entries: Sequence[Any],
    images: Mapping[Id, _Image],
    names: Mapping[Id, str],
    findings: BoxFindings,
    listing: Path,
) -> None:
    """Gives each image its objects.

    Raises:
        DataError: If there are annotations and none belongs to a listed image and category.
    """
    for place, entry in enumerate(entries):
        if not isinstance(entry, dict):
            given = f"an annotation is {_short(entry)} (annotations[{place}])"
            raise DataError(f"{listing}: {given}; wanted image_id, category_id and bbox")
        image, name = (_joined(entry.get(key), to) for key, to in (("image_id", images), ("category_id", names)))
        if image is None or name is None:
            key = "image_id" if image is None else "category_id"
            findings.add("orphan", f"{key} {_short(entry.get(key))}")
            continue
        found = _object(entry, name)
        if found is None:
            image.broken = True
        else:
            image.objects.append(found)
    if entries and findings.count("orphan") == len(entries):
        raise DataError(_nothing_joined(entries[0], images, names, listing))


def _joined(value: object, to: Mapping[Id, Any]) -> Any:
    try:
        return to.get(identifier(value))
    except ValueError:
        return None


def _nothing_joined(entry: Mapping[str, Any], images: Mapping[Id, Any], names: Mapping[Id, str], listing: Path) -> str:
    known = {"image_id": images, "category_id": names}
    wrong = [key for key, to in known.items() if _joined(entry.get(key), to) is None]
    lists = {"image_id": "images", "category_id": "categories"}
    return f"{listing}: none of the annotations belongs to a listed image and category; " + "; ".join(
        f"the first has the {key} {_short(entry.get(key))}, the {lists[key]} have ids such as "
        f"{', '.join(_short(one) for one in list(known[key])[:3]) or '(none)'}"
        for key in wrong
    )


def _object(entry: Mapping[str, Any], name: str) -> NamedObject | None:
    box = entry.get("bbox")
    try:
        left, top, width, height = map(number, box if isinstance(box, list) else ())
    except ValueError:
        return None
    return name, (left, top, left + width, top + height), flag(entry.get("iscrowd"))


def _short(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) and len(str(value)) < 80 else str(value)[:80]


def _image_folders(listing: Path) -> list[Path]:
    split = listing.stem.removeprefix("instances_")
    above = listing.parent.parent if listing.parent.name == "annotations" else listing.parent
    return [above / split, above / "images" / split, above / "images", listing.parent]


def _file_paths(names: Sequence[str], folders: Sequence[Path]) -> dict[str, str | None]:
    """File of each name, or None; a folder is listed once instead of asking for each of 118,287 files."""
    listed = [(str(folder), {entry.name for entry in os.scandir(folder)}) for folder in folders if folder.is_dir()]
    found: dict[str, str | None] = {}
    for name in names:
        parts = Path(name).parts
        paths = (os.path.join(folder, name) for folder, there in listed if parts and parts[0] in there)
        found[name] = next((path for path in paths if parts[0] == name or os.path.isfile(path)), None)
    return found
