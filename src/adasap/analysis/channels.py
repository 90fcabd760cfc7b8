"""What removing a channel does to the loss, and what slope and curvature say about it beforehand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from adasap.analysis.hessian import Hessian, Method
from adasap.analysis.objective import Objective
from adasap.criteria.channels import channel_sums, over_axis
from adasap.errors import RecipeError
from adasap.groups import ChannelGroup, masked, prunable
from adasap.groups.group import Role

Side = Literal["reading", "producing"]
"""Which parameters go to zero: the slices that read the channel, or the rows, scales and shifts that produce it."""

_ROLES: dict[Side, tuple[Role, ...]] = {"reading": ("consumer",), "producing": ("producer", "scale", "shift")}

HALF_WIDTH = 0.1
"""Of the second difference, as a fraction of the way to removal, where double backward is not supported."""

Channel = tuple[str, int]
"""Group name, index."""


@dataclass(frozen=True, eq=False)
class Removals:
    """Every channel that was looked at, in the order of the groups.

    Attributes:
        channels: Group name and index.
        damage: Loss with the channel masked minus loss, float64 [channels]; nan for a group's only channel.
        slope: g . d, d the direction of removal, float64 [channels].
        curvature: d . H d, float64 [channels].
        side: What d is.
        method: How the curvature was computed.
    """

    channels: tuple[Channel, ...]
    damage: Tensor
    slope: Tensor
    curvature: Tensor
    side: Side
    method: Method

    @property
    def predicted(self) -> Tensor:
        """slope + curvature / 2: the damage to second order."""
        return self.slope + self.curvature / 2


def some_channels(groups: Sequence[ChannelGroup], most: int | None, *, seed: int = 0) -> tuple[Channel, ...]:
    """The channels that can go, or a random part of them of this size; in order.

    Example:
        >>> some_channels((ChannelGroup("a", 2, ()),), None)
        (('a', 0), ('a', 1))
    """
    every = [(group.name, channel) for group in prunable(groups) for channel in range(group.num_channels)]
    if most is None or len(every) <= most:
        return tuple(every)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))[:most].sort().values
    return tuple(every[int(place)] for place in order)


def channel_removals(
    objective: Objective,
    groups: Sequence[ChannelGroup],
    *,
    channels: Sequence[Channel] | None = None,
    side: Side = "reading",
    method: Method | None = None,
    advance: Callable[[], None] | None = None,
) -> Removals:
    """For each channel the exact damage of its removal, and slope and curvature at w towards it.

    damage_i = L(w, channel i masked) - L(w);  slope_i = g . d_i;  curvature_i = d_i . H d_i.
    With `side` reading, d_i takes the slices that read channel i to zero: L(w + d_i) is the masked loss, and
    w + t d_i is a gate 1 - t on the channel. With `producing`, d_i takes the channel's filters, scales and shifts to
    zero, which are what an adaptive radius perturbs; it ends in the same model where the activation maps 0 to 0.

    A channel costs one forward pass for the damage and about two backward passes for the curvature, fewer in late
    layers. Where double backward is not supported, the curvature is a second difference of the loss at 0.1 of the way.

    Args:
        objective: The loss.
        groups: The model's own.
        channels: Which; by default all that can go.
        side: Which parameters are taken to zero for slope and curvature.
        method: Of the curvature; double backward where it is supported, unless one is named.
        advance: Called after each channel.
    Raises:
        RecipeError: If an option or a channel is unknown.
    """
    if side not in get_args(Side):
        raise RecipeError(f"side is {side!r}; choose one of {', '.join(get_args(Side))}")
    chosen = tuple(some_channels(groups, None) if channels is None else channels)
    by_name = {group.name: group for group in prunable(groups)}
    for name, index in chosen:
        if name not in by_name or not 0 <= index < by_name[name].num_channels:
            raise RecipeError(f"channel {index} of group {name!r} cannot go; choose of some_channels(groups, None)")
    method = method or Hessian(objective.first(1)).method
    slopes = _slopes(objective, groups, _ROLES[side])
    clean = objective.losses().mean().item()
    damage, curvature = [], []
    for name in dict.fromkeys(name for name, _ in chosen):
        mine = [index for of, index in chosen if of == name]
        curvature += _curvatures(objective, by_name[name], mine, side, method, clean)
        for index in mine:
            damage.append(_damage(objective, by_name[name], index, clean))
            if advance is not None:
                advance()
    return Removals(
        chosen,
        torch.tensor(damage, dtype=torch.float64),
        torch.stack([slopes[name][index] for name, index in chosen]).double().cpu(),
        torch.tensor(curvature, dtype=torch.float64),
        side,
        method,
    )


def _damage(objective: Objective, group: ChannelGroup, channel: int, clean: float) -> float:
    if group.num_channels == 1:
        return float("nan")
    kept = torch.tensor([c for c in range(group.num_channels) if c != channel])
    with masked(objective.model, [group], {group.name: kept}):
        return objective.losses().mean().item() - clean


def _slopes(objective: Objective, groups: Sequence[ChannelGroup], roles: tuple[Role, ...]) -> dict[str, Tensor]:
    """Group name -> g . d of each channel, from one gradient of all batches."""
    total = [torch.zeros_like(w) for w in objective.weights]
    for batch in range(len(objective.batches)):
        torch._foreach_add_(total, objective.gradient(batch)[1])
    gradient, weights = objective.named(total), objective.named(objective.weights)
    count = len(objective.batches)

    def along(name: str, dim: int) -> Tensor:
        return over_axis(torch.sum, -gradient[name] * weights[name] / count, dim)

    return channel_sums(groups, roles, weights, along).by_group()


def _curvatures(
    objective: Objective, group: ChannelGroup, channels: Sequence[int], side: Side, method: Method, clean: float
) -> list[float]:
    entries = [_Entries(objective, group, channel, _ROLES[side]) for channel in channels]
    if method == "double backward":
        return _differentiated(objective, entries)
    found = []
    for entry in entries:
        ends = []
        for factor in (1 - HALF_WIDTH, 1 + HALF_WIDTH):
            with entry.scaled(factor):
                ends.append(objective.losses().mean().item())
        found.append((sum(ends) - 2 * clean) / HALF_WIDTH**2)
    return found


def _differentiated(objective: Objective, entries: Sequence[_Entries]) -> list[float]:
    """d . H d of channels of one group: they share the gradient and its graph."""
    parameters = list({id(p): p for entry in entries for p, _, _ in entry.places}.values())
    if not parameters:
        return [0.0] * len(entries)
    found = torch.zeros(len(entries), dtype=torch.float64)
    with objective.measuring():
        for batch in objective.batches:
            loss = objective.loss(objective.model, batch)
            gradients = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
            pairs = [(g, p) for g, p in zip(gradients, parameters, strict=True) if g is not None and g.requires_grad]
            for number, entry in enumerate(entries):
                directions = [entry.direction(p) for _, p in pairs]
                slope = sum((g * d).sum() for (g, _), d in zip(pairs, directions, strict=True))
                if isinstance(slope, Tensor) and slope.requires_grad:
                    products = torch.autograd.grad(slope, [p for _, p in pairs], retain_graph=True, allow_unused=True)
                    found[number] += sum(
                        (h * d).double().sum().item()
                        for h, d in zip(products, directions, strict=True)
                        if h is not None
                    )
    values: list[float] = (found / len(objective.batches)).tolist()
    return values


class _Entries:
    """The entries of one channel in the slots of some roles."""

    def __init__(self, objective: Objective, group: ChannelGroup, channel: int, roles: tuple[Role, ...]) -> None:
        self.places = [
            (parameter, slot.dim, slot.positions[channel].to(parameter.device))
            for slot in group.with_role(*roles)
            if (parameter := objective.parameters.get(slot.name)) is not None
        ]

    def direction(self, parameter: Tensor) -> Tensor:
        """What takes the entries to zero: -w there, 0 elsewhere."""
        offset = torch.zeros_like(parameter)
        for mine, dim, index in self.places:
            if mine is parameter:
                offset.index_copy_(dim, index, -parameter.detach().index_select(dim, index))
        return offset

    @contextmanager
    def scaled(self, factor: float) -> Iterator[None]:
        """The entries times a factor for a while; they come back bit for bit."""
        saved = [parameter.detach().index_select(dim, index) for parameter, dim, index in self.places]
        try:
            self._write([values * factor for values in saved])
            yield
        finally:
            self._write(saved)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for (parameter, dim, index), value in zip(self.places, values, strict=True):
            parameter.index_copy_(dim, index, value)
