"""What the page shows of a segmentation network beyond the common panels."""

from adasap.report.panel import Panel
from adasap.tasks.segmentation.report.classes_panel import ClassesPanel
from adasap.tasks.segmentation.report.overlays_panel import OverlaysPanel

PANELS: tuple[Panel, ...] = (ClassesPanel(), OverlaysPanel())
