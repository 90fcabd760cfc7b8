"""No ascent: channels are attenuated or dropped where they are read, the likelier the wider their radius."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from adasap.checks import finite_number, require_declared
from adasap.errors import ArgumentError, RecipeError
from adasap.groups.group import ChannelGroup, Radii, prunable
from adasap.sharpness.perturbation import AdaptivePerturbation, Perturbation, SinglePassPerturbation
from adasap.sharpness.phase import Moment, SharpnessOptions, Variant
from adasap.sharpness.swap import Offsets

How = Literal["attenuate", "drop"]


@dataclass(frozen=True)
class Removal(Variant):
    """`removal: {how: attenuate, share: 0.5}` of a recipe.

    Attributes:
        how: `attenuate` multiplies what a channel gives by 1 - share * rho_i / rho_max; `drop` removes it with the
            probability share * rho_i / rho_max, drawn anew at each step.
        share: What a channel of the widest radius loses, in (0, 1].
    """

    how: How = "attenuate"
    share: float = 0.5

    first_pass = 0

    def __post_init__(self) -> None:
        require_declared(self, RecipeError, place="variants.removal.")
        finite_number(self.share, "variants.removal.share", above=0, most=1, error=RecipeError)

    def check(self, sharpness: SharpnessOptions) -> None:
        """It takes each channel's radius, and nothing else of the perturbation."""
        if sharpness.perturbation.loss_budget is not None:
            raise RecipeError(
                "variants.removal makes no ascent that a loss_budget could limit; leave out perturbation.loss_budget"
            )
        if sharpness.kind != "adaptive" or len(sharpness.variants) > 1:
            raise RecipeError(
                "variants.removal takes each channel's radius and the slices that read it; give kind: adaptive and "
                "leave out other variants"
            )

    def perturbation(self, inner: Perturbation, moment: Moment) -> RemovalPerturbation:
        """By the radii of the recipe, as they are now."""
        assert isinstance(inner, AdaptivePerturbation)
        rho_max = moment.sharpness.rho_max
        return RemovalPerturbation(moment.groups, inner.radii, rho_max=rho_max, how=self.how, share=self.share)


class RemovalPerturbation(SinglePassPerturbation):
    """No ascent: at w + eps channels are attenuated, or some of them are gone, the likelier the wider their radius.

    What channel i gives is multiplied by 1 - a_i in every slice that reads it, so eps = -a_i w there, with
    a_i = share * rho_i / rho_max (`attenuate`) or a_i = 1 with that probability, else 0 (`drop`, drawn at every step
    from torch's generator). A channel with a_i = 1 is masked as a cut would remove it. After CrAM (arXiv:2207.14200),
    with radii in place of a fixed compression. It trains for the cut and is no measure of sharpness.

    Args:
        groups: The channel groups; those that can be pruned take part.
        radii: Group name -> radius, float [C].
        rho_max: The widest radius, > 0 unless all are 0.
        how: `attenuate` or `drop`.
        share: What a channel of radius rho_max loses, in (0, 1].
    Raises:
        ArgumentError: If radii are missing or have another length than their group.
    Example:
        >>> from adasap.groups.trace import trace_groups
        >>> net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1, bias=False))
        >>> _ = nn.init.ones_(net[2].weight)
        >>> radii = {"0": torch.tensor([0.0, 2.0])}
        >>> removal = RemovalPerturbation(trace_groups(net, torch.zeros(1, 1)), radii, rho_max=2.0, share=0.5)
        >>> removal.offsets(dict(net.named_parameters())).multiplied()[0] + 0.0
        tensor([[ 0.0000, -0.5000]])
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        radii: Radii,
        *,
        rho_max: float,
        how: How = "attenuate",
        share: float = 0.5,
    ) -> None:
        self._groups = [group for group in prunable(groups) if not group.is_output]
        self.rho_max, self.how, self.share = rho_max, how, share
        for group in self._groups:
            if group.name not in radii or radii[group.name].shape != (group.num_channels,):
                raise ArgumentError(
                    f"group {group.name!r} needs one radius for each of its {group.num_channels} channels; score every "
                    "group that can be pruned, anew after a cut"
                )
        self._radii = radii

    @property
    def is_zero(self) -> bool:
        """Whether rho_max is zero, or there is no channel that can go."""
        return self.rho_max == 0 or not self._groups

    def load_gradients_(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """None are needed."""

    @torch.no_grad()
    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """-a_i w of every parameter that reads a channel."""
        kept: dict[tuple[str, int], Tensor] = {}  # parameter, axis -> 1 - a of each index
        for group in self._groups:
            remaining = 1 - self._attenuation(group)
            for slot in group.with_role("consumer"):
                axis, weight = (slot.name, slot.dim), parameters[slot.name]
                if axis not in kept:
                    kept[axis] = remaining.new_ones(weight.shape[slot.dim])
                kept[axis][slot.positions.flatten().to(weight.device)] = remaining.repeat_interleave(
                    slot.positions.shape[1]
                )
        names = tuple(dict.fromkeys(name for name, _ in kept))
        weights: list[Tensor] = [parameters[name] for name in names]
        directions = [
            _attenuated(parameters[name], {d: k for (n, d), k in kept.items() if n == name}) for name in names
        ]
        return Offsets(names, weights, directions, consume_gradients=True)

    def end_step(self, parameters: Mapping[str, nn.Parameter], *, finite: bool) -> None:
        """Nothing is remembered."""

    def _attenuation(self, group: ChannelGroup) -> Tensor:
        """a of each channel, float [C]."""
        rate = self._radii[group.name] * (self.share / self.rho_max)
        if self.how == "attenuate":
            return rate
        return (torch.rand(group.num_channels).to(rate.device) < rate).to(rate)


def _attenuated(weight: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """w times (the product over axes of what is kept) minus w."""
    factor: Tensor | float = 1.0
    for dim, values in kept.items():
        factor = factor * values.view([-1 if d == dim else 1 for d in range(weight.ndim)])
    return weight * (factor - 1).to(weight.dtype) if isinstance(factor, Tensor) else torch.zeros_like(weight)
