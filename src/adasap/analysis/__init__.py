"""Sharpness, measured: how a loss behaves around the weights of any model."""

from adasap.analysis.average_case import AverageCase, average_sharpness
from adasap.analysis.blocks import channel_blocks, group_blocks, layer_blocks
from adasap.analysis.channels import Removals, channel_removals, some_channels
from adasap.analysis.file import AnalysisFile, read_analysis
from adasap.analysis.folding import fold_batch_norms
from adasap.analysis.hessian import Hessian
from adasap.analysis.instruments import INSTRUMENTS, Instrument
from adasap.analysis.lanczos import Eigenvalues, top_eigenvalues
from adasap.analysis.landscape import filter_normalised_direction, loss_line, loss_plane, symmetric_grid
from adasap.analysis.memory import MemoryNeed, memory_need
from adasap.analysis.objective import Objective
from adasap.analysis.options import AnalysisOptions
from adasap.analysis.ranks import channel_summary, probability_below, rank_correlation
from adasap.analysis.run import analyze
from adasap.analysis.spectrum import Density, Trace, hutchinson_trace, random_signs, spectral_density
from adasap.analysis.subject import Subject
from adasap.analysis.worst_case import Ball, WorstCase, worst_case_sharpness

__all__ = [
    "INSTRUMENTS",
    "AnalysisFile",
    "AnalysisOptions",
    "AverageCase",
    "Ball",
    "Density",
    "Eigenvalues",
    "Hessian",
    "Instrument",
    "MemoryNeed",
    "Objective",
    "Removals",
    "Subject",
    "Trace",
    "WorstCase",
    "analyze",
    "average_sharpness",
    "channel_blocks",
    "channel_removals",
    "channel_summary",
    "filter_normalised_direction",
    "fold_batch_norms",
    "group_blocks",
    "hutchinson_trace",
    "layer_blocks",
    "loss_line",
    "loss_plane",
    "memory_need",
    "probability_below",
    "random_signs",
    "rank_correlation",
    "read_analysis",
    "some_channels",
    "spectral_density",
    "symmetric_grid",
    "top_eigenvalues",
    "worst_case_sharpness",
]
