"""A data set as somebody has it: layout, splits, classes, sizes, broken files; split where it is not."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from adasap.data import DataSource, open_source, sample_indices
from adasap.data.checking import check_files
from adasap.data.files import ImageFiles, StoredImages
from adasap.data.images import remarks_of
from adasap.errors import DataError
from adasap.experiments.find_data import find_data, with_keys
from adasap.experiments.fit_size import Sizes, sizes_of
from adasap.io import atomic_write
from adasap.tasks.data import class_list, names_of

_DECODED = 2_000
"""Files of each split that are decoded whole; of a larger one a sample."""
_ONE_IN = 5
"""Where there is no split, one image in so many is kept for the test."""


@dataclass(frozen=True)
class SeenData:
    """A data set that was looked at.

    Attributes:
        train, test: As the recipe names them.
        validation: A third part, if there is one.
        count, test_count: Numbers of images.
        classes: Of the training images.
        sizes: Of the training images.
        remarks: What is to be known, a sentence for each.
        unsplit: Whether the test images are the training images, for want of others.
    """

    train: DataSource
    test: DataSource
    validation: DataSource | None
    count: int
    test_count: int
    classes: tuple[str, ...]
    sizes: Sizes
    remarks: tuple[str, ...]
    unsplit: bool = False


def look_at_data(text: str, *, task: str = "", options: Sequence[tuple[str, Any]] = ()) -> SeenData:
    """Opens the training and the test images, and looks at their files.

    Args:
        text: A path, or `KIND:PATH`.
        task: As for `find_data`.
        options: Further keys of the sources.
    Raises:
        DataError: If they cannot be opened, or the test images are of a class that the training images lack.
    """
    found = with_keys(find_data(text, task=task), **dict(options))
    remarks = list(found.remarks)
    whole = open_source(found.train, "train", trust_code=True)
    broken = _broken(whole, found.train.reading)
    train, test, unsplit = found.train, found.test, False
    if test is None:
        train, test, said = _split(train, whole)
        unsplit, remarks = train == test, [*remarks, said]
        whole = open_source(train, "train", trust_code=True)
    other = whole if unsplit else open_source(test, "test", trust_code=True)
    broken += [] if unsplit or found.test is None else _broken(other, test.reading)
    if broken:
        train, test = replace(train, skip_broken=True), replace(test, skip_broken=True)
        more = f", and {len(broken) - 3} more" if len(broken) > 3 else ""
        remarks.append(f"files that cannot be read are left out, {len(broken)}: {', '.join(broken[:3])}{more}")
    classes = class_list(whole)
    remarks += [
        f"{one.where}: {line}" for one, images in ((train, whole), (test, other)) for line in remarks_of(images)
    ]
    remarks += _missing_classes(names_of(whole), names_of(other), other)
    validation = None if found.validation is None else replace(found.validation, skip_broken=bool(broken))
    counts = len(whole), len(other)
    return SeenData(train, test, validation, *counts, classes, sizes_of(whole), tuple(dict.fromkeys(remarks)), unsplit)


def _broken(images: Any, reading: Any) -> list[str]:
    """Files that cannot be decoded."""
    if not hasattr(images, "paths"):
        return []
    paths = images.paths()
    if len(paths) > _DECODED:
        paths = [paths[index] for index in sample_indices(len(paths), _DECODED, seed=0).tolist()]
    return [check.path for check in check_files(paths, reading) if check.problem]


def _missing_classes(wanted: Sequence[str] | None, given: Sequence[str] | None, test: Any) -> list[str]:
    if wanted is None or given is None:
        return []
    if unknown := [name for name in given if name not in wanted]:
        raise DataError(
            f"the test images have classes that the training images lack: {', '.join(unknown[:5])}; add training "
            "images of them, or take their folders away"
        )
    lacking = [name for name in wanted if name not in given]
    return [f"the test images show none of {', '.join(lacking[:5])}"] if lacking else []


def _split(source: DataSource, images: Any) -> tuple[DataSource, DataSource, str]:
    """Four fifths to train on and one to test on; the same images twice where that cannot be had."""
    part = f"one image in {_ONE_IN} is kept for the test"
    labels, count = getattr(images, "labels", None), len(images)
    if isinstance(images, ImageFiles) and not isinstance(images, StoredImages):
        try:
            train, test = _write_lists(images, Path(source.path or ""))
            keys: dict[str, Any] = {"kind": "csv", "split": None}
            sources = [replace(source, path=str(path), **keys) for path in (train, test)]
            return sources[0], sources[1], f"no test images: {part}, of each class; lists: {train}, {test}"
        except OSError:
            return source, source, f"no test images, and {source.path} cannot be written to for lists of a split"
    cut = count - count // _ONE_IN
    mixed = not isinstance(labels, Tensor) or set(labels[cut:].tolist()) == set(labels.tolist())
    if cut == count or not mixed or source.is_own:
        return source, source, "no test images, and the images lie class by class: split them yourself"
    parts = replace(source, first=0, count=cut), replace(source, first=cut)
    return *parts, f"no test images: {part}, the last ones"


def _write_lists(images: ImageFiles, path: Path) -> tuple[Path, Path]:
    """Two lists of image files in the folder itself, `adasap-train.csv` and `adasap-test.csv`.

    Raises:
        OSError: If they cannot be written there, or would be read from elsewhere.
    """
    root = Path(images.root)
    if (root / "images").is_dir():
        raise OSError("a list beside a folder `images` is read from there")
    rows: dict[str, list[list[Any]]] = {"train": [], "test": []}
    seen: dict[int, int] = {}
    for file, label in zip(images.files, images.labels.tolist(), strict=True):
        seen[label] = seen.get(label, 0) + 1
        name = file.replace(os.sep, "/")
        rows["test" if seen[label] % _ONE_IN == 0 else "train"].append([name, label, images.classes[label]])
    if not rows["test"]:
        raise OSError("too few images")
    for split, listed in rows.items():
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([["file", "class_index", "class_name"], *listed])
        with atomic_write(root / f"adasap-{split}.csv") as file_:
            file_.write(text.getvalue().encode())
    return root / "adasap-train.csv", root / "adasap-test.csv"
