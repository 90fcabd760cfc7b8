"""What a person reads: profiles, tables, summaries, curves."""

from adasap.report.environment import environment
from adasap.report.files import PAGE
from adasap.report.profile import Latency, Profile, measure_latency, profile_models
from adasap.report.robustness_table import robustness_tables
from adasap.report.summary import corruption_table, gap_table, profile_table, stage_table
from adasap.report.table import Table

__all__ = [
    "PAGE",
    "Latency",
    "Profile",
    "Table",
    "corruption_table",
    "environment",
    "gap_table",
    "measure_latency",
    "profile_models",
    "profile_table",
    "robustness_tables",
    "stage_table",
]
