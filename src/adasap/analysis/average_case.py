"""How far the loss rises on average under Gaussian offsets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adasap.analysis.objective import Objective
from adasap.analysis.worst_case import Ball, over_batches
from adasap.errors import RecipeError
from adasap.sharpness.options import Geometry


@dataclass(frozen=True, eq=False)
class AverageCase:
    """Rise of the loss under random offsets.

    Attributes:
        deviation: Standard deviation of each entry of d / T.
        geometry: T = 1, or T = |w|.
        rises: L(w + d) - L(w), float64 [draws, batches].
    """

    deviation: float
    geometry: Geometry
    rises: Tensor

    @property
    def mean(self) -> float:
        """The Monte Carlo estimate."""
        return float(self.rises.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean over draws for these batches: s / sqrt(draws)."""
        means = self.rises.mean(dim=1)
        return float(means.std()) / math.sqrt(len(means))

    def to_json(self) -> dict[str, Any]:
        """The estimate, its Monte Carlo error, and a 95 % interval over batches."""
        return {
            "deviation": self.deviation,
            "geometry": self.geometry,
            "draws": len(self.rises),
            "standard_error": self.standard_error if self.rises.isfinite().all() else None,
            **over_batches(self.rises.mean(dim=0)),
        }


def average_sharpness(
    objective: Objective,
    deviations: Sequence[float],
    *,
    geometry: Geometry = "euclidean",
    draws: int = 10,
    seed: int = 0,
) -> list[AverageCase]:
    """E L(w + d) - L(w) for d = deviation * T * z, z standard normal, the same z for every deviation.

    The draws come from a generator on the CPU: models with the same parameters are looked at under the same noise,
    on any device. Costs one forward pass over all batches for each draw and deviation.

    Args:
        objective: The loss.
        deviations: At least one, each 0 or more.
        geometry: `euclidean`, or `elementwise` for d = deviation * |w| * z.
        draws: At least 2.
        seed: Of z.
    Raises:
        RecipeError: If an option is out of range.
    Example:
        >>> w = torch.nn.Linear(100, 1, bias=False)
        >>> objective = Objective(w, [torch.eye(100)], lambda model, batch: model(batch).square().sum() / 2)
        >>> [result] = average_sharpness(objective, [0.1], draws=400)
        >>> abs(result.mean - 0.5) < 3 * result.standard_error  # deviation^2 * trace / 2
        True
    """
    if draws < 2 or not deviations:
        raise RecipeError(f"draws is {draws} and deviations {list(deviations)}; give 2 draws or more and a deviation")
    stretch = Ball(max(deviations), geometry).stretch(objective.weights)
    clean = objective.losses()
    generator = torch.Generator().manual_seed(seed)
    rises: list[list[Tensor]] = [[] for _ in deviations]
    for _ in range(draws):
        noise = [torch.randn(w.shape, generator=generator, dtype=w.dtype).to(w.device) for w in objective.weights]
        for deviation, found in zip(deviations, rises, strict=True):
            offsets = objective.named([deviation * t * z for t, z in zip(stretch, noise, strict=True)])
            found.append(objective.losses(offsets) - clean)
    return [
        AverageCase(deviation, geometry, torch.stack(found)) for deviation, found in zip(deviations, rises, strict=True)
    ]
