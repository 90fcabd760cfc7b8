"""The data sources with masks: folders, published sets, shards, sets of Hugging Face `datasets`, and drawn ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

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
from adasap.tasks.segmentation.data.coco import read_coco_masks
from adasap.tasks.segmentation.data.readers import read_cityscapes, read_mask_folder, read_voc_masks
from adasap.tasks.segmentation.data.segmentation_set import SegmentationImages
from adasap.tasks.segmentation.data.shapes import read_shape_masks
from adasap.tasks.segmentation.data.stored import (
    MaskCoding,
    RowMaskOptions,
    ShardMaskOptions,
    read_mask_rows,
    read_mask_shards,
)

HOLDS = "images with masks, for segmentation"


def open_segmentation_dataset(
    source: DataSource, split: str | None = None, *, channels: int | None = None, trust_code: bool = False
) -> Any:
    """Reads the images with masks of a source: `SegmentationImages`, or what a function of the user's gives.

    Args:
        source: Of one of these kinds, or `package.module:function`.
        split: As for `open_dataset`.
        channels: As for `open_dataset`.
        trust_code: Let `kind: package.module:function` run.
    Raises:
        DataError: If it holds no masks, something is missing, or no image is left.

    Example:
        >>> open_segmentation_dataset(DataSource("shape-masks", count=2), "test").summary()
        'shapes, split test: 2 images with masks, 4 classes'
    """
    if not source.is_own and source.row.holds != HOLDS:
        raise DataError(
            f"{source.kind} holds {source.row.holds} and no masks; give one of masks, voc-masks, cityscapes, "
            "coco-masks, shape-masks, wds-masks, hf-masks"
        )
    return open_source(source, split, channels=channels, trust_code=trust_code)


def _kind(read: Callable[[DataSource, str], SegmentationImages], default: str, **facts: Any) -> SourceKind:
    """A kind that is read as a whole, of which a part is taken."""

    def opened(source: DataSource, split: str | None, channels: int | None) -> SegmentationImages:
        whole = read(source, split or default)
        require_links(source, whole.files())
        images = whole if source.part == slice(0, None) else whole.some(torch.arange(len(whole))[source.part])
        require_count(source, images)
        images = images.without_broken() if source.skip_broken else images
        return images.with_channels(channels)

    return SourceKind(opened, HOLDS, "segmentation", resizes=False, **facts)


def _path(source: DataSource) -> Path:
    return Path(source.path or "")


def _shapes(source: DataSource, split: str | None, channels: int | None) -> SegmentationImages:
    images = read_shape_masks(train_or_test(source, split), source.part)
    require_count(source, images)
    return images.with_channels(channels)


@dataclass(frozen=True)
class MaskOptions(MaskCoding):
    """`options` of the kind `masks`: as of `read_mask_folder`."""

    mask_suffix: str = ""


def _masks(source: DataSource, split: str) -> SegmentationImages:
    options = checked(MaskOptions, source.options, where=f"options of {source.where}")
    return read_mask_folder(_path(source), split, classes=source.classes, reading=source.reading, **vars(options))


def _shards(source: DataSource, split: str) -> SegmentationImages:
    require_linked_shards(source, split)
    options = checked(ShardMaskOptions, source.options, where=f"options of {source.where}")
    return read_mask_shards(source.path or "", split, source.classes, source.reading, options=options)


def _rows(source: DataSource, split: str) -> SegmentationImages:
    options = checked(RowMaskOptions, source.options, where=f"options of {source.where}")
    return read_mask_rows(source.path or "", split, source.classes, source.reading, options=options)


MASKS = _kind(_masks, "test", takes_classes=True, takes_options=tuple(MaskOptions.__dataclass_fields__))
VOC_MASKS = _kind(lambda source, split: read_voc_masks(_path(source), split, source.reading), "val")
CITYSCAPES = _kind(lambda source, split: read_cityscapes(_path(source), split, source.reading), "val")
COCO_MASKS = _kind(
    lambda source, split: read_coco_masks(_path(source), split, source.classes, source.reading),
    "val2017",
    takes_classes=True,
)
SHAPE_MASKS = SourceKind(_shapes, HOLDS, "segmentation", resizes=False, needs_path=False)
WDS_MASKS = _kind(_shards, "test", takes_classes=True, takes_options=tuple(ShardMaskOptions.__dataclass_fields__))
HF_MASKS = _kind(_rows, "test", takes_classes=True, takes_options=tuple(RowMaskOptions.__dataclass_fields__))
