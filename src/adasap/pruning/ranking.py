"""Which groups are ranked together: all of them, each by itself, or those that are built alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from adasap.groups.bare import unwrap
from adasap.groups.group import ChannelGroup, Slot

Ranking = Literal["global", "uniform", "isomorphic"]


def ranking_classes(ranking: Ranking, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, str] | None:
    """Group name -> class, as `select_channels` takes them; None for one ranking over the model.

    - `global`: all channels in one ranking.
    - `uniform`: every group is a class, so every group loses the same fraction, lowest first.
    - `isomorphic`: groups that are built alike are a class; they rank among themselves, and every class loses
      the same fraction (arXiv:2407.04616). Alike means: equally many slots of each kind, where the kind of a
      slot is its role, its axis, the type of its module, the size of the kernel and whether the module works
      group by group. Widths do not count, so the classes of a dense model hold after every cut.

    A class is named after its first group.

    Example:
        >>> from adasap.groups import trace_groups
        >>> import torch
        >>> mlp = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> ranking_classes("isomorphic", mlp, trace_groups(mlp, torch.zeros(1, 3)))
        {'0': '0', '2': '0', '4': '4'}
    """
    if ranking == "global":
        return None
    if ranking == "uniform":
        return {group.name: group.name for group in groups}
    model = unwrap(model)
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    first: dict[frozenset[tuple[object, int]], str] = {}
    return {group.name: first.setdefault(_kinds(group, model, tensors), group.name) for group in groups}


def _kinds(group: ChannelGroup, model: nn.Module, tensors: dict[str, Tensor]) -> frozenset[tuple[object, int]]:
    """How many slots of each kind a group has."""
    return frozenset(Counter(_kind(slot, model, tensors[slot.name]) for slot in group.slots).items())


def _kind(slot: Slot, model: nn.Module, tensor: Tensor) -> tuple[object, ...]:
    module = model.get_submodule(slot.name.rpartition(".")[0])
    grouped = getattr(module, "groups", 1) != 1
    return slot.role, slot.dim, type(module).__name__, tuple(tensor.shape[2:]), grouped
