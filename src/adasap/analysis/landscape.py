"""The loss along directions whose rows are as long as the model's filters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adasap.analysis.objective import Objective


def filter_normalised_direction(objective: Objective, *, seed: int = 0) -> dict[str, Tensor]:
    """A random direction, each row of which has the length of the filter it is added to (Li et al. 2018).

    d_ij <- d_ij / ||d_ij|| * ||w_ij||, arXiv:1712.09913; biases and norm parameters stay where they are. Rows are
    those of axis 0. A step of 1 is as far as the filters are long, in any model, so curves of models of different
    size or scale can be compared.

    Args:
        objective: For its parameters.
        seed: Of the Gaussian draw, made on the CPU.
    Returns:
        Parameter name -> direction, for all trainable parameters.
    Example:
        >>> layer = torch.nn.Linear(4, 2)
        >>> direction = filter_normalised_direction(Objective(layer, [None], lambda m, b: torch.tensor(0.0)))
        >>> torch.allclose(direction["weight"].norm(dim=1), layer.weight.norm(dim=1)), direction["bias"]
        (True, tensor([0., 0.]))
    """
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, weight in zip(objective.parameters, objective.weights, strict=True):
        draw = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(weight.device)
        found[name] = _row_lengths(weight) / _row_lengths(draw) * draw if weight.ndim > 1 else torch.zeros_like(weight)
    return found


def loss_line(objective: Objective, direction: dict[str, Tensor], positions: Sequence[float]) -> list[float]:
    """Mean loss at w + a d for each position a; nan or inf where it is not finite."""
    return [_at(objective, [(a, direction)]) for a in positions]


def loss_plane(
    objective: Objective, first: dict[str, Tensor], second: dict[str, Tensor], positions: Sequence[float]
) -> list[list[float]]:
    """Mean loss at w + a d1 + b d2: a row for each b, an entry for each a."""
    return [[_at(objective, [(a, first), (b, second)]) for a in positions] for b in positions]


def symmetric_grid(extent: float, points: int) -> list[float]:
    """So many positions from -extent to extent; with an odd number the middle one is 0.

    Example:
        >>> symmetric_grid(1.0, 3)
        [-1.0, 0.0, 1.0]
    """
    return [round(value, 9) for value in torch.linspace(-extent, extent, points, dtype=torch.float64).tolist()]


def _at(objective: Objective, moves: Sequence[tuple[float, dict[str, Tensor]]]) -> float:
    offsets = {name: torch.zeros_like(w) for name, w in zip(objective.parameters, objective.weights, strict=True)}
    for amount, direction in moves:
        for name, offset in offsets.items():
            offset.add_(direction[name], alpha=amount)
    return objective.losses(offsets).mean().item()


def _row_lengths(tensor: Tensor) -> Tensor:
    lengths: Tensor = torch.linalg.vector_norm(tensor.flatten(1), dim=1)
    return lengths.view(-1, *[1] * (tensor.ndim - 1))
