"""Before and after as a table, and the numbers of the page as files."""

from __future__ import annotations

from pathlib import Path

from adasap.report.comparison import Comparison
from adasap.report.files import change_table, comparison_table
from adasap.report.panel import Content, Panel


class Numbers(Panel):
    """One row per quantity of a run, or per run where there are several."""

    key = "all"
    part = Path(__file__).with_name("numbers.html")

    def content(self, found: Comparison) -> Content | None:
        first = found.runs[0].name
        if len(found.runs) == 1:
            return Content("In numbers", values={"table": change_table(found.changes[first], found.metric), "note": ""})
        return Content("All runs", values={"table": comparison_table(found), "note": "Dense → compressed."})
