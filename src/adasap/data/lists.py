"""Reads image files that a CSV lists with their classes."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import torch

from adasap.data.files import ImageFiles
from adasap.data.images import MOST_CLASSES
from adasap.errors import DataError, suggestion
from adasap.io import read_text

_COLUMNS = ("file", "class_index")
_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}


@dataclass(frozen=True)
class _Row:
    line: int
    file: str
    label: int
    name: str


def read_csv(path: Path) -> ImageFiles:
    """The image files that a CSV lists, with its columns `file`, `class_index` and perhaps `class_name`.

    Text is UTF-8, columns are separated by commas, blank rows are skipped. Classes have names if at least one row gives
    one; classes that no row names are called by their number.

    Args:
        path: The CSV, or the folder that holds `labels.csv`. Files lie beside it or in `images/` beside it, or below.
    Raises:
        DataError: If the list or a file of it is missing, a file lies elsewhere, or a row names no class.
    """
    listing = path / "labels.csv" if path.is_dir() else path
    rows, blank = _rows(listing)
    root = listing.parent / "images" if (listing.parent / "images").is_dir() else listing.parent
    missing = [row.file for row in rows if not os.path.isfile(root / row.file)]
    if missing:
        move = "write paths with / and not \\" if "\\" in missing[0] else "complete the folder, or correct the paths"
        raise DataError(f"{root} lacks {missing[0][:200]!r}, which {listing} lists ({len(missing)} missing); {move}")
    names = _names(rows, listing)
    classes = [names.get(number, str(number)) for number in range(max(row.label for row in rows) + 1)]
    labels = torch.tensor([row.label for row in rows])
    remarks = [*filter(None, (_twice(rows), f"{blank:,} blank rows skipped" if blank else ""))]
    return ImageFiles([row.file for row in rows], labels, classes, str(root), named=bool(names), remarks=remarks)


def _rows(listing: Path) -> tuple[list[_Row], int]:
    """All rows, and how many were blank."""
    if not listing.is_file():
        raise DataError(f"{listing} does not exist; wanted a CSV with the columns `file` and `class_index`")
    text = read_text(listing, what="a list of images", error=DataError)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, blank = [], 0
    try:
        columns = _columns(next(reader, []), listing)
        for fields in reader:
            if not any(field.strip() for field in fields):
                blank += 1
                continue
            rows.append(_row(fields, columns, f"{listing}, line {reader.line_num}", reader.line_num))
    except csv.Error as error:
        raise DataError(f"{listing}, line {reader.line_num}: {error}; wanted a CSV, texts in double quotes") from error
    if not rows:
        raise DataError(f"{listing} has no rows below its columns; list at least one file")
    return rows, blank


def _columns(header: Sequence[str], listing: Path) -> list[str]:
    columns = [name.strip() for name in header]
    lacking = [name for name in _COLUMNS if name not in columns]
    if lacking:
        used = [word for letter, word in _OTHER_DELIMITERS.items() if any(letter in name for name in columns)]
        hint = f"its columns are separated by {used[0]}, wanted commas" if used else suggestion(lacking[0], columns)
        given = ", ".join(columns)[:200] or "no rows"
        raise DataError(f"{listing} has {given}; wanted rows with the columns `file` and `class_index`; {hint}")
    doubled = [name for name in columns if name and columns.count(name) > 1]
    if doubled:
        raise DataError(f"{listing} has the column {doubled[0]!r} twice; drop one")
    return columns


def _row(fields: Sequence[str], columns: Sequence[str], place: str, line: int) -> _Row:
    if len(fields) != len(columns):
        raise DataError(
            f"{place} has {len(fields)} fields, the first line has {len(columns)} columns; put texts with commas in "
            "double quotes"
        )
    by_column = dict(zip(columns, fields, strict=True))
    return _Row(
        line,
        _file(by_column["file"], place),
        _label(by_column["class_index"], place),
        by_column.get("class_name", "").strip(),
    )


def _file(name: str, place: str) -> str:
    """A path that stays in the folder, on every system."""
    if not name.strip() or "\0" in name:
        raise DataError(f"{place}: the file has no name; write a path relative to the list")
    for path in (PurePosixPath(name), PureWindowsPath(name)):
        if path.is_absolute() or path.drive or path.root or ".." in path.parts:
            raise DataError(
                f"{place}: {name[:200]} leaves the folder of the list; move the images beside it, or link their folder "
                "there and set `follow_links: true` of the data source, and write relative paths"
            )
    return name


def _label(text: str, place: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.removeprefix("-").isdigit()):
        raise DataError(f"{place}: class_index is {text[:40]!r}, which is no whole number; correct that row")
    if digits.startswith("-") or len(digits) > len(str(MOST_CLASSES)) or int(digits) >= MOST_CLASSES:
        raise DataError(
            f"{place}: class_index is {digits[:40]}; classes are numbered from 0, and at most {MOST_CLASSES:,} are read"
        )
    return int(digits)


def _names(rows: Sequence[_Row], listing: Path) -> dict[int, str]:
    """Name of each class that has one.

    Raises:
        DataError: If a class has two.
    """
    first: dict[int, _Row] = {}
    for row in rows:
        if row.name and first.setdefault(row.label, row).name != row.name:
            before = first[row.label]
            raise DataError(
                f"{listing}: class_index {row.label} is called {before.name!r} in line {before.line} and {row.name!r} "
                f"in line {row.line}; give each class one name"
            )
    return {label: row.name for label, row in first.items()}


def _twice(rows: Sequence[_Row]) -> str:
    labels: dict[str, int] = {}
    again, other = [], 0
    for row in rows:
        if row.file in labels:
            again.append(row.file)
            other += labels[row.file] != row.label
        labels.setdefault(row.file, row.label)
    if not again:
        return ""
    return f"{len(again):,} files listed again ({again[0]}), {other:,} of them with another class"
