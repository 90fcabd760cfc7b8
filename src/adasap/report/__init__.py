"""What a person reads: profiles, tables, summaries, curves."""

from adasap.report.environment import environment
from adasap.report.profile import Latency, Profile, measure_latency, profile_models
from adasap.report.summary import markdown_table, profile_table, stage_table

__all__ = [
    "Latency",
    "Profile",
    "environment",
    "markdown_table",
    "measure_latency",
    "profile_models",
    "profile_table",
    "stage_table",
]
