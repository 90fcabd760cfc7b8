"""Corruptions that add noise to every value of every pixel on its own (Hendrycks and Dietterich, 2019)."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from adasap.corruptions.draws import normal, uniform
from adasap.corruptions.protocol import Constants

GAUSSIAN_STD = {
    "224": (0.08, 0.12, 0.18, 0.26, 0.38),
    "64": (0.04, 0.08, 0.12, 0.15, 0.18),
    "32": (0.04, 0.06, 0.08, 0.09, 0.10),
}
SHOT_PHOTONS = {"224": (60, 25, 12, 5, 3), "64": (250, 100, 50, 30, 15), "32": (500, 250, 100, 75, 50)}
IMPULSE_SHARE = {
    "224": (0.03, 0.06, 0.09, 0.17, 0.27),
    "64": (0.01, 0.02, 0.05, 0.08, 0.14),
    "32": (0.01, 0.02, 0.03, 0.05, 0.07),
}
SPECKLE_STD = {
    "224": (0.15, 0.2, 0.35, 0.45, 0.6),
    "64": (0.15, 0.2, 0.25, 0.3, 0.35),
    "32": (0.06, 0.1, 0.12, 0.16, 0.2),
}


def gaussian_noise(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Adds normal noise of a fixed standard deviation."""
    noise = normal(seeds, "noise", images.shape[1:])
    return noise.mul_(GAUSSIAN_STD[constants][severity - 1]).add_(images).clamp_(0, 1)


def speckle_noise(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Multiplies by one plus normal noise (a validation corruption)."""
    factors = normal(seeds, "speckle", images.shape[1:]).mul_(SPECKLE_STD[constants][severity - 1]).add_(1)
    return factors.mul_(images).clamp_(0, 1)


def impulse_noise(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Turns a share of the values to one or to zero, both equally often."""
    share = IMPULSE_SHARE[constants][severity - 1]
    draws = uniform(seeds, "impulse", images.shape[1:])
    return images.masked_fill(draws < share, 0).masked_fill_(draws < share / 2, 1)


def shot_noise(images: Tensor, severity: int, seeds: Tensor, constants: Constants) -> Tensor:
    """Counts photons: Poisson(value x full) / full, where a white pixel receives `full` photons in the mean."""
    full = SHOT_PHOTONS[constants][severity - 1]
    thresholds, others = (table.to(images.device) for table in poisson_alias_tables(full))
    num_columns = thresholds.shape[1]
    draws = uniform(seeds, "shot", images.shape[1:]).mul_(num_columns)
    columns = draws.floor()
    entries = (images * 255).round_().mul_(num_columns).add_(columns).int().flatten()
    stays = draws.sub_(columns) < thresholds.flatten().index_select(0, entries).view_as(draws)
    return torch.where(stays, columns, others.flatten().index_select(0, entries).view_as(draws)).div_(full)


@cache
def poisson_alias_tables(full: int) -> tuple[Tensor, Tensor]:
    """Walker's alias tables (1977) of min(Poisson(level / 255 x full), full) for the 256 levels of an 8-bit image.

    One uniform number draws exactly: its leading bits choose column k, and the rest, as a fraction, stays with
    k below the threshold and goes to the column's other count from there on. There are 256 rates and no more, so
    a table each costs less than any rejection method, and all devices draw the same counts.

    Returns:
        Thresholds and other counts, float32 [256, K]; K is a power of two above `full`.
    """
    num_columns = 2 ** math.ceil(math.log2(full + 1))
    shares = _capped_poisson(full, num_columns).mul_(num_columns)
    thresholds = torch.ones_like(shares)
    others = torch.arange(num_columns).repeat(256, 1)
    poor, rich, levels = shares.clone(), shares, torch.arange(256)
    for _ in range(num_columns - 1):
        poorest = poor.argmin(dim=1)
        rich[levels, poorest] = -math.inf
        richest = rich.argmax(dim=1)
        thresholds[levels, poorest] = poor[levels, poorest]
        others[levels, poorest] = richest
        poor[levels, richest] -= 1 - poor[levels, poorest]
        rich[levels, richest] = poor[levels, richest]
        poor[levels, poorest] = math.inf
    return thresholds.float(), others.float()


def _capped_poisson(full: int, num_columns: int) -> Tensor:
    """Probabilities float64 [256, num_columns] of 0 to `full`; more photons than that make no brighter pixel."""
    rates = torch.arange(256, dtype=torch.float64)[:, None] / 255 * full
    counts = torch.arange(num_columns, dtype=torch.float64)
    probabilities = torch.exp(torch.xlogy(counts, rates) - rates - torch.lgamma(counts + 1))
    probabilities[:, full:] = 0
    probabilities[:, full] = 1 - probabilities.sum(dim=1)
    return probabilities.clamp_(min=0)
