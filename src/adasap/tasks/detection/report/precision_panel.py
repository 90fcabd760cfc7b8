"""Precision and recall of a detector, its performance under corruption, and average precision by corruption."""

from __future__ import annotations

from markupsafe import Markup

from adasap.report.comparison import Comparison
from adasap.report.panel import Block, Content, Panel, blocks_by_run
from adasap.report.run_data import RunData
from adasap.report.table import Table
from adasap.tasks.detection.report.detection_table import counted_corruptions, performance_table
from adasap.tasks.detection.report.detections import read_detections
from adasap.tasks.detection.report.figures import corruption_bars, precision_curves

AP50 = "AP50 is the average precision at IoU 0.5, the mean over the classes."
PERFORMANCE = Markup(
    "P is clean, mPC the mean over corruptions and severities. rPC has two definitions, which differ: COCO’s ratio of "  # noqa: RUF001
    "the means, and the mean of the classes’ ratios that Pascal VOC’s reference code takes."  # noqa: RUF001
)


class PrecisionPanel(Panel):
    """Of runs whose folders keep what the detectors found."""

    key, heading, follows = "detection", "Detection", "all"

    def content(self, found: Comparison) -> Content | None:
        return blocks_by_run("Detection", found, _blocks)


def _blocks(found: Comparison, place: int) -> list[Block]:
    run = found.runs[place]
    record = read_detections(run.folder)
    if record is None:
        return []
    curves = precision_curves(run, record, f"precision-{place}")
    blocks = [Block(curves.title, AP50, figure=curves)]
    if (table := performance_of(run)) is not None:
        blocks.append(Block("Performance under corruption", PERFORMANCE, table=table))
    if (suite := run.first_suite("corrupted")) is not None:
        bars = corruption_bars(run, suite, f"corruptions-{place}")
        blocks.append(Block(bars.title, figure=bars))
    return blocks


def performance_of(run: RunData) -> Table | None:
    """P, mPC and rPC of the dense and the compressed model; None without corruptions."""
    suite = run.first_suite("corrupted")
    if suite is None:
        return None
    models = {"dense": run.scores("dense"), "compressed": run.scores("compressed")}
    return performance_table(models, "clean", suite, counted_corruptions(models["dense"][suite]))
