"""Boxes beside images in shards and in sets of Hugging Face `datasets`.

Of each image `objects` holds `bbox` ([x, y, width, height] in pixels, or with `box_format: xyxy` two corners) and
`category` (a name or a number) of every object, as lists side by side or as a list of objects; perhaps `difficult` or
`iscrowd`. `width` and `height` beside it say which way up the boxes are where an image has an EXIF orientation.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from adasap.data.annotation_values import flag, number
from adasap.data.decoding import AS_SHOWN, ImageFile, Reading, header_or_none
from adasap.data.hugging_face import Rows, image_column, open_rows, values_of
from adasap.data.orientation import Box
from adasap.data.shards import find_shards, json_of, samples_in
from adasap.errors import DataError, suggestion
from adasap.tasks.detection.data.coco import size_as_read
from adasap.tasks.detection.data.detection_set import (
    Annotations,
    DetectionImages,
    FilePixels,
    NamedObject,
    box_findings,
    boxes_as_read,
    check_class_names,
    objects_in_image,
    require_objects,
)

BoxFormat = Literal["xywh", "xyxy"]
_SIZE = ("height", "width")
_MOST_PIXELS = 1_000_000


@dataclass(frozen=True)
class ShardBoxOptions:
    """`options` of the kind `wds-boxes`.

    Attributes:
        box_format: `xywh` (left, top, width, height) or `xyxy` (left, top, right, bottom), in pixels from 0.
    """

    box_format: BoxFormat = "xywh"


@dataclass(frozen=True)
class RowBoxOptions(ShardBoxOptions):
    """`options` of the kind `hf-boxes`.

    Attributes:
        image: The column of images; by default the only one that there is.
        objects: The column of objects.
    """

    image: str | None = None
    objects: str = "objects"


def read_box_shards(
    path: str,
    split: str | None,
    classes: Sequence[str] | None = None,
    reading: Reading = AS_SHOWN,
    *,
    options: ShardBoxOptions | None = None,
) -> DetectionImages:
    """The images of shards with the boxes that lie beside them: `a.jpg` and `a.json`, which holds `objects`.

    Args:
        path, split: As of `adasap.data.shards.read_shards`.
        classes: Names of the labels 1, 2, ..., which are categories 0, 1, ... where these are numbers; by default the
            categories that occur.
        reading: How the images are read.
        options: How boxes are written.
    Raises:
        DataError: If a shard or what is beside an image cannot be read, or no image is left.
    """
    said: list[Any] = []
    files: list[ImageFile] = []
    for sample in samples_in(find_shards(path, split), ("json",), Counter(), read=True):
        files.append(sample.picture)
        if "json" not in sample.beside:
            raise DataError(f"{sample} has no objects; give {sample.key[:100]}.json, whose `objects` may be empty")
        content = json_of(*sample.beside["json"])
        said.append({**content, "objects": content.get("objects")} if isinstance(content, Mapping) else {})
    return _images(files, said, classes, classes, options or ShardBoxOptions(), reading, path)


def read_box_rows(
    path: str,
    split: str | None,
    classes: Sequence[str] | None = None,
    reading: Reading = AS_SHOWN,
    *,
    options: RowBoxOptions | None = None,
) -> DetectionImages:
    """The images of a set of `datasets` with the boxes of a column; classes have the names of its `ClassLabel`.

    Args:
        path, split: As of `adasap.data.hugging_face.read_hugging_face`.
        classes: Names of the labels 1, 2, ...; objects of others are left out and counted.
        reading: How the images are read.
        options: Columns, and how boxes are written.
    Raises:
        DataError: If the set, split or columns are not there, or no image is left.
    """
    options = options or RowBoxOptions()
    rows, column = open_rows(path, split), options.objects
    if column not in rows.features:
        raise DataError(f"{path} has no column {column!r:.80} of objects; {suggestion(column, list(rows.features))}")
    images = Rows.of(rows, image_column(rows, path, options.image), path)
    sizes = [name for name in _SIZE if name in rows.features]
    said = [{**row, "objects": row[column]} for row in values_of(rows, [column, *sizes])]
    names = _category_names(rows.features[column])
    files = [images.image(row) for row in range(len(said))]
    return _images(files, said, names or classes, classes or names, options, reading, path)


def _category_names(feature: Any) -> Sequence[str] | None:
    """Those of a `ClassLabel` in a list of objects, or in lists side by side."""
    inside = getattr(feature, "feature", feature)
    category = inside.get("category") if isinstance(inside, Mapping) else None
    names: Sequence[str] | None = getattr(getattr(category, "feature", category), "names", None)
    return names


def _images(
    files: Sequence[ImageFile],
    said: Sequence[Mapping[str, Any]],
    names: Sequence[str] | None,
    classes: Sequence[str] | None,
    options: ShardBoxOptions,
    reading: Reading,
    where: str,
) -> DetectionImages:
    """The set, from what is said of each image.

    Args:
        names: Of the categories 0, 1, ..., where they are numbers.
        classes: Of the labels 1, 2, ...; by default the categories that occur.
    """
    findings = box_findings()
    every = [_objects(one, names, options.box_format, file) for one, file in zip(said, files, strict=True)]
    chosen = check_class_names(classes or _occurring(every), where="`classes`" if classes else where)
    numbers = {name: label for label, name in enumerate(chosen, start=1)}
    kept, targets = [], []
    for place, (file, one, objects) in enumerate(zip(files, said, every, strict=True)):
        header, annotated, name = header_or_none(file, reading), _size(one), str(file)
        if header is None:
            findings.add("missing", name)
            continue
        mine = boxes_as_read(objects, header, annotated, reading, findings, name=name)
        size = size_as_read(header, annotated or header.shown_size, reading)
        kept.append((file, size))
        targets.append(objects_in_image(mine, numbers, size, findings, name=name, image_id=place))
    if not kept:
        raise DataError(
            f"{where}: no image is left; {findings.summary() or 'there is none'}; give one that can be read"
        )
    annotations = Annotations.of_targets(targets)
    require_objects(annotations, [thing for objects in every for thing in objects], chosen, findings, where=where)
    pixels = FilePixels([file for file, _ in kept], [size for _, size in kept], reading)
    return DetectionImages(pixels, annotations, chosen, findings, where=where)


def _occurring(every: Iterable[Sequence[NamedObject]]) -> list[str]:
    """The categories, by number where all are numbers, else by name."""
    names = {kind for objects in every for kind, _, _ in objects}
    return sorted(names, key=int if all(map(str.isdecimal, names)) else None)


def _size(said: Mapping[str, Any]) -> tuple[int, int] | None:
    height, width = (said.get(name) for name in _SIZE)
    if not (isinstance(height, int) and isinstance(width, int)):
        return None
    return (height, width) if 0 < min(height, width) <= max(height, width) < _MOST_PIXELS else None


def _objects(
    said: Mapping[str, Any], names: Sequence[str] | None, box_format: BoxFormat, file: ImageFile
) -> list[NamedObject]:
    """The objects of an image.

    Raises:
        DataError: If they are not written as they should be.
    """
    try:
        return [_object(entry, names, box_format) for entry in _entries(said["objects"])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wanted = "{bbox: [[x, y, width, height], ...], category: [...]}, both as long"
        raise DataError(
            f"{file}: its `objects` cannot be read ({type(error).__name__}: {str(error)[:200]}); wanted {wanted}"
        ) from error


def _entries(objects: Any) -> Sequence[Mapping[str, Any]]:
    """One mapping for each object, of lists side by side."""
    if not isinstance(objects, Mapping):
        return list(objects)
    columns = {key: objects[key] for key in ("bbox", "category")}
    columns |= {key: objects[key] for key in ("difficult", "iscrowd") if objects.get(key) is not None}
    return [dict(zip(columns, entry, strict=True)) for entry in zip(*columns.values(), strict=True)]


def _object(entry: Mapping[str, Any], names: Sequence[str] | None, box_format: BoxFormat) -> NamedObject:
    left, top, right, bottom = map(number, entry["bbox"])
    box: Box = (left, top, right, bottom) if box_format == "xyxy" else (left, top, left + right, top + bottom)
    hard = entry.get("difficult", entry.get("iscrowd"))
    return _category(entry["category"], names), box, flag(hard)


def _category(given: Any, names: Sequence[str] | None) -> str:
    if isinstance(given, str) and given.strip():
        return given.strip()
    if type(given) is not int or given < 0:
        raise ValueError(f"category {given!r:.80} is neither a name nor a number from 0 on")
    if names is not None and given >= len(names):
        raise ValueError(f"category {given}, and there are {len(names)} names, from 0 on")
    return str(given) if names is None else names[given]
