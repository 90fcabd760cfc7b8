"""The shape of a perturbation, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Geometry = Literal["euclidean", "elementwise"]
Scope = Literal["model", "group", "channel"]
Weighting = Literal["ellipsoid", "linear"]
Norms = Literal["channel", "midpoint", "none"]


@dataclass(frozen=True)
class PerturbationOptions:
    """The shape of a perturbation.

    Attributes:
        geometry: `euclidean`, T = 1 (SAM), or `elementwise`, T = |w| + eta (ASAM). Shifts always have T = 1.
        scope: Which rows share a norm: all of the `model`, those of a `group`, or those of a `channel`.
        weighting: `ellipsoid`, the maximiser of <g, eps> under sum_i ||eps_i / T_i||^2 / rho_i^2 <= 1, or
            `linear`, a uniform step whose slices are scaled by rho_i.
        rescale: Divide the radii of the scopes `group` and `channel` by the square root of the number of
            ellipsoids.
        norms: Radius of norm scales, norm shifts and biases: that of their `channel`, the `midpoint`, or
            `none`: they take no part.
        eta: Floor of the elementwise geometry, >= 0.

    Raises:
        ValueError: If a value is not one of those.
    """

    geometry: Geometry = "elementwise"
    scope: Scope = "model"
    weighting: Weighting = "ellipsoid"
    rescale: bool = True
    norms: Norms = "channel"
    eta: float = 0.01

    def __post_init__(self) -> None:
        choices = {"geometry": Geometry, "scope": Scope, "weighting": Weighting, "norms": Norms}
        for field, literal in choices.items():
            if getattr(self, field) not in get_args(literal):
                raise ValueError(f"{field} must be one of {get_args(literal)}, got {getattr(self, field)!r}")
        if not 0 <= self.eta < float("inf"):
            raise ValueError(f"eta must be finite and >= 0, got {self.eta}")
