"""Reads images that Hugging Face `datasets` has saved, with labels or what a task keeps beside them.

Files of this machine alone are read, and no code of theirs is run.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from adasap.data.files import StoredImages
from adasap.data.images import check_labels
from adasap.data.splits import WORDS
from adasap.errors import DataError, suggestion

_SUFFIXES = (".parquet", ".arrow")


@dataclass(frozen=True)
class RowImage:
    """The image of a row, as its encoded bytes."""

    rows: Any
    column: str
    row: int
    where: str

    def __str__(self) -> str:
        return f"{self.where}, row {self.row} of column {self.column!r}"

    def open(self) -> BinaryIO:
        """Its bytes.

        Raises:
            DataError: If the row holds none: they may lie in a file elsewhere, which is not followed.
        """
        found = self.rows[self.row][self.column][0].as_py()
        content = found.get("bytes") if isinstance(found, dict) else None
        if content is None:
            elsewhere = isinstance(found, dict) and found.get("path")
            what = f"the path {elsewhere!r:.200}, which is not followed," if elsewhere else "nothing"
            raise DataError(
                f"{self} holds {what} in place of an image; save the set with its images in it, or leave the row out"
            )
        return io.BytesIO(content)


@dataclass(frozen=True)
class Rows:
    """The images of a data set of `datasets`."""

    rows: Any
    column: str
    where: str

    @classmethod
    def of(cls, rows: Any, column: str, where: str) -> Rows:
        """Those of a column, as they lie there: bytes, not decoded."""
        return cls(rows.with_format("arrow", columns=[column]), column, where)

    def image(self, row: int) -> RowImage:
        """One of them."""
        return RowImage(self.rows, self.column, row, self.where)


def read_hugging_face(path: str, split: str | None, *, image: str | None, label: str | None) -> StoredImages:
    """The images of a set of `datasets` with their labels; classes have the names of its `ClassLabel`.

    Args:
        path: A folder that `save_to_disk` wrote; a file .parquet or .arrow, or a folder of such files (in `train/`, or
            `data/`, with the split at the beginning of their names, as on the Hub); or the name of a set in the cache,
            if HF_HUB_OFFLINE=1 is set.
        split: `train`, `test`, ...; `test` is also `validation`, where there is no `test`.
        image: The column of images; by default the only one that there is.
        label: The column of classes; by default the only `ClassLabel`, or the column `label`.
    Raises:
        DataError: If `datasets` is not installed, or the set, split or columns are not there.
    """
    rows = open_rows(path, split)
    image = image_column(rows, path, image)
    label = _label_column(rows, path, label)
    features = rows.features
    names = getattr(features[label], "names", None)
    labels = _labels(rows, label, names, path)
    classes = names or [str(number) for number in range(int(labels.max()) + 1)]
    return StoredImages(Rows.of(rows, image, path), labels, classes, named=names is not None)


def open_rows(path: str, split: str | None) -> Any:
    """The rows of a split of a set, a `datasets.Dataset`.

    Raises:
        DataError: If `datasets` is not installed, or the set or split is not there.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError("data of kind `hf` need datasets; install it: pip install 'adasap[hf]'") from error
    return _opened(datasets, path, split)


def image_column(rows: Any, path: str, given: str | None, *, what: str = "image", but: str | None = None) -> str:
    """The column of images that is named, or the only one beside `but`.

    Raises:
        DataError: If it is not there or holds no images.
    """
    from datasets import Image

    found = [name for name, kind in rows.features.items() if isinstance(kind, Image) and name != but]
    column = _column(path, what, given, found, list(rows.features))
    if not isinstance(rows.features[column], Image):
        kind = rows.features[column]
        raise DataError(f"{path}: the column {column!r:.80} holds no images, but {kind!r:.80}; name another")
    return column


def _label_column(rows: Any, path: str, given: str | None) -> str:
    from datasets import ClassLabel

    features = rows.features
    named = [name for name, kind in features.items() if isinstance(kind, ClassLabel)]
    numbered = [name for name in ("label", "labels") if name in features]
    return _column(path, "label", given, named or numbered, list(features))


def values_of(rows: Any, columns: Sequence[str]) -> list[dict[str, Any]]:
    """What the rows hold in some columns, as Python values."""
    found: list[dict[str, Any]] = rows.with_format("arrow", columns=list(columns))[:].to_pylist()
    return found


def _opened(datasets: Any, path: str, split: str | None) -> Any:
    """The rows of a split."""
    if os.path.exists(path):
        found = _saved(datasets, path) if os.path.isdir(path) else None
    elif datasets.config.HF_HUB_OFFLINE:  # as it was when `datasets` was imported, which is what it obeys
        found = _attempt(path, lambda: datasets.load_dataset(path))
    else:
        raise DataError(
            f"{path[:200]} does not exist; give a folder or file, or start with HF_HUB_OFFLINE=1 if it is the name of "
            "a set in the cache: nothing is downloaded here"
        )
    if found is None:
        files = _files(path, split)
        kind = "parquet" if files[0].endswith(".parquet") else "arrow"
        found = _attempt(path, lambda: datasets.load_dataset(kind, data_files=files, split="train"))
    return _of_split(path, found, split) if isinstance(found, dict) else found


def _saved(datasets: Any, path: str) -> Any:
    """What `save_to_disk` wrote; None for another folder."""
    names = ("dataset_dict.json", "state.json")
    return (
        _attempt(path, lambda: datasets.load_from_disk(path)) if any(Path(path, n).is_file() for n in names) else None
    )


def _attempt(path: str, load: Callable[[], Any]) -> Any:
    """What `datasets` gives, without its progress bars; all that goes wrong is a DataError."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        return load()
    except Exception as error:  # on damaged files they raise nearly anything
        raise DataError(
            f"{path[:200]} cannot be read as a set of `datasets` ({type(error).__name__}: {str(error)[:300]}); save it "
            "again"
        ) from error
    finally:
        if shown:
            datasets.enable_progress_bars()


def _files(path: str, split: str | None) -> list[str]:
    """The files of a split."""
    if os.path.isfile(path):
        if not path.endswith(_SUFFIXES):
            raise DataError(f"{path} is no file .parquet or .arrow; give one, or a folder that save_to_disk wrote")
        return [path]
    for folder in (Path(path, split or "."), Path(path), Path(path, "data")):
        found = sorted(str(file) for file in folder.glob("*") if file.suffix in _SUFFIXES) if folder.is_dir() else []
        if folder != Path(path, split or ".") and split not in (None, "."):
            found = [file for file in found if _split_of(os.path.basename(file), split)]
        if found:
            return found
    raise DataError(
        f"{path} holds neither what save_to_disk writes nor files .parquet or .arrow of the split {split!r}; give "
        "`split` of the data source as their names begin, or `.` for all"
    )


def _split_of(name: str, split: str | None) -> bool:
    return any(name.startswith(f"{word}{end}") for word in _words(split) for end in ("-", "_", "."))


def _words(split: str | None) -> tuple[str, ...]:
    """How a split may be called."""
    return WORDS.get(str(split), (str(split),))


def _of_split(path: str, found: dict[str, Any], split: str | None) -> Any:
    """One split of several."""
    name = next((word for word in _words(split) if word in found), None)
    if name is None:
        raise DataError(f"{path} has no split {split!r:.80}; {suggestion(str(split), found)}")
    return found[name]


def _column(path: str, what: str, given: str | None, likely: Sequence[str], columns: Sequence[str]) -> str:
    if given is not None:
        if given not in columns:
            raise DataError(f"{path} has no column {given!r:.80}; {suggestion(given, columns)}")
        return given
    if len(likely) != 1:
        raise DataError(
            f"{path} has {len(likely)} columns that may be the {what} (columns: {', '.join(columns)[:200]}); name it "
            f"in `options` of the data source, as in {{{what}: {(likely or columns or ['label'])[0]}}}"
        )
    return likely[0]


def _labels(rows: Any, label: str, names: Sequence[str] | None, path: str) -> torch.Tensor:
    """int64 [N]."""
    values = [row[label] for row in values_of(rows, [label])]
    if not values:
        raise DataError(f"{path} has no rows; give a set with images")
    wrong = next((row for row, value in enumerate(values) if type(value) is not int or value < 0), None)
    if wrong is not None:
        raise DataError(
            f"{path}, row {wrong}: column {label!r:.80} says class {values[wrong]!r:.80}; wanted numbers from 0 on (-1 "
            "stands for an unlabelled row): name another column, or leave the row out"
        )
    return check_labels(torch.tensor(values, dtype=torch.int64), len(values), names, where=path)
