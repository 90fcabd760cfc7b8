"""A detector's evaluation of the command line: what differs from that of a classifier."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from adasap.cli.evaluation import Evaluation
from adasap.cli.models import OpenedModel
from adasap.errors import DataError
from adasap.models.detector import count_classes
from adasap.report import Table
from adasap.report.detection_table import cell_table, detection_tables
from adasap.robustness import DetectionSuite, SuiteResult, SuiteSource
from adasap.tasks.detection import DetectionTask


def labelled_as(opened: OpenedModel, sources: Mapping[str, SuiteSource]) -> dict[str, SuiteSource]:
    """The sources with labels numbered as the detector's are: by the class names in its file, if it holds any."""
    classes = opened.header.metadata.get("classes") if opened.header is not None else None
    if not classes:
        return dict(sources)
    return {
        name: replace(source, data=replace(source.data, classes=tuple(classes)))
        if source.data is not None and source.data.kind in ("voc", "coco")
        else source
        for name, source in sources.items()
    }


@dataclass(frozen=True)
class DetectionEvaluation(Evaluation):
    """A detector, what it is scored on, and how.

    Attributes:
        coco: Also compute COCO's average precision.
    """

    coco: bool = False

    def checked_task(self) -> DetectionTask:
        """The task, after one forward pass.

        Raises:
            DataError: If the model is no detector or has fewer classes than the data, or suites name other classes
                or hold no object of them.
        """
        spec, classes = self.opened.spec, self._detection_suites()[0].images.classes
        found = count_classes(self.opened.model, spec.input_size) - 1
        for suite in self._detection_suites():
            if suite.images.classes != classes:
                raise DataError(f"suite {suite.name!r} has other classes than the first; evaluate it by itself")
            if not len(suite.images.annotations.labels):
                raise DataError(
                    f"suite {suite.name!r} holds no object of the detector's classes ({', '.join(classes[:4])}, ...); "
                    f"give data with these names ({suite.images.summary()})"
                )
        if found < len(classes):
            raise DataError(
                f"the data have {len(classes)} classes ({', '.join(classes[:4])}, ...), the detector answers with "
                f"{found}; give one that was trained on them, or name its classes with `classes` of the data"
            )
        return DetectionTask(mean=spec.mean, std=spec.std, classes=classes, coco=self.coco)

    def _detection_suites(self) -> list[DetectionSuite]:
        return [suite for suite in self.suites if isinstance(suite, DetectionSuite)]

    def table(self, results: Mapping[str, SuiteResult]) -> Table:
        return cell_table(results)

    def metrics(self, results: Mapping[str, SuiteResult]) -> dict[str, Table]:
        if len(self.suites[0].cell_names()) > 1:
            return {}
        return detection_tables({self.asked["model"]: results})

    def remarks(self, timings: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
        for place, suite in enumerate(self._detection_suites()):
            if place == 0 or suite.images.where != self._detection_suites()[0].images.where:
                yield suite.images.summary()
        yield from super().remarks(timings)
        yield "AP50: area below precision against recall at IoU 0.5, difficult objects ignored; intervals over images"

    def about(self) -> dict[str, Any]:
        return {"boxes": "x_min, y_min, x_max, y_max in pixels from 0; the ground truth is not warped by corruptions"}
