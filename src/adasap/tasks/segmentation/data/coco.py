"""Masks from the outlines of COCO's JSON (Lin et al., 2014): each pixel the class of the object that covers it."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adasap.data.annotation_values import identifier, leaves_folder, number
from adasap.data.decoding import AS_SHOWN, Reading, decode_image, read_image_header
from adasap.data.findings import Findings
from adasap.data.orientation import frame_of, turned, unturned
from adasap.errors import DataError, suggestion
from adasap.io import read_json
from adasap.tasks.segmentation.data.segmentation_set import IGNORED, Sample, SegmentationImages

Id = int | str
BACKGROUND = "background"
_MISSING = "images that are not there or cannot be opened, left out"
_MOST_BEYOND = 16
"""A corner may lie so many times the image's sides away from it."""


@dataclass
class _Entry:
    """An image of the listing, and (class, outline) of its objects."""

    name: str
    size: tuple[int, int]
    path: str = ""
    orientation: int = 1
    objects: list[tuple[int, Any]] = field(default_factory=list)


def read_coco_masks(
    path: Path, split: str | None = None, classes: Sequence[str] | None = None, reading: Reading = AS_SHOWN
) -> SegmentationImages:
    """The images of an annotation file; class 0 is the background, then its categories in the order of their ids.

    Pixels that objects of different classes cover are ignored, crowds count as their class. Images without objects of
    the classes stay, as background. Ids are joined whatever their type: 1, 1.0 and "1" are one, "01" is another.

    Args:
        path: The JSON, or the folder that holds it as `annotations/instances_SPLIT.json`. Images lie in the folder
            `SPLIT` or `images` beside `annotations`, or beside the JSON.
        split: Such as `val2017`; needed where the path is a folder.
        classes: Names of the categories to read, classes 1, 2, ...; others are background.
        reading: How the image files are read.
    Raises:
        DataError: If the file or all images are missing, or it does not hold what it should.
    """
    listing = path / "annotations" / f"instances_{split}.json" if path.is_dir() else path
    content = _content(listing)
    label_of, names = _labels(content["categories"], classes, listing)
    entries = _entries(content["images"], listing)
    findings: Findings[str] = Findings()
    _give_objects(content["annotations"], entries, label_of, findings, listing)
    kept = [entry for entry in _located(entries, listing) if _opened(entry, reading, findings)]
    if not kept:
        move = "put the images beside it" if _MISSING in findings.names else "correct its annotations"
        raise DataError(f"{listing}: no image is left; {findings.summary() or 'it lists none'}; {move}")
    samples = _CocoSamples(kept, reading)
    return SegmentationImages(samples, names, [entry.name for entry in kept], findings, where=str(listing))


def _content(listing: Path) -> dict[str, list[Any]]:
    content = read_json(listing, what="COCO's JSON", error=DataError)
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{listing} has no list `{key}`; wanted COCO's `images`, `annotations` and `categories`")
        if not all(isinstance(entry, dict) for entry in content[key]):
            raise DataError(f"{listing}: `{key}` holds something else than objects; take the published file")
    return dict(content)


def _labels(
    categories: Sequence[Mapping[str, Any]], classes: Sequence[str] | None, listing: Path
) -> tuple[dict[Id, int | None], tuple[str, ...]]:
    """Class of each category id, None for those that are background, and the names of the classes."""
    names: dict[Id, str] = {}
    for place, category in enumerate(categories):
        name = category.get("name")
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{listing}: categories[{place}] is {str(category)[:80]}; wanted an id and a name")
        key, name = _id_of(category, f"categories[{place}]", listing), unicodedata.normalize("NFC", name.strip())
        if names.setdefault(key, name) != name:
            raise DataError(
                f"{listing}: category {key!r} is {names[key][:80]!r} and {name[:80]!r}; give each its own id"
            )
    known = [names[key] for key in sorted(names, key=lambda key: (isinstance(key, str), key))]
    chosen = list(dict.fromkeys(known)) if classes is None else list(classes)
    for name in chosen:
        if name not in known:
            raise DataError(f"{listing} has no category {name!r}; {suggestion(name, known)}")
    return {key: 1 + chosen.index(name) if name in chosen else None for key, name in names.items()}, (
        BACKGROUND,
        *chosen,
    )


def _entries(images: Sequence[Mapping[str, Any]], listing: Path) -> dict[Id, _Entry]:
    """Id -> image, in the order of their names."""
    found: dict[Id, _Entry] = {}
    for place, image in enumerate(images):
        name, size = image.get("file_name"), _size_of(image)
        if not isinstance(name, str) or not name or size is None:
            raise DataError(f"{listing}: images[{place}] has no file_name, height and width; give it all three")
        if leaves_folder(name):
            raise DataError(
                f"{listing}: the file_name {name[:200]!r} leaves the folder of the images; give it without `..`"
            )
        key = _id_of(image, f"images[{place}]", listing)
        if found.setdefault(key, _Entry(name, size)).name != name:
            raise DataError(
                f"{listing}: {found[key].name[:80]!r} and {name[:80]!r} share the id {key!r}; give each its own"
            )
    return dict(sorted(found.items(), key=lambda item: item[1].name))


def _id_of(entry: Mapping[str, Any], place: str, listing: Path) -> Id:
    try:
        return identifier(entry.get("id"))
    except ValueError as error:
        raise DataError(
            f"{listing}: {place} has the id {str(entry.get('id'))[:80]}; give a whole number or a text"
        ) from error


def _size_of(image: Mapping[str, Any]) -> tuple[int, int] | None:
    """Height and width, None where they are no whole numbers above 0."""
    try:
        height, width = number(image.get("height")), number(image.get("width"))
    except ValueError:
        return None
    return (int(height), int(width)) if all(side >= 1 and side == int(side) for side in (height, width)) else None


def _give_objects(
    annotations: Sequence[Mapping[str, Any]],
    entries: Mapping[Id, _Entry],
    labels: Mapping[Id, int | None],
    findings: Findings[str],
    listing: Path,
) -> None:
    """Gives each image its objects; ids are joined whatever their type.

    Raises:
        DataError: If there are annotations, and none is of a listed image and a class.
    """
    given = 0
    for place, annotation in enumerate(annotations):
        image, category = (_key(annotation.get(name)) for name in ("image_id", "category_id"))
        if image is None or image not in entries or category is None or category not in labels:
            findings.add("annotations whose image or category is not listed, left out", f"annotations[{place}]")
            continue
        entry, label = entries[image], labels[category]
        if label is None:
            continue
        given += 1
        outline = annotation.get("segmentation")
        if not _is_outline(outline, entry.size):
            findings.add("objects without an outline that can be read: their images are left out", entry.name)
            outline = None
        entry.objects.append((label, outline))
    if annotations and not given:
        first = annotations[0]
        raise DataError(
            f"{listing}: none of the {len(annotations):,} annotations is of a listed image and a class; the first has "
            f"image_id {str(first.get('image_id'))[:80]!r} and category_id {str(first.get('category_id'))[:80]!r}; "
            f"images have ids such as {list(entries)[:3]}, categories {list(labels)[:3]}: correct the ids, or `classes`"
        )


def _key(value: object) -> Id | None:
    try:
        return identifier(value)
    except ValueError:
        return None


def _is_outline(outline: Any, size: tuple[int, int]) -> bool:
    if isinstance(outline, list):
        limit = _MOST_BEYOND * max(size)
        return bool(outline) and all(
            isinstance(ring, list)
            and len(ring) >= 6
            and len(ring) % 2 == 0
            and all(isinstance(value, int | float) and math.isfinite(value) and abs(value) <= limit for value in ring)
            for ring in outline
        )
    if not isinstance(outline, dict) or outline.get("size") != list(size):
        return False
    runs = _runs(outline.get("counts"))
    return runs is not None and all(run >= 0 for run in runs) and sum(runs) == size[0] * size[1]


def _runs(counts: Any) -> list[int] | None:
    """Lengths of the runs of 0 and 1 down the columns; None where they cannot be read.

    In a text they are written five bits a character, the third and later ones as the difference to that two before.

    Example:
        >>> _runs([3, 2, 4]), _runs("324")
        ([3, 2, 4], [3, 2, 4])
    """
    if isinstance(counts, list):
        return counts if all(isinstance(run, int) for run in counts) else None
    if not isinstance(counts, str):
        return None
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs if shift == 0 else None


def _located(entries: Mapping[Any, _Entry], listing: Path) -> list[_Entry]:
    """The images with the places of their files; empty where there is none."""
    split = listing.stem.removeprefix("instances_")
    above = listing.parent.parent if listing.parent.name == "annotations" else listing.parent
    folders = [above / split, above / "images" / split, above / "images", listing.parent]
    for entry in entries.values():
        places = (folder / entry.name for folder in folders)
        entry.path = next((str(place) for place in places if os.path.isfile(place)), "")
    return list(entries.values())


def _opened(entry: _Entry, reading: Reading, findings: Findings[str]) -> bool:
    """Whether an image can be used; its orientation is kept where its outlines were made for the pixels as stored."""
    if any(outline is None for _, outline in entry.objects):
        return False
    try:
        header = read_image_header(entry.path, reading)
    except DataError:
        findings.add(_MISSING, entry.name)
        return False
    frame, wanted = frame_of(entry.size, header), "as shown" if reading.exif_orientation else "as stored"
    size = entry.size
    if frame not in (None, wanted):
        findings.add("masks turned with their image, which has an EXIF orientation", entry.name)
        entry.orientation, size = header.orientation, size[::-1]
    if size != header.size(reading.exif_orientation):
        raise DataError(
            f"{entry.path} is {header.width} x {header.height} pixels, its outlines were made for {entry.size[1]} x "
            f"{entry.size[0]} (width x height); take image and annotation from the same release"
        )
    return True


class _CocoSamples:
    def __init__(self, entries: Sequence[_Entry], reading: Reading) -> None:
        self.entries, self.reading = entries, reading

    def files(self) -> list[str]:
        """Paths of all images."""
        return [entry.path for entry in self.entries]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self.entries[index]
        mask = mask_of(entry.objects, entry.size)
        if entry.orientation != 1:
            turn = turned if self.reading.exif_orientation else unturned
            mask = torch.from_numpy(np.array(turn(Image.fromarray(mask.numpy()), entry.orientation)))
        return decode_image(entry.path, self.reading), mask


def mask_of(objects: Sequence[tuple[int, Any]], size: tuple[int, int]) -> Tensor:
    """The mask of one image, uint8 [H, W]: 0 where no object is, `IGNORED` where several classes are.

    Args:
        objects: Class and outline of each: polygons [[x, y, x, y, ...], ...] or runs {"size": [H, W], "counts": ...}.
        size: Height and width.
    Raises:
        DataError: If there are polygons and the extra `segmentation` is not installed.

    Example:
        >>> mask_of([(2, {"size": [2, 3], "counts": [2, 1, 3]})], (2, 3))
        tensor([[0, 2, 0],
                [0, 0, 0]], dtype=torch.uint8)
    """
    mask = np.zeros(size, dtype=np.uint8)
    for label, outline in objects:
        covered = _covered(outline, size)
        mask[covered & (mask != 0) & (mask != label)] = IGNORED
        mask[covered & (mask == 0)] = label
    return torch.from_numpy(mask)


def _covered(outline: Any, size: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """The pixels inside an outline, bool [H, W]."""
    runs = _runs((_runs_of_polygons(outline, size) if isinstance(outline, list) else outline)["counts"])
    assert runs is not None
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[::-1]).T


def _runs_of_polygons(rings: list[list[float]], size: tuple[int, int]) -> dict[str, Any]:
    try:
        from faster_coco_eval.core import mask as coco_mask
    except ImportError as error:
        raise DataError(
            "COCO's polygons are drawn by faster-coco-eval; install it: pip install 'adasap[segmentation]'"
        ) from error
    height, width = size
    found = coco_mask.merge(coco_mask.frPyObjects([[float(value) for value in ring] for ring in rings], height, width))
    counts = found["counts"]
    return {"counts": counts.decode() if isinstance(counts, bytes) else counts}
