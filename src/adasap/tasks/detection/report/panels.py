"""What the page shows of a detector beyond the common panels."""

from adasap.report.panel import Panel
from adasap.tasks.detection.report.precision_panel import PrecisionPanel
from adasap.tasks.detection.report.scenes_panel import ScenesPanel

PANELS: tuple[Panel, ...] = (PrecisionPanel(), ScenesPanel())
