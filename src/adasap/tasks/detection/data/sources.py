"""The data sources with boxes: `voc`, `coco`, `shapes`, shards and sets of Hugging Face `datasets`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from adasap.data.checking import broken_text, check_files
from adasap.data.decoding import Reading
from adasap.data.source import (
    DataSource,
    SourceKind,
    open_source,
    require_count,
    require_linked_shards,
    require_links,
    train_or_test,
)
from adasap.errors import DataError
from adasap.schema import checked
from adasap.tasks.detection.data.coco import read_coco
from adasap.tasks.detection.data.detection_set import DetectionImages
from adasap.tasks.detection.data.shapes import read_shapes
from adasap.tasks.detection.data.stored import RowBoxOptions, ShardBoxOptions, read_box_rows, read_box_shards
from adasap.tasks.detection.data.voc import read_voc


def open_detection_dataset(
    source: DataSource, split: str | None = None, *, channels: int | None = None
) -> DetectionImages:
    """Reads the images with boxes of a source, or the part of them that it names.

    Args:
        source: Of kind `voc`, `coco`, `shapes`, `wds-boxes` or `hf-boxes`.
        split: As for `open_dataset`.
        channels: As for `open_dataset`.
    Raises:
        DataError: If it holds no boxes, something is missing, or no image is left.

    Example:
        >>> open_detection_dataset(DataSource("shapes", count=2), "test").summary()
        'shapes, split test: 2 images, ...'
    """
    if source.row.holds != HOLDS:
        raise DataError(
            f"{source.kind} holds {source.row.holds} and no boxes; give one of coco, hf-boxes, shapes, voc, wds-boxes"
        )
    found: DetectionImages = open_source(source, split, channels=channels)
    return found


def _voc(source: DataSource, split: str | None, channels: int | None) -> DetectionImages:
    whole = read_voc(_path(source), split or "test", source.classes, source.reading)
    return _finished(_part(whole, source.part), source, channels)


def _coco(source: DataSource, split: str | None, channels: int | None) -> DetectionImages:
    whole = read_coco(_path(source), split, source.classes, source.reading)
    return _finished(_part(whole, source.part), source, channels)


def _shapes(source: DataSource, split: str | None, channels: int | None) -> DetectionImages:
    return _finished(read_shapes(train_or_test(source, split), source.part), source, channels)


def _shards(source: DataSource, split: str | None, channels: int | None) -> DetectionImages:
    require_linked_shards(source, split)
    options = checked(ShardBoxOptions, source.options, where=f"options of {source.where}")
    whole = read_box_shards(source.path or "", split, source.classes, source.reading, options=options)
    return _finished(_part(whole, source.part), source, channels)


def _rows(source: DataSource, split: str | None, channels: int | None) -> DetectionImages:
    options = checked(RowBoxOptions, source.options, where=f"options of {source.where}")
    whole = read_box_rows(source.path or "", split, source.classes, source.reading, options=options)
    return _finished(_part(whole, source.part), source, channels)


HOLDS = "images with boxes, for detection"
VOC = SourceKind(_voc, HOLDS, "detection", resizes=False, takes_classes=True)
COCO = SourceKind(_coco, HOLDS, "detection", resizes=False, takes_classes=True)
_STORED: dict[str, Any] = {"holds": HOLDS, "task": "detection", "resizes": False, "takes_classes": True}
WDS_BOXES = SourceKind(_shards, takes_options=tuple(ShardBoxOptions.__dataclass_fields__), **_STORED)
HF_BOXES = SourceKind(_rows, takes_options=tuple(RowBoxOptions.__dataclass_fields__), **_STORED)
SHAPES = SourceKind(_shapes, HOLDS, "detection", resizes=False, needs_path=False)


def _path(source: DataSource) -> Path:
    return Path(source.path or "")


def _part(whole: DetectionImages, part: slice) -> DetectionImages:
    return whole if part == slice(0, None) else whole.some(torch.arange(len(whole))[part])


def _finished(dataset: DetectionImages, source: DataSource, channels: int | None) -> DetectionImages:
    require_count(source, dataset)
    require_links(source, dataset.paths())
    if source.skip_broken:
        dataset = boxes_without_broken(dataset, source.reading)
    return dataset.with_channels(channels)


def boxes_without_broken(images: DetectionImages, reading: Reading) -> DetectionImages:
    """Those images whose files can be read; the others are counted as missing.

    Raises:
        DataError: If none can.
    """
    checks = list(check_files(images.paths(), reading))
    broken = {index for index, check in enumerate(checks) if check.problem}
    if not broken:
        return images
    if len(broken) == len(checks):
        raise DataError(f"{images.where}: no image can be read: {broken_text(checks, len(checks))}; correct the files")
    for index in sorted(broken):
        images.findings.add("missing", os.path.basename(checks[index].path))
    return images.some(torch.tensor([index for index in range(len(images)) if index not in broken]))
