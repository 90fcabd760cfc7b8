"""Perturbations that need no gradient of the present batch: their step is one pass at w + eps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from adasap.groups.group import ChannelGroup, Radii, prunable
from adasap.sharpness.options import Removal
from adasap.sharpness.perturbation import Perturbation
from adasap.sharpness.rows import KINDS, Kind
from adasap.sharpness.swap import Offsets


class SinglePassPerturbation(ABC):
    """A `Perturbation` without a first pass. What it does to `.grad` before the pass is undone by the step."""

    @property
    @abstractmethod
    def is_zero(self) -> bool:
        """Whether this step is a plain one."""

    @abstractmethod
    def load_gradients_(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """Puts into `.grad`, which is empty, what the offsets are made of."""

    @abstractmethod
    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """As those of `Perturbation`."""

    @abstractmethod
    def end_step(self, parameters: Mapping[str, nn.Parameter], *, finite: bool) -> None:
        """Called at the end of every step, plain ones too, when `.grad` holds its gradient."""

    @abstractmethod
    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """As that of `Perturbation`."""

    @abstractmethod
    def shares(self) -> dict[Kind, float]:
        """As those of `Perturbation`."""


class StalePerturbation(SinglePassPerturbation):
    """eps_t by another perturbation's formula from the gradient that step t-1 ended with, at w_{t-1} + eps_{t-1}
    (S2-SAM)

    Radii and geometry are those of the present weights. The first step, and one after a step whose gradient was not
    finite, is plain. Under data parallelism the gradient is the reduced one: all ranks are moved alike. A step needs
    memory for one copy of the weights, as the exact one: the gradient's keeps the weights while they are moved.

    Args:
        inner: Gives the offsets.
        directions: Parameter name -> gradient of the last step; filled and emptied here. The caller owns it: it belongs
            into checkpoints, and `apply_plan_(..., carried=[directions])` cuts it.
    Example:
        >>> from adasap.sharpness import PerturbationOptions, UniformPerturbation, sharpness_aware_gradients
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.ones_(layer.weight)
        >>> def loss_and_backward():
        ...     loss = layer.weight.square().sum()
        ...     loss.backward()
        ...     return loss
        >>> stale = StalePerturbation(UniformPerturbation(0.5, PerturbationOptions(geometry="euclidean")), {})
        >>> [sharpness_aware_gradients(layer, stale, loss_and_backward).loss for _ in range(2)]
        [1.0, 2.25]
    """

    def __init__(self, inner: Perturbation, directions: dict[str, Tensor]) -> None:
        self.inner, self.directions = inner, directions
        self._memory: dict[str, Tensor] = {}

    @property
    def is_zero(self) -> bool:
        """Whether there is no gradient of a step before, or all radii are zero."""
        return not self.directions or self.inner.is_zero

    def load_gradients_(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """The gradients of the last step; from here on they are used up, also if this step fails."""
        self._memory = dict(self.directions)
        self.directions.clear()
        for name, direction in self._memory.items():
            parameters[name].grad = direction

    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        """Those of the inner perturbation."""
        return self.inner.offsets(parameters, consume_gradients=consume_gradients)

    @torch.no_grad()
    def end_step(self, parameters: Mapping[str, nn.Parameter], *, finite: bool) -> None:
        """Copies the gradients, before clipping or anything else changes them."""
        memory, self._memory = self._memory or dict(self.directions), {}
        self.directions.clear()
        if not finite:
            return
        moved = self.moves(parameters)
        for name, parameter in parameters.items():
            if parameter.grad is not None and (moved is None or name in moved):
                kept = memory.get(name)
                fits = kept is not None and kept.shape == parameter.shape
                self.directions[name] = kept if kept is not None and fits else torch.empty_like(parameter)
        if self.directions:
            gradients = [_gradient(parameters[name]) for name in self.directions]
            torch._foreach_copy_(list(self.directions.values()), gradients)

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """As the inner perturbation."""
        return self.inner.moves(parameters)

    def shares(self) -> dict[Kind, float]:
        """As the inner perturbation."""
        return self.inner.shares()


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
        removal: `attenuate` or `drop`.
        share: What a channel of radius rho_max loses, in (0, 1].
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
        removal: Removal = "attenuate",
        share: float = 0.5,
    ) -> None:
        self._groups = [group for group in prunable(groups) if not group.is_output]
        self.rho_max, self.removal, self.share = rho_max, removal, share
        self.update(radii)

    def update(self, radii: Radii) -> None:
        """Takes new radii for the same groups.

        Raises:
            ValueError: If radii are missing or have another length than their group.
        """
        for group in self._groups:
            if group.name not in radii or radii[group.name].shape != (group.num_channels,):
                raise ValueError(
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

    def moves(self, parameters: Mapping[str, nn.Parameter]) -> Collection[str] | None:
        """All that reads a channel; there is no pass to spare gradients in."""
        return None

    def shares(self) -> dict[Kind, float]:
        """All zero: no radius is spent."""
        return dict.fromkeys(KINDS, 0.0)

    def _attenuation(self, group: ChannelGroup) -> Tensor:
        """a of each channel, float [C]."""
        rate = self._radii[group.name] * (self.share / self.rho_max)
        if self.removal == "attenuate":
            return rate
        return (torch.rand(group.num_channels) < rate.cpu()).to(rate)


def _attenuated(weight: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """w times (the product over axes of what is kept) minus w."""
    factor: Tensor | float = 1.0
    for dim, values in kept.items():
        factor = factor * values.view([-1 if d == dim else 1 for d in range(weight.ndim)])
    return weight * (factor - 1).to(weight.dtype) if isinstance(factor, Tensor) else torch.zeros_like(weight)


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
