"""What a person reads: profiles, tables, summaries, curves."""

from adasap.report.environment import environment
from adasap.report.files import PAGE
from adasap.report.summary import corruption_table, gap_table, profile_table, stage_table
from adasap.report.table import Shown, Table

__all__ = [
    "PAGE",
    "Shown",
    "Table",
    "corruption_table",
    "environment",
    "gap_table",
    "profile_table",
    "stage_table",
]
