"""Sharpness, measured: how a loss behaves around the weights of any model."""

from adasap.analysis.average_case import AverageCase, average_sharpness
from adasap.analysis.blocks import channel_blocks, group_blocks, layer_blocks
from adasap.analysis.channels import Removals, channel_removals, some_channels
from adasap.analysis.folding import fold_batch_norms
from adasap.analysis.hessian import Hessian
from adasap.analysis.lanczos import (
    Density,
    Eigenvalues,
    Trace,
    hutchinson_trace,
    random_signs,
    spectral_density,
    top_eigenvalues,
)
from adasap.analysis.landscape import filter_normalised_direction, loss_line, loss_plane, symmetric_grid
from adasap.analysis.objective import Objective
from adasap.analysis.worst_case import Ball, WorstCase, worst_case_sharpness

__all__ = [
    "AverageCase",
    "Ball",
    "Density",
    "Eigenvalues",
    "Hessian",
    "Objective",
    "Removals",
    "Trace",
    "WorstCase",
    "average_sharpness",
    "channel_blocks",
    "channel_removals",
    "filter_normalised_direction",
    "fold_batch_norms",
    "group_blocks",
    "hutchinson_trace",
    "layer_blocks",
    "loss_line",
    "loss_plane",
    "random_signs",
    "some_channels",
    "spectral_density",
    "symmetric_grid",
    "top_eigenvalues",
    "worst_case_sharpness",
]
