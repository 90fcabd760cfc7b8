"""The suites by name, one row each, and how a recipe or the command line names one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from adasap.corruptions import BENCHMARK, NUM_SEVERITIES, VALIDATION
from adasap.data import DataSource, Resizing
from adasap.data.source import SourceKind
from adasap.errors import DataError, suggestion

Layout = Literal["images", "on the fly", "corruption folders", "corruption npy", "corruption npz"]


@dataclass(frozen=True)
class SuiteRow:
    """What one name stands for.

    Attributes:
        layout: How its cells come about.
        on_disk: What must lie at the suite's `path`; empty where the suite takes a data set.
        images: How the data set at the path is read; None where the suite takes any.
        subfolder: Where it may lie below the path.
        split: Of the data set.
        num_outputs: Of the models that the labels are for; None asks for an output per label.
        restricted: Only outputs of classes that occur compete.
        num_images: How many images the published set has, in each cell.
        corruptions: What its cells are made with by default.
    """

    layout: Layout
    on_disk: str = ""
    images: SourceKind | None = None
    subfolder: str = ""
    split: str | None = None
    num_outputs: int | None = None
    restricted: bool = False
    num_images: int | None = None
    corruptions: tuple[str, ...] = BENCHMARK


_CLASSES = "class folders named by wnid"
_V2 = "the variant's class folders 0 to 999, or the folder {} above them"
_V2_FOLDERS = {
    "imagenet-v2": "imagenetv2-matched-frequency-format-val",
    "imagenet-v2-threshold0.7": "imagenetv2-threshold0.7-format-val",
    "imagenet-v2-top-images": "imagenetv2-top-images-format-val",
}
_NPY = "CORRUPTION.npy, uint8 [5 N, 32, 32, 3] by severity, and labels.npy [5 N]"

SUITES: dict[str, SuiteRow] = {
    "clean": SuiteRow("images"),
    "corrupted": SuiteRow("on the fly"),
    "corrupted-validation": SuiteRow("on the fly", corruptions=VALIDATION),
    "corruption-arrays": SuiteRow("corruption npz", "an npz of labels and, per corruption, uint8 [5, N, H, W, 3]"),
    "imagenet-val": SuiteRow(
        "images", f"{_CLASSES}, or a flat folder with val.txt", "imagenet", num_outputs=1000, num_images=50_000
    ),
    "imagenet-c": SuiteRow(
        "corruption folders", "CORRUPTION/SEVERITY/WNID/*.JPEG at 224 x 224", num_outputs=1000, num_images=50_000
    ),
    **{
        name: SuiteRow("images", _V2.format(folder), "imagenet-v2", folder, num_outputs=1000, num_images=10_000)
        for name, folder in _V2_FOLDERS.items()
    },
    "imagenet-a": SuiteRow("images", _CLASSES, "imagenet", num_outputs=1000, restricted=True, num_images=7_500),
    "imagenet-r": SuiteRow("images", _CLASSES, "imagenet", num_outputs=1000, restricted=True, num_images=30_000),
    "imagenet-sketch": SuiteRow("images", _CLASSES, "imagenet", num_outputs=1000, num_images=50_889),
    "objectnet": SuiteRow("images", "images/ and mappings/ as published", "objectnet", num_outputs=1000),
    "cifar10-c": SuiteRow("corruption npy", _NPY, num_outputs=10, num_images=10_000),
    "cifar100-c": SuiteRow("corruption npy", _NPY, num_outputs=100, num_images=10_000),
    "cifar10.1": SuiteRow(
        "images", "cifar10.1_v6_data.npy, cifar10.1_v6_labels.npy", "cifar10.1", num_outputs=10, num_images=2_000
    ),
    "cifar10.1-v4": SuiteRow(
        "images",
        "cifar10.1_v4_data.npy, cifar10.1_v4_labels.npy",
        "cifar10.1",
        split="v4",
        num_outputs=10,
        num_images=2_021,
    ),
    "tiny-imagenet-c": SuiteRow(
        "corruption folders", "CORRUPTION/SEVERITY/WNID/*.JPEG at 64 x 64, wnids numbered as sorted", num_images=10_000
    ),
}


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
    """

    kind: str
    data: DataSource | None = None
    path: str | None = None
    corruptions: Literal["benchmark", "validation"] | tuple[str, ...] | None = None
    severities: tuple[int, ...] = tuple(range(1, NUM_SEVERITIES + 1))
    resizing: Resizing = Resizing()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.kind not in SUITES:
            raise DataError(f"there is no suite {self.kind!r}; {suggestion(self.kind, SUITES)}")
        wrong = [s for s in self.severities if not 1 <= s <= NUM_SEVERITIES]
        if wrong or not self.severities or len(set(self.severities)) < len(self.severities):
            raise DataError(f"severities are {list(self.severities)}; give different whole numbers from 1 to 5")

    @property
    def row(self) -> SuiteRow:
        """What the name stands for."""
        return SUITES[self.kind]

    def names(self) -> tuple[str, ...]:
        """The corruptions by name."""
        if self.corruptions is None:
            return self.row.corruptions
        sets = {"benchmark": BENCHMARK, "validation": VALIDATION}
        return sets[self.corruptions] if isinstance(self.corruptions, str) else tuple(self.corruptions)
