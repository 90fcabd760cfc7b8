"""Reads boxes in the JSON of COCO (Lin et al., 2014)."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from adasap.data.detection_set import Annotations, DetectionImages, FilePixels, Findings, objects_in_image
from adasap.errors import DataError


def read_coco(path: Path, split: str | None = None, classes: Sequence[str] | None = None) -> DetectionImages:
    """The images of an annotation file, sorted by their identifiers; crowds come as difficult objects.

    Labels are the identifiers of the categories where these are small whole numbers from 1, as in COCO, where 80
    classes have numbers up to 90 (the outputs of published detectors; the numbers between are named `N/A`). Otherwise
    they are 1, 2, ... in the order of the identifiers.

    Args:
        path: The JSON, or the folder that holds it as `annotations/instances_SPLIT.json`, `SPLIT.json`, or as
            `_annotations.coco.json` below `SPLIT/`. Images lie in the folder `SPLIT` beside `annotations`, in `images/`
            (or `images/SPLIT/`), or beside the JSON.
        split: Such as `val2017`; needed where the path is a folder.
        classes: Names of the classes to read, labels 1, 2, ...; objects of others are left out and counted.
    Raises:
        DataError: If the file or all images are missing, or it does not hold what it should.
    """
    listing = _listing(path, split)
    content = _content(listing)
    findings = Findings()
    names = _category_names(content, listing)
    chosen = tuple(classes) if classes else _class_names(names)
    numbers = {name: number for number, name in enumerate(chosen, start=1)}
    objects = _objects_of_images(content, names, listing)
    files = _file_paths(content["images"], _image_folders(listing))
    kept, targets = [], []
    for image in sorted(content["images"], key=lambda image: int(image["id"])):
        name, size = str(image["file_name"]), (int(image["height"]), int(image["width"]))
        mine = objects.get(image["id"], [])
        if files[name] is None:
            findings.add("missing", name)
        elif mine is None:
            findings.add("broken", name)
        else:
            kept.append((files[name], size))
            targets.append(objects_in_image(mine, numbers, size, findings, name=name, image_id=int(image["id"])))
    if not kept:
        found = findings.summary() or "it lists none"
        raise DataError(f"{listing}: no image is left; {found}; put the images beside it")
    pixels = FilePixels([str(file) for file, _ in kept], [size for _, size in kept])
    return DetectionImages(pixels, Annotations.of_targets(targets), chosen, findings, where=str(listing))


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
        raise DataError(f"{path} holds none of {', '.join(names)}; name the split, or give the JSON itself")
    return found[0]


def _content(listing: Path) -> dict[str, Any]:
    wanted = "wanted COCO's `images`, `annotations` and `categories`"
    try:
        content = json.loads(listing.read_text())
    except (OSError, ValueError) as error:
        raise DataError(f"{listing} is no JSON ({error}); {wanted}") from error
    if not isinstance(content, dict) or not {"images", "annotations", "categories"} <= content.keys():
        given = ", ".join(content) if isinstance(content, dict) else type(content).__name__
        raise DataError(f"{listing} holds {given}; {wanted}")
    for image in content["images"]:
        if not isinstance(image, dict) or not {"id", "file_name", "height", "width"} <= image.keys():
            raise DataError(f"{listing}: an image is {str(image)[:80]}; wanted id, file_name, height and width")
    return content


def _category_names(content: Mapping[str, Any], listing: Path) -> dict[int, str]:
    """Name of each identifier, in their order; of two that share a name each gets its number added."""
    try:
        pairs = sorted((int(category["id"]), str(category["name"])) for category in content["categories"])
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{listing}: a category has no id or name ({error})") from error
    if not pairs:
        raise DataError(f"{listing} has no categories; list at least one with its id and name")
    names = [name for _, name in pairs]
    return {number: name if names.count(name) == 1 else f"{name} ({number})" for number, name in pairs}


def _class_names(names: Mapping[int, str]) -> tuple[str, ...]:
    if min(names) >= 1 and max(names) <= 2 * len(names):
        return tuple(names.get(number, "N/A") for number in range(1, max(names) + 1))
    return tuple(names.values())


def _objects_of_images(content: Mapping[str, Any], names: Mapping[int, str], listing: Path) -> dict[Any, Any]:
    """Image -> its objects, or None where one of them cannot be read."""
    objects: dict[Any, list[Any] | None] = {}
    for entry in content["annotations"]:
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise DataError(f"{listing}: an annotation is {str(entry)[:80]}; wanted image_id, category_id and bbox")
        mine = objects.setdefault(entry["image_id"], [])
        found = _object(entry, names)
        if mine is not None and found is not None:
            mine.append(found)
        else:
            objects[entry["image_id"]] = None
    return objects


def _object(entry: Mapping[str, Any], names: Mapping[int, str]) -> Any:
    try:
        left, top, width, height = (float(number) for number in entry["bbox"])
        name = names[int(entry["category_id"])]
    except (KeyError, TypeError, ValueError):
        return None
    if not all(map(math.isfinite, (left, top, width, height))):
        return None
    return name, (left, top, left + width, top + height), bool(entry.get("iscrowd", 0))


def _image_folders(listing: Path) -> list[Path]:
    split = listing.stem.removeprefix("instances_")
    above = listing.parent.parent if listing.parent.name == "annotations" else listing.parent
    return [above / split, above / "images" / split, above / "images", listing.parent]


def _file_paths(images: Sequence[Mapping[str, Any]], folders: Sequence[Path]) -> dict[str, str | None]:
    """File of each name, or None; a folder is listed once instead of asking for each of 118,287 files."""
    listed = [(str(folder), {entry.name for entry in os.scandir(folder)}) for folder in folders if folder.is_dir()]
    found: dict[str, str | None] = {}
    for name in (str(image["file_name"]) for image in images):
        first = Path(name).parts[0] if name else ""
        paths = (os.path.join(folder, name) for folder, names in listed if first in names)
        found[name] = next((path for path in paths if first == name or os.path.isfile(path)), None)
    return found
