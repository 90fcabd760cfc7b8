"""Experiments of many runs: recipes x grid x seeds, one cell after the other or on a cluster, and what they say."""

from adasap.experiments.sweep.cells import Cell, expand
from adasap.experiments.sweep.file import Sweep, read_sweep
from adasap.experiments.sweep.results import SweepResults, read_results
from adasap.experiments.sweep.running import Outcome, RunCell, run_cells
from adasap.experiments.sweep.taking_over import take_over

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
    "take_over",
]
