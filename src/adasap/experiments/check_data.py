"""Every image of a data set read, and what is broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from adasap.data import DataSource, open_source
from adasap.data.checking import Inspection, check_files, inspect_files, inspect_images
from adasap.data.images import is_image_set, remarks_of
from adasap.experiments.name_suites import source_named
from adasap.experiments.terminal import console_of, lines_on, open_progress
from adasap.io import atomic_write
from adasap.report import Shown, Table

_MOST_LINES = 8
_MOST_CLASSES = 20


@dataclass(frozen=True, repr=False)
class CheckedData(Shown):
    """What the images of a data set are.

    Attributes:
        summary: How many images, of which classes, and what the reader did.
        inspection: Sizes, kinds and peculiarities, and `problems`: a sentence for each broken file.
    """

    summary: tuple[str, ...]
    inspection: Inspection

    @property
    def problems(self) -> list[str]:
        """A sentence for each broken file."""
        return self.inspection.problems

    def parts(self) -> Iterator[Table | str]:
        """Counts, and what is broken."""
        yield from (*self.summary, *self.inspection.lines(_MOST_LINES), *self.problems)


def check_data(
    data: str | DataSource | Any,
    *,
    split: str | None = None,
    workers: int | None = None,
    out: str | Path | None = None,
    console: Console | bool = False,
) -> CheckedData:
    """Reads every image of a data set: counts classes, sizes and kinds of files, lists what is broken.

    Args:
        data: `KIND:PATH`, such as `folder:photos`, a `DataSource`, or any map-style data set.
        split: Such as `train`; by default that of the source, else `test`, and a folder itself.
        workers: Processes; by default as many as processors, up to 8, where there are many files.
        out: Where to write the list of broken files.
        console: `True` shows a bar.
    Raises:
        DataError: If the data set cannot be opened at all.

    Example:
        >>> found = check_data("digits:", split="test")
        >>> found.problems, found.inspection.sizes
        ([], Counter({'32 x 32': 445}))
    """
    source = source_named(data) if isinstance(data, str) else data
    images = source
    if isinstance(source, DataSource):
        named = source.own_split(split or "test") if isinstance(source.split, dict) else split or source.split
        source = replace(source, split=named, skip_broken=False)
        part = named or ("." if source.kind == "folder" else "test")
        images = open_source(source, part, trust_code=True)  # what the user types is his word
    found = _inspected(images, source, workers, console_of(console))
    if out is not None:
        with atomic_write(Path(out)) as file:
            file.write("".join(f"{line}\n" for line in found.problems).encode())
    return CheckedData(tuple(_about(images)), found)


def _inspected(images: Any, source: Any, workers: int | None, console: Console) -> Inspection:
    """The files, where a data set has a method `paths()`; else its images one by one."""
    paths = images.paths() if isinstance(source, DataSource) and hasattr(images, "paths") else []
    if not paths:
        return inspect_images(images)
    with open_progress(console) as progress:
        checks, tell = check_files(paths, source.reading, workers=workers), lines_on(console, "files")

        def told() -> Iterator[Any]:
            for number, check in enumerate(checks, start=1):
                tell(number, len(paths))
                yield check

        found = inspect_files(progress.track(told(), total=len(paths), description=""))
    if hasattr(images, "broken_names"):
        found.problems += images.broken_names()
    return found


def _about(images: Any) -> list[str]:
    """How many images, of which classes, and what the reader did."""
    if hasattr(images, "summary"):
        return [images.summary()]
    if not is_image_set(images):
        return [f"{len(images):,} items"]
    counts = images.labels.bincount(minlength=images.num_classes).tolist()
    named = [f"{name} {count:,}" for name, count in zip(images.classes, counts, strict=True)]
    more = f", and {len(named) - _MOST_CLASSES} more" if len(named) > _MOST_CLASSES else ""
    classes = f"{len(images):,} images, {images.num_classes} classes: {', '.join(named[:_MOST_CLASSES])}{more}"
    return [classes, *remarks_of(images)]
