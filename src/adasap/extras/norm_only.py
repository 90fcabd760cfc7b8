"""Only the scales and shifts of norm layers are moved    (SAM-ON, arXiv:2306.04226)"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn

from adasap.errors import RecipeError
from adasap.sharpness.budget import Strength
from adasap.sharpness.layout import Channels, Kind
from adasap.sharpness.perturbation import AdaptivePerturbation, Perturbation, UniformPerturbation
from adasap.sharpness.phase import Moment, SharpnessOptions, Variant
from adasap.sharpness.swap import Offsets


@dataclass(frozen=True)
class NormOnly(Variant):
    """`norm_only: {}` of a recipe: the first pass makes gradients of norm layers alone, about 2/3 of a pass."""

    first_pass = 2 / 3
    partial = True

    def check(self, sharpness: SharpnessOptions) -> None:
        """It chooses what the radii are spent on, so it comes first, and norms must take part."""
        if sharpness.varied[0] is not self:
            raise RecipeError("variants.norm_only chooses what the radii are spent on; name it before the others")
        if sharpness.perturbation.norms == "none":
            raise RecipeError("norm_only moves norms alone, and norms is 'none'; give norms: channel or midpoint")

    def validate(self, model: nn.Module) -> None:
        """The model needs a norm with parameters."""
        if not Channels(()).norms(dict(model.named_parameters())):
            raise RecipeError("variants.norm_only moves norm layers alone, and the model has none; leave it out")

    def perturbation(self, inner: Perturbation, moment: Moment) -> NormPerturbation:
        """That of the recipe's radii, on norms alone."""
        assert isinstance(inner, UniformPerturbation | AdaptivePerturbation)
        return NormPerturbation(inner)


class NormPerturbation(Perturbation):
    """Another perturbation's formula, for the scales and shifts of norm layers alone.

    A scale is its channel's gate: flatness along it is flatness along the removal of the channel. The first pass makes
    no other gradients.

    Args:
        inner: Gives the offsets.
    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2))
        >>> net(torch.randn(4, 1)).square().sum().backward()
        >>> NormPerturbation(UniformPerturbation(0.5)).offsets(dict(net.named_parameters())).names
        ('1.weight', '1.bias')
    """

    def __init__(self, inner: UniformPerturbation | AdaptivePerturbation) -> None:
        self.inner = inner

    @property
    def is_zero(self) -> bool:
        """As the inner perturbation."""
        return self.inner.is_zero

    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """Those of the inner perturbation for the parameters that are moved."""
        moved = self.moves(parameters)
        only = {name: parameter for name, parameter in parameters.items() if name in moved}
        return self.inner.offsets(only, consume_gradients=consume_gradients)

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str]:
        """The scales and shifts of norm layers."""
        return self.inner.channels.norms(parameters)

    def shares(self) -> dict[Kind, float]:
        """Those of the inner perturbation."""
        return self.inner.shares()

    @property
    def strength(self) -> Strength:
        """That of the inner perturbation."""
        return self.inner.strength
