"""Experiments of many runs: recipes x grid x seeds, one cell after the other or on a cluster, and what they say."""

from adasap.sweep.cells import Cell, expand
from adasap.sweep.file import Sweep, read_sweep
from adasap.sweep.results import SweepResults, read_results
from adasap.sweep.running import Outcome, RunCell, run_cells

__all__ = [
    "Cell",
    "Outcome",
    "RunCell",
    "Sweep",
    "SweepResults",
    "expand",
    "read_results",
    "read_sweep",
    "run_cells",
]
