"""How far the loss rises within a ball around the weights: one ascent step, and projected ascent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from adasap.analysis.objective import Objective
from adasap.errors import RecipeError
from adasap.evaluation.statistics import Interval, bootstrap_mean
from adasap.sharpness.options import Geometry

Norm = Literal["l2", "linf"]


@dataclass(frozen=True)
class Ball:
    """The offsets d with ||d / T||_p <= radius.

    Attributes:
        radius: In weight units for `euclidean`, a fraction of the weights for `elementwise`.
        geometry: T = 1, or T = |w| + eta (adaptive sharpness, Kwon et al. 2021, arXiv:2102.11600).
        norm: p = 2, or the largest entry.
        eta: Floor of the elementwise geometry. At 0 a weight that is zero never moves.
    Raises:
        RecipeError: If a value is out of range.
    """

    radius: float
    geometry: Geometry = "euclidean"
    norm: Norm = "l2"
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.radius < math.inf or not 0 <= self.eta < math.inf:
            raise RecipeError(f"radius is {self.radius} and eta {self.eta}; give finite numbers, 0 or more")
        for name, choices in (("geometry", Geometry), ("norm", Norm)):
            if getattr(self, name) not in get_args(choices):
                raise RecipeError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(get_args(choices))}")

    def stretch(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """T of each weight; a scalar 1 for `euclidean`."""
        if self.geometry == "euclidean":
            return [weight.new_ones(()) for weight in weights]
        return [weight.abs() + self.eta for weight in weights]

    def steepest(self, scaled_gradient: Sequence[Tensor]) -> list[Tensor]:
        """Of T g: the direction of length 1 in the ball's norm in which the loss rises fastest; 0 for 0."""
        if self.norm == "linf":
            return [part.sign() for part in scaled_gradient]
        length = _length(scaled_gradient)
        scale = 1 / length if length > 0 else 0.0
        return [part * scale for part in scaled_gradient]

    def projected(self, point: Sequence[Tensor]) -> list[Tensor]:
        """The nearest d / T inside the ball."""
        if self.norm == "linf":
            return [part.clamp(-self.radius, self.radius) for part in point]
        length = _length(point)
        scale = self.radius / length if length > self.radius else 1.0
        return [part * scale for part in point]


@dataclass(frozen=True, eq=False)
class WorstCase:
    """Rise of the loss in a ball, maximised for each batch by itself.

    Attributes:
        ball: Where.
        steps: Ascent steps of `n_step`.
        one_step: L(w + d) - L(w) at the end of one step of the ball's radius along the gradient, float64 [batches].
        n_step: The largest rise that any iterate had, 0 at least, float64 [batches].
        not_finite: Iterates whose loss was not finite; they count as no rise.
    """

    ball: Ball
    steps: int
    one_step: Tensor
    n_step: Tensor
    not_finite: int = 0

    def to_json(self) -> dict[str, Any]:
        """Means with 95 % bootstrap intervals over batches, and the values of each batch."""
        return {
            "radius": self.ball.radius,
            "geometry": self.ball.geometry,
            "norm": self.ball.norm,
            "eta": self.ball.eta,
            "steps": self.steps,
            "one_step": over_batches(self.one_step),
            "n_step": over_batches(self.n_step),
            "not_finite": self.not_finite,
        }


def worst_case_sharpness(
    objective: Objective,
    radii: Sequence[float],
    *,
    geometry: Geometry = "euclidean",
    norm: Norm = "l2",
    steps: int = 5,
    eta: float = 0.0,
) -> list[WorstCase]:
    """max L(w + d) - L(w) over ||d / T||_p <= radius, one batch at a time (m-sharpness, m = images per batch).

    Foret et al. 2021 (arXiv:2010.01412), adaptive: Kwon et al. 2021; measured as by Andriushchenko et al. 2023
    (arXiv:2302.07011). The first step is as long as the radius, as in training. Each later one starts from the best
    iterate; where it brings no rise, its length is halved. So `n_step` is a lower bound of the maximum that is never
    below `one_step`. Costs (steps - 1) gradients and a forward pass for each batch and radius, and a gradient for
    each batch.

    Args:
        objective: The loss.
        radii: At least one, each 0 or more.
        geometry: `euclidean`, or `elementwise` for the adaptive form.
        norm: `l2` or `linf`.
        steps: Ascent steps, at least 1.
        eta: As in `Ball`.
    Returns:
        One result per radius.
    Raises:
        RecipeError: If an option is out of range.
    Example:
        >>> w = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.ones_(w.weight)
        >>> objective = Objective(w, [torch.eye(2)], lambda model, batch: model(batch).square().sum() / 2)
        >>> [result] = worst_case_sharpness(objective, [1.0])
        >>> round(result.n_step.item(), 4)  # (|w| + 1)^2 / 2 - |w|^2 / 2
        1.9142
    """
    if steps < 1 or not radii:
        raise RecipeError(f"steps is {steps} and radii {list(radii)}; give 1 step or more and one radius or more")
    balls = [Ball(radius, geometry, norm, eta) for radius in radii]
    stretch = balls[0].stretch(objective.weights)
    rises: list[list[_Rise]] = [[] for _ in balls]
    for batch in range(len(objective.batches)):
        clean, gradient = objective.gradient(batch)
        start = _Point([torch.zeros_like(w) for w in objective.weights], clean, gradient)
        for ball, found in zip(balls, rises, strict=True):
            found.append(_ascend(objective, batch, start, stretch, ball, steps))
    return [
        WorstCase(
            ball,
            steps,
            torch.tensor([rise.one_step for rise in found], dtype=torch.float64),
            torch.tensor([rise.best for rise in found], dtype=torch.float64),
            sum(rise.not_finite for rise in found),
        )
        for ball, found in zip(balls, rises, strict=True)
    ]


def over_batches(values: Tensor) -> dict[str, Any]:
    """Mean with a 95 % bootstrap interval over batches, ready for JSON; None where a value is not finite."""
    finite = bool(values.isfinite().all())
    interval = bootstrap_mean(values, resamples=2000) if finite else Interval(math.nan, math.nan, math.nan)
    ends = {"mean": interval.value, "low": interval.low, "high": interval.high}
    each = [value if math.isfinite(value) else None for value in values.tolist()]
    return {**(ends if finite else dict.fromkeys(ends)), "batches": each}


@dataclass(frozen=True, eq=False)
class _Point:
    """An iterate in the ball's own coordinates d / T, its loss and gradient."""

    place: list[Tensor]
    loss: float
    gradient: list[Tensor]


@dataclass(frozen=True)
class _Rise:
    one_step: float
    best: float
    not_finite: int


def _ascend(
    objective: Objective, batch: int, start: _Point, stretch: Sequence[Tensor], ball: Ball, steps: int
) -> _Rise:
    best, length = start, ball.radius
    one_step, not_finite = 0.0, 0
    for step in range(1, steps + 1):
        scaled = [t * g for t, g in zip(stretch, best.gradient, strict=True)]
        moved = [u + length * s for u, s in zip(best.place, ball.steepest(scaled), strict=True)]
        place = ball.projected(moved)
        offsets = objective.named([t * u for t, u in zip(stretch, place, strict=True)])
        if step < steps:
            loss, gradient = objective.gradient(batch, offsets)
        else:  # nobody asks for the last gradient
            loss, gradient = (
                Objective(objective.model, [objective.batches[batch]], objective.loss).losses(offsets).item(),
                [],
            )
        one_step = loss - start.loss if step == 1 else one_step
        not_finite += not math.isfinite(loss)
        if loss > best.loss and math.isfinite(loss):
            best = _Point(place, loss, gradient)
        else:
            length /= 2
    return _Rise(one_step, best.loss - start.loss, not_finite)


def _length(parts: Sequence[Tensor]) -> float:
    lengths = torch.stack([torch.linalg.vector_norm(part.double()) for part in parts])
    return float(torch.linalg.vector_norm(lengths))
