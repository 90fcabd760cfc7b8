"""Which weights belong to a layer, to a channel group, to a channel: diagonal blocks of the Hessian."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adasap.analysis.objective import Objective
from adasap.groups import ChannelGroup


def layer_blocks(objective: Objective) -> dict[str, Tensor]:
    """Module name -> positions of its own parameters among all trainable weights, int64, ascending.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.ReLU(), torch.nn.Linear(1, 1))
        >>> layer_blocks(Objective(net, [None], lambda model, batch: torch.tensor(0.0)))
        {'0': tensor([0, 1, 2]), '2': tensor([3, 4])}
    """
    blocks: dict[str, list[Tensor]] = {}
    for name, positions in _positions(objective).items():
        blocks.setdefault(name.rpartition(".")[0] or "(model)", []).append(positions.flatten())
    return {name: torch.cat(parts) for name, parts in blocks.items()}


def group_blocks(objective: Objective, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Group name -> positions of what its channels produce with: filters, scales, shifts. Ascending, no repeats."""
    channels = channel_blocks(objective, groups)
    found = {
        name: torch.unique(torch.cat([*rows, torch.empty(0, dtype=torch.int64)])) for name, rows in channels.items()
    }
    return {name: positions for name, positions in found.items() if len(positions)}


def channel_blocks(objective: Objective, groups: Sequence[ChannelGroup]) -> dict[str, list[Tensor]]:
    """Group name -> for each channel the positions of its producer rows, norm scales and shifts."""
    positions = _positions(objective)
    found: dict[str, list[Tensor]] = {}
    for group in groups:
        slots = [slot for slot in group.with_role("producer", "scale", "shift") if slot.name in positions]
        found[group.name] = [
            torch.cat(
                [torch.empty(0, dtype=torch.int64)]
                + [positions[s.name].index_select(s.dim, s.positions[channel].cpu()).flatten() for s in slots]
            )
            for channel in range(group.num_channels)
        ]
    return found


def _positions(objective: Objective) -> dict[str, Tensor]:
    """Parameter name -> position of each entry among all trainable weights, int64, of the parameter's shape."""
    found, start = {}, 0
    for name, parameter in objective.parameters.items():
        found[name] = torch.arange(start, start + parameter.numel()).view(parameter.shape)
        start += parameter.numel()
    return found
