"""From a suite's name and place to its cells, checked before any evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adasap.corruptions import corrupt
from adasap.data import DataSource, ImageSet, Resizing, open_dataset
from adasap.data.augmentation import ResizedImages
from adasap.data.files import ImageFiles
from adasap.data.imagenet import imagenet_wnids, read_objectnet
from adasap.data.source import ANY_SIZE
from adasap.errors import DataError
from adasap.robustness.suites import Cell, ImageSuite
from adasap.robustness.suites_disk import cell_keys, corruption_folders, corruption_npy, corruption_npz, suite_path
from adasap.robustness.suites_registry import SuiteSource

ON_THE_FLY = "on the fly: 8-bit images after resizing and cropping, seeded by the index of the image; no JPEG step"


def open_suite(
    name: str, source: SuiteSource, test: ImageSet | None = None, *, input_size: Sequence[int] | None = None
) -> ImageSuite:
    """Opens a suite.

    Args:
        name: What results are filed under.
        source: Which suite, and where it lies.
        test: The data set of suites that name none.
        input_size: The model's channels, height and width, to which images of any size are brought by default.
    Raises:
        DataError: Before any evaluation, for anything that is missing or does not hold what it should.
    """
    match source.row.layout:
        case "images" | "on the fly":
            return _image_suite(name, source, test, input_size)
        case "corruption folders":
            cells, num_outputs = corruption_folders(source)
        case "corruption npy":
            cells, num_outputs = corruption_npy(source), source.row.num_outputs
        case "corruption npz":
            cells, num_outputs = corruption_npz(source), None
    resizing = source.resizing
    if input_size is not None and tuple(next(iter(cells.values())).images[0][0].shape) == tuple(input_size):
        resizing = Resizing()  # what has the model's size was corrupted at it: no second resampling
    if resizing:
        cells = {key: replace(cell, images=ResizedImages(cell.images, resizing)) for key, cell in cells.items()}
    return ImageSuite(name, cells, None, num_outputs, _record(source, cells, resizing, "as they are on disk"))


def _image_suite(name: str, source: SuiteSource, test: ImageSet | None, input_size: Sequence[int] | None) -> ImageSuite:
    row, data = source.row, _data_source(name, source)
    if data is None and test is None:
        raise DataError(f"suite {name!r} names no data; give `data:` with a kind and a path")
    if data is not None and data.kind in ANY_SIZE and not data.resizing and input_size is not None:
        side = input_size[-1]
        data = replace(data, resize=round(side * 256 / 224), center_crop=side)
    images = test if data is None else open_dataset(data, "test")
    assert images is not None
    outputs = None
    if data is not None and data.kind == "objectnet":
        outputs = read_objectnet(Path(data.path or ""))[1]
    elif row.restricted:
        images, outputs = _restricted(images, len(imagenet_wnids()))
    cells, corrupted = {"clean": Cell(images)}, None
    if row.layout == "on the fly":
        cells, corrupted = _corrupted(images, source), ON_THE_FLY
    resizing = data.resizing if data is not None else images.resizing if isinstance(images, ResizedImages) else None
    num_outputs = len(imagenet_wnids()) if data is not None and data.kind in ANY_SIZE else row.num_outputs
    record = _record(source, cells, resizing or Resizing(), corrupted, outputs)
    return ImageSuite(name, cells, outputs, num_outputs, record)


def _data_source(name: str, source: SuiteSource) -> DataSource | None:
    row = source.row
    if row.images is None:
        return source.data
    path = suite_path(source)
    below = path / row.subfolder
    resizing = source.resizing
    return DataSource(
        row.images,
        str(below if row.subfolder and below.is_dir() else path),
        split=row.split,
        resize=resizing.resize,
        center_crop=resizing.center_crop,
        interpolation=resizing.interpolation,
    )


def _restricted(images: ImageSet, num_outputs: int) -> tuple[ImageSet, Tensor]:
    """Labels numbered among the classes that occur, and which of them each output answers."""
    present = sorted(set(images.labels.tolist()))
    outputs = torch.full((num_outputs,), -1, dtype=torch.int64)
    outputs[present] = torch.arange(len(present))
    files = images.images_before if isinstance(images, ResizedImages) else images
    assert isinstance(files, ImageFiles)
    renamed: ImageSet = files.relabelled(outputs[files.labels], [files.classes[n] for n in present])
    return (ResizedImages(renamed, images.resizing) if isinstance(images, ResizedImages) else renamed), outputs


def _corrupted(images: ImageSet, source: SuiteSource) -> dict[str, Cell]:
    for name in source.names():  # unknown names fail here
        corrupt(torch.zeros(1, 3, 32, 32, dtype=torch.uint8), name, 1)
    return {key: Cell(images, corruption, severity) for key, corruption, severity in cell_keys(source)}


def _record(
    source: SuiteSource,
    cells: dict[str, Cell],
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
