"""A toy network with hand-written channel groups, and the perturbation formulas number by number."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from adasap.groups.group import ChannelGroup, Role, Slot
from adasap.sharpness import PerturbationOptions


def slot(name: str, dim: int, role: Role, positions: list[list[int]]) -> Slot:
    return Slot(name, dim, role, torch.tensor(positions))


def each(count: int) -> list[list[int]]:
    """One row per channel, in order."""
    return [[i] for i in range(count)]


class Toy(nn.Module):
    """A norm, biases, channels of two rows, a transposed convolution (rows on axis 1), loose parameters."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3)
        self.up = nn.ConvTranspose2d(6, 2, 2)
        self.drop = nn.Dropout(dropout)
        self.fc = nn.Linear(2, 3)
        self.table = nn.Parameter(torch.randn(2, 3))
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.bn1(self.conv1(images)).tanh()
        hidden = self.drop(self.up(self.conv2(hidden).tanh())).square().mean((2, 3))
        return (self.fc(hidden) + hidden @ self.table) * self.temperature


def toy_groups() -> tuple[ChannelGroup, ...]:
    pairs = [[0, 3], [1, 4], [2, 5]]
    return (
        ChannelGroup(
            "conv1",
            4,
            (
                slot("conv1.weight", 0, "producer", each(4)),
                slot("bn1.weight", 0, "scale", each(4)),
                slot("bn1.bias", 0, "shift", each(4)),
                slot("bn1.running_mean", 0, "statistic", each(4)),
                slot("bn1.running_var", 0, "statistic", each(4)),
                slot("conv2.weight", 1, "consumer", each(4)),
            ),
        ),
        ChannelGroup(
            "conv2",
            3,
            (
                slot("conv2.weight", 0, "producer", pairs),
                slot("conv2.bias", 0, "shift", pairs),
                slot("up.weight", 0, "consumer", pairs),
            ),
        ),
        ChannelGroup(
            "up",
            2,
            (
                slot("up.weight", 1, "producer", each(2)),
                slot("up.bias", 0, "shift", each(2)),
                slot("fc.weight", 1, "consumer", each(2)),
            ),
            frozen=("kept by hand",),
        ),
        ChannelGroup(
            "fc",
            3,
            (slot("fc.weight", 0, "producer", each(3)), slot("fc.bias", 0, "shift", each(3))),
            is_output=True,
        ),
    )


def toy_radii() -> dict[str, Tensor]:
    return {
        "conv1": torch.tensor([0.1, 0.5, 2.0, 1.0]),
        "conv2": torch.tensor([0.2, 0.3, 0.4]),
        "up": torch.tensor([1.5, 0.0]),
    }


MIDPOINT = 1.0


def toy_with_gradients(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    model = Toy()
    for parameter in model.parameters():  # no zeros and ones: a mistake must show
        nn.init.normal_(parameter, std=0.5)
    model(torch.randn(4, 3, 6, 6)).square().sum().backward()
    return model


def slow_epsilon(
    model: nn.Module,
    groups: tuple[ChannelGroup, ...],
    radius_of: dict[str, Tensor] | float,
    options: PerturbationOptions,
) -> dict[str, Tensor]:
    """METHOD.md, number by number, in Python floats."""
    owner: dict[tuple[str, int, int], tuple[ChannelGroup, int]] = {}  # tensor, axis, index -> channel
    roles: dict[str, Role] = {}
    for group in groups:
        for s in group.slots:
            if s.role in ("producer", "scale", "shift"):
                roles[s.name] = s.role
                for channel, position in itertools.product(range(group.num_channels), range(s.positions.shape[1])):
                    owner[s.name, s.dim, int(s.positions[channel, position])] = (group, channel)

    entries = []  # name, index, ball, radius, T, g
    for name, p in model.named_parameters():
        if p.grad is None:
            continue
        single = p.ndim < 2
        role = roles.get(name, ("shift" if "bias" in name else "scale") if single else "producer")
        if role != "producer" and options.norms == "none":
            continue
        for index in itertools.product(*map(range, p.shape)):
            owners = [owner[name, dim, i] for dim, i in enumerate(index) if (name, dim, i) in owner]
            group, channel = owners[0] if owners else (None, 0)
            radius = radius_of if isinstance(radius_of, float) else MIDPOINT
            if isinstance(radius_of, dict) and group and not group.is_output:
                radius = float(radius_of[group.name][channel])
            if isinstance(radius_of, dict) and role != "producer" and options.norms == "midpoint":
                radius = MIDPOINT
            owned = {"model": "", "group": group and group.name, "channel": group and (group.name, channel)}
            ball = owned[options.scope] if group else ("" if options.scope == "model" else ("alone", name))
            flat = options.geometry == "euclidean" or role == "shift"
            stretch = 1.0 if flat else abs(p[index].item()) + options.eta
            entries.append((name, index, ball, radius, stretch, p.grad[index].item()))

    balls = {entry[2] for entry in entries}
    shrink = math.sqrt(len(balls)) if options.rescale and options.scope != "model" else 1.0
    squares = dict.fromkeys(balls, 0.0)
    for _, _, ball, radius, stretch, g in entries:
        weight = radius / shrink if options.weighting == "ellipsoid" else 1.0
        squares[ball] += (weight * stretch * g) ** 2
    result = {name: torch.zeros_like(p) for name, p in model.named_parameters() if name in {e[0] for e in entries}}
    for name, index, ball, radius, stretch, g in entries:
        gain = (radius / shrink) ** 2 if options.weighting == "ellipsoid" else radius / shrink
        result[name][index] = gain * stretch**2 * g / math.sqrt(squares[ball]) if squares[ball] else 0.0
    return result
