"""How the command line names suites and data: `--suite NAME` or `--suite NAME=PLACE`, `--data KIND:PATH` or a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from adasap.data import DataSource, Resizing
from adasap.data.source import ANY_SIZE, WITH_BOXES, SourceKind
from adasap.errors import DataError
from adasap.robustness import SUITES, SuiteSource

Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class SuiteOptions:
    """What the command line says about all suites.

    Attributes:
        data: Place of suites that name none: `KIND:PATH` of a data set, or the path of a published set.
        first: Index of the first image of a data set.
        count: Number of its images.
        resizing: Brings images to the model's size.
        corruptions: Which corruptions; all of the suite if None.
        severities: Which severities; all if None.
    """

    data: str | None = None
    first: int = 0
    count: int | None = None
    resizing: Resizing = Resizing()  # noqa: RUF009 - frozen
    corruptions: Sequence[str] | None = None
    severities: Sequence[int] | None = None

    def sources(self, suites: Sequence[str]) -> dict[str, SuiteSource]:
        """Suite name -> where it comes from.

        Raises:
            DataError: If a suite is unknown, named twice, or has no place.
        """
        sources: dict[str, SuiteSource] = {}
        for text in suites:
            name, _, place = text.partition("=")
            if name in sources:
                raise DataError(f"--suite {name} is given twice; evaluate the second place by a command of its own")
            sources[name] = self._source(name, place or self.data)
        return sources

    def _source(self, name: str, place: str | None) -> SuiteSource:
        source = SuiteSource(name, resizing=self.resizing)
        if place is None:
            wanted = source.row.on_disk or "a data set, KIND:PATH"
            raise DataError(f"--suite {name} wants {wanted}; give --data or --suite {name}=PLACE")
        if source.row.on_disk:
            kind, colon, path = place.partition(":")
            source = replace(source, path=path if colon and kind == source.row.images else place)
        else:
            source = replace(source, data=self.data_source(place))
        if self.corruptions:
            source = replace(source, corruptions=tuple(self.corruptions))
        return source if not self.severities else replace(source, severities=tuple(self.severities))

    def data_source(self, text: str) -> DataSource:
        """The data set that `KIND:PATH` names."""
        kind, colon, path = text.partition(":")
        kinds = get_args(SourceKind)
        if not colon or kind not in kinds:
            raise DataError(f"{text!r} is no data set: write KIND:PATH with one of the kinds {', '.join(kinds)}")
        resizing = self.resizing
        return DataSource(
            kind,  # type: ignore[arg-type]
            path or None,
            first=self.first,
            count=self.count,
            resize=resizing.resize,
            center_crop=resizing.center_crop,
            interpolation=resizing.interpolation,
        )


def has_one_size(source: SuiteSource) -> bool:
    """Whether the images of a suite have a size of their own, which a named model is built for."""
    kind = source.row.images if source.data is None else source.data.kind
    resizing = source.resizing if source.data is None else source.data.resizing
    return bool(resizing) or kind not in ANY_SIZE


def has_boxes(source: SuiteSource) -> bool:
    """Whether a suite's images have boxes, for a detector."""
    return source.data is not None and source.data.kind in WITH_BOXES


def suite_help() -> str:
    """The suites by name."""
    return f"NAME or NAME=PLACE, of {', '.join(SUITES)}; may be repeated."
