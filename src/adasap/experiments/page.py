"""The page of runs, with what their task and their analyses add to the common panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from adasap.report.comparison import Comparison
from adasap.report.panel import Panel
from adasap.tasks.panels import panels_of


def write_page(found: Comparison, folder: Path, panels: Sequence[Panel] | None = None) -> None:
    """Writes `report.html`, `report.json` and `report.csv`; Plotly and Jinja2 are imported only here.

    Args:
        folder: Exists.
        panels: Of the task; those that are registered under its name if None.
    """
    from adasap.analysis.report.panel import SharpnessPanel
    from adasap.report.page import write_report

    own = panels_of(found.runs[0].task.name) if panels is None else panels
    write_report(found, folder, [SharpnessPanel(), *own])
