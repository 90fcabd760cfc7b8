"""How each run was made: seed, cost, machine, versions, command, recipe."""

from __future__ import annotations

from pathlib import Path

from adasap.report.comparison import Comparison
from adasap.report.panel import Content, Panel


class Made(Panel):
    """Everything that is needed to make the run again."""

    key, heading = "made", "How it was made"
    part = Path(__file__).with_name("made.html")

    def content(self, found: Comparison) -> Content | None:
        return Content("How it was made")
