"""The suites by name, open to a user's own, and how a recipe or the command line names one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from adasap.checks import require_declared
from adasap.corruptions import BENCHMARK, NUM_SEVERITIES, VALIDATION
from adasap.data import DataSource, Resizing
from adasap.data.decoding import AS_SHOWN, Reading
from adasap.errors import DataError
from adasap.evaluation.cells import Cell
from adasap.evaluation.suites import CellImages
from adasap.registry import Registry

CellsOnDisk = tuple[Mapping[Cell, CellImages], int | None]
"""Cells that lie corrupted on disk, and how many outputs a model must have for their labels, None for any number."""


@dataclass(frozen=True)
class SuiteKind:
    """What one name stands for: `SUITES.register("my-suite", SuiteKind(...))` makes it known everywhere.

    Attributes:
        read: Gives the cells that lie corrupted at the suite's `path`; None for images as they are or on the fly.
        on_the_fly: Whether the corruptions are made when the images are read.
        on_disk: What must lie at the suite's `path`; empty where the suite takes a data set.
        images: How the data set at the path is read; None where the suite takes any.
        subfolder: Where it may lie below the path.
        split: Of the data set.
        num_outputs: Of the models that the labels are for; None asks for an output per label.
        restricted: Only outputs of classes that occur compete.
        num_images: How many images the published set has, in each cell.
        classes: Class names of its labels, where the files have none.
        corruptions: What its cells are made with by default.
    """

    read: Callable[[SuiteSource], CellsOnDisk] | None = None
    on_the_fly: bool = False
    on_disk: str = ""
    images: str | None = None
    subfolder: str = ""
    split: str | None = None
    num_outputs: int | None = None
    restricted: bool = False
    num_images: int | None = None
    classes: tuple[str, ...] | None = None
    corruptions: tuple[str, ...] = BENCHMARK


SUITES: Registry[SuiteKind] = Registry(
    "suite",
    at="adasap.evaluation.SUITES",
    filled_by="adasap.evaluation.suite_readers",
    packages="adasap.tasks",
    error=DataError,
)
"""The suites; tasks register their own, and so may you."""


@dataclass(frozen=True)
class SuiteSource:
    """Where a suite comes from.

    Attributes:
        kind: A name of the registry: `clean` (a data set as it is), `corrupted` (a data set under the 15 corruptions,
            on the fly), `corrupted-validation` (under the 4 for choices), `corruption-arrays`, or a published set such
            as `imagenet-c`.
        data: The data set of `clean`, `corrupted` and `corrupted-validation`; by default the run's own test data.
        path: Where a published set or the arrays lie.
        corruptions: `benchmark` (the 15 that are reported), `validation` (the 4 for choices), or names; by default
            the suite's own.
        severities: Which severities.
        resizing: Brings a published set to the model's size; by default sets of images of any size are resized to
            256/224 of it and cropped, the others are left as they are. For `data` give its own `resize`.
        reading: How the image files of a published set are read. For `data` give its own `exif_orientation` and so on.
    """

    kind: str
    data: DataSource | None = None
    path: str | None = None
    corruptions: Literal["benchmark", "validation"] | tuple[str, ...] | None = None
    severities: tuple[int, ...] = tuple(range(1, NUM_SEVERITIES + 1))
    resizing: Resizing = Resizing()  # noqa: RUF009 - frozen
    reading: Reading = AS_SHOWN

    def __post_init__(self) -> None:
        require_declared(self, DataError)
        SUITES.get(self.kind)
        wrong = [s for s in self.severities if not 1 <= s <= NUM_SEVERITIES]
        if wrong or not self.severities or len(set(self.severities)) < len(self.severities):
            raise DataError(f"severities are {list(self.severities)}; give different whole numbers from 1 to 5")

    @property
    def row(self) -> SuiteKind:
        """What the name stands for."""
        return SUITES.get(self.kind)

    def names(self) -> tuple[str, ...]:
        """The corruptions by name."""
        if self.corruptions is None:
            return self.row.corruptions
        sets = {"benchmark": BENCHMARK, "validation": VALIDATION}
        return sets[self.corruptions] if isinstance(self.corruptions, str) else tuple(self.corruptions)

    def cells(self) -> Iterator[Cell]:
        """The cells of corruptions, severity by severity."""
        return (Cell(corruption, severity) for corruption in self.names() for severity in self.severities)

    def place(self) -> Path:
        """Where a published suite lies.

        Raises:
            DataError: If it says so nowhere or there is nothing.
        """
        path = None if self.path is None else Path(self.path)
        if path is None or not path.exists():
            given = "none is given" if path is None else f"{path} does not exist"
            raise DataError(f"suite {self.kind} wants {self.row.on_disk} at its path, and {given}; correct the path")
        return path
