"""From a suite's name and place to its cells, checked before any evaluation: of images with labels, and of any data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adasap.corruptions import corrupt, require_channels
from adasap.data import DataSource, ImageSet, Resizing, open_dataset
from adasap.data.augmentation import ResizedImages
from adasap.data.classes import match_classes, matched_images, names_of_outputs, relabelled, renumbered
from adasap.data.files import as_channels
from adasap.data.imagenet import imagenet_names, imagenet_wnids, read_objectnet
from adasap.data.images import class_names, remarks_of
from adasap.data.items import Samples, is_indexed, read_items
from adasap.data.source import open_source
from adasap.errors import DataError
from adasap.evaluation.cells import CLEAN, Cell
from adasap.evaluation.evaluator import BatchingTask
from adasap.evaluation.suite_sources import SuiteSource
from adasap.evaluation.suites import CellImages, DatasetSuite, ImageSuite

ON_THE_FLY = "on the fly: 8-bit images after resizing and cropping, seeded by the index of the image; no JPEG step"
OWN_ON_THE_FLY = (
    "on the fly: 8-bit images as the data set gives them, seeded by the index of the item; targets unchanged"
)


@dataclass(frozen=True)
class _Opened:
    """A suite as it lies on disk: its cells, how they came about, and what its labels are for (`ImageSuite`)."""

    cells: Mapping[Cell, CellImages]
    resizing: Resizing
    corrupted: str | None
    num_outputs: int | None
    outputs: Tensor | None = None


def open_suite(
    name: str,
    source: SuiteSource,
    test: ImageSet | None = None,
    *,
    input_size: Sequence[int] | None = None,
    classes: Sequence[str] | None = None,
    of: str = "the model",
    num_outputs: int | None = None,
) -> ImageSuite:
    """Opens a suite; its classes are matched by name with the model's, where both have names.

    Args:
        name: What results are filed under.
        source: Which suite, and where it lies.
        test: The data set of suites that name none.
        input_size: The model's channels, height and width, to which images of any size are brought by default.
        classes: Names of the model's outputs, such as the classes that it is trained on.
        of: Where they come from, for messages.
        num_outputs: Of a model without names; 1,000 outputs have ImageNet's if the suite uses them.
    Raises:
        DataError: Before any evaluation, for anything that is missing or does not hold what it should, and for a class
            that the model does not know.
    """
    lies = source.row.read is not None
    opened = _disk_cells(name, source, input_size) if lies else _image_cells(name, source, test, input_size)
    own = source.data is not None or source.path is not None
    where, images = f"suite {name!r}" if own else "the test data", next(iter(opened.cells.values())).images
    if classes is None and num_outputs is not None:
        classes = names_of_outputs(num_outputs, class_names(images), set(images.labels.tolist()))
    cells, outputs = opened.cells, opened.outputs
    remarks = [f"{where}: {remark}" for remark in remarks_of(images)] if own else []
    if outputs is None:
        cells, remark = _matched_cells(cells, classes, where=where, of=of)
        remarks += [remark] * bool(remark)
    elif classes is not None:
        outputs = _matched_outputs(outputs, images, classes, where=where, of=of)
    if source.row.restricted:
        cells, outputs = _restricted(cells, len(classes or imagenet_wnids()))
    by_name = classes is not None and class_names(images) is not None
    record = _record(source, cells, opened.resizing, opened.corrupted, outputs)
    return ImageSuite(name, cells, outputs, None if by_name else opened.num_outputs, record, tuple(remarks))


def _disk_cells(name: str, source: SuiteSource, input_size: Sequence[int] | None) -> _Opened:
    assert source.row.read is not None
    cells, num_outputs = source.row.read(source)
    if input_size is not None:
        cells = {cell: _with_channels(found, input_size[0], name) for cell, found in cells.items()}
    resizing = source.resizing
    if input_size is not None and tuple(next(iter(cells.values())).images[0][0].shape) == tuple(input_size):
        resizing = Resizing()  # what has the model's size was corrupted at it: no second resampling
    if resizing:
        cells = {cell: replace(found, images=ResizedImages(found.images, resizing)) for cell, found in cells.items()}
    return _Opened(cells, resizing, "as they are on disk", num_outputs)


def _with_channels(found: CellImages, channels: int, name: str) -> CellImages:
    return replace(found, images=as_channels(found.images, channels, where=f"suite {name!r}"))


def _image_cells(name: str, source: SuiteSource, test: ImageSet | None, input_size: Sequence[int] | None) -> _Opened:
    row, data = source.row, _data_source(name, source)
    if data is None and test is None:
        raise DataError(f"suite {name!r} names no data; give `data:` with a kind and a path")
    if data is not None and data.row.any_size and not data.resizing and input_size is not None:
        side = input_size[-1]
        data = replace(data, resize=round(side * 256 / 224), center_crop=side)
    channels = None if input_size is None else input_size[0]
    images = test if data is None else open_dataset(data, "test", channels=channels)
    assert images is not None
    outputs = read_objectnet(Path(data.path or ""))[1] if data is not None and data.kind == "objectnet" else None
    cells, corrupted = {CLEAN: CellImages(images)}, None
    if row.on_the_fly:
        cells, corrupted = _corrupted(images, source), ON_THE_FLY
    resizing = data.resizing if data is not None else images.resizing if isinstance(images, ResizedImages) else None
    num_outputs = len(imagenet_wnids()) if data is not None and data.row.any_size else row.num_outputs
    return _Opened(cells, resizing or Resizing(), corrupted, num_outputs, outputs)


def _data_source(name: str, source: SuiteSource) -> DataSource | None:
    row = source.row
    if row.images is None:
        return source.data
    path = source.place()
    below = path / row.subfolder
    resizing = source.resizing
    return DataSource(
        row.images,
        str(below if row.subfolder and below.is_dir() else path),
        split=row.split,
        resize=resizing.resize,
        center_crop=resizing.center_crop,
        interpolation=resizing.interpolation,
        exif_orientation=source.reading.exif_orientation,
        white=source.reading.white,
        most_pixels=source.reading.most_pixels,
    )


def _corrupted(images: ImageSet, source: SuiteSource) -> dict[Cell, CellImages]:
    for name in source.names():  # unknown names fail here
        corrupt(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), name, 1)
    require_channels(source.names(), images[0][0].shape[0])
    return {cell: CellImages(images, cell) for cell in source.cells()}


def _record(
    source: SuiteSource,
    cells: Mapping[Cell, CellImages],
    resizing: Resizing,
    corrupted: str | None,
    outputs: Tensor | None = None,
) -> dict[str, Any]:
    """What a result says about the suite."""
    record: dict[str, Any] = {
        "kind": source.kind,
        "images": len(next(iter(cells.values())).images),
        "published_images": source.row.num_images,
        "resize": resizing.resize,
        "center_crop": resizing.center_crop,
        "interpolation": f"{resizing.interpolation}, antialiased" if resizing.resize else None,
        "corruptions": corrupted,
    }
    if outputs is not None:
        labels = [label for label in outputs.tolist() if label >= 0]
        record["outputs"] = f"{len(labels)} of {len(outputs)} compete for {len(set(labels))} labels"
    return record


def _matched_cells(
    cells: Mapping[Cell, CellImages], classes: Sequence[str] | None, *, where: str, of: str
) -> tuple[dict[Cell, CellImages], str]:
    """The cells under the labels of a model's classes, and a remark (`match_classes`).

    Raises:
        DataError: For a class that the model does not know.
    """
    _, match = matched_images(next(iter(cells.values())).images, classes, where=where, of=of)
    renewed = {id(found.images): renumbered(found.images, match) for found in cells.values()}
    return {cell: replace(found, images=renewed[id(found.images)]) for cell, found in cells.items()}, match.remark


def _restricted(cells: Mapping[Cell, CellImages], num_outputs: int) -> tuple[dict[Cell, CellImages], Tensor]:
    """Labels numbered among the classes that occur, and which of them each output answers, -1 for none."""
    images = next(iter(cells.values())).images
    present = sorted(set(images.labels.tolist()))
    outputs = torch.full((num_outputs,), -1, dtype=torch.int64)
    outputs[present] = torch.arange(len(present))
    names = [images.classes[number] for number in present]
    return {
        cell: replace(found, images=relabelled(found.images, outputs[found.images.labels], names))
        for cell, found in cells.items()
    }, outputs


def _matched_outputs(outputs: Tensor, images: ImageSet, classes: Sequence[str], *, where: str, of: str) -> Tensor:
    """Which label each output of a model answers, from which label each of ImageNet's 1,000 does.

    Args:
        outputs: int64 [1000], -1 for none.
        images: Of the suite, with its own labels.
        classes: Names of the model's outputs: wnids, or the usual English names.
    Raises:
        DataError: If no output of the model answers a label that occurs.
    """
    known = imagenet_wnids() if set(classes) & set(imagenet_wnids()) else imagenet_names()
    place = {name: number for number, name in enumerate(known)}
    found = torch.tensor([int(outputs[place[name]]) if name in place else -1 for name in classes])
    answered = [images.classes[label] for label in sorted(set(found.tolist()) - {-1})]
    try:
        match_classes(answered, images.classes, set(images.labels.tolist()), where=where, of=of)
    except DataError as error:
        raise DataError(f"{error} ({of} has {len(classes):,} classes: {', '.join(classes[:4])}, ...)") from error
    return found


def open_own_suite(name: str, source: SuiteSource, test: Samples, task: BatchingTask[Any]) -> DatasetSuite:
    """A suite of a data set: `clean`, `corrupted` (the 15 corruptions) or `corrupted-validation`.

    Args:
        name: What results are filed under.
        source: Which suite; `source.data` takes the place of `test`, its code is taken as trusted.
        test: The data set.
        task: Puts its items together and corrupts them.
    Raises:
        DataError: For a published suite, a data set that cannot be indexed, or images that a corruption cannot be
            applied to.

    Example:
        >>> from adasap.data import DataSource, open_dataset
        >>> from adasap.tasks import BaseTask
        >>> digits = open_dataset(DataSource("digits", count=4), "test")
        >>> source = SuiteSource("corrupted", corruptions=("fog",), severities=(1, 5))
        >>> open_own_suite("corrupted", source, digits, BaseTask()).cells
        (Cell(corruption='fog', severity=1), Cell(corruption='fog', severity=5))
    """
    if source.row.on_disk:
        raise DataError(
            f"suite {name!r}: {source.kind} holds images with labels of a published set; take `clean`, `corrupted` or "
            "`corrupted-validation` of your data"
        )
    images = test if source.data is None else open_source(source.data, "test", trust_code=True)
    if not is_indexed(images) or len(images) == 0:
        raise DataError(
            f"suite {name!r}: {type(images).__name__} is not a map-style data set with items; give one with `__len__` "
            "and `__getitem__` (batches are made by the evaluation)"
        )
    cells: tuple[Cell, ...] = (CLEAN,)
    if source.row.on_the_fly:
        cells = tuple(source.cells())
        _try(source.names(), images, task)
    record = {
        "kind": source.kind,
        "images": len(images),
        "published_images": None,
        "corruptions": OWN_ON_THE_FLY if source.row.on_the_fly else None,
    }
    return DatasetSuite(name, images, task, cells, record=record)


def _try(corruptions: tuple[str, ...], images: Samples, task: BatchingTask[Any]) -> None:
    """Each corruption on a small image, for its name, and on the first item, for its type and channels."""
    first = torch.tensor([0])
    for corruption in corruptions:
        corrupt(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), corruption, 1)
        task.corrupt(task.collate(read_items(images, first)), corruption, 1, first)
