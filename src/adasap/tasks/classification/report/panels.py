"""What the page shows of a classifier beyond the common panels."""

from adasap.report.panel import Panel
from adasap.tasks.classification.report.examples_panel import ExamplesPanel

PANELS: tuple[Panel, ...] = (ExamplesPanel(),)
