"""From entries of parameters to one number per channel: the sums that every criterion is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn

from adasap.errors import ArgumentError
from adasap.groups.bare import unwrap
from adasap.groups.group import ChannelGroup, Role
from adasap.groups.parameters import members, named_parameters

Axis = tuple[str, int]
"""Name of a parameter and one of its axes."""


def named_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Name -> parameter, under the names that slots use, also when `torch.compile` has wrapped the model."""
    model = unwrap(model)
    return {name: parameter.detach() for name, parameter in named_parameters(members(model)).items()}


def named_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Name -> gradient, for the parameters that have one.

    Raises:
        ArgumentError: If no parameter has a gradient.
    """
    model = unwrap(model)
    gradients = {name: p.grad.detach() for name, p in model.named_parameters() if p.grad is not None}
    if not gradients:
        raise ArgumentError("no parameter has a gradient: call backward() before batch_evidence")
    return gradients


def over_axis(reduce: Callable[..., Tensor], tensor: Tensor, dim: int) -> Tensor:
    """`reduce(tensor, dim=every other axis)`, float [size of the axis], at least in float32.

    Example:
        >>> over_axis(torch.sum, torch.ones(2, 3, 4), 1)
        tensor([8., 8., 8.])
    """
    if tensor.ndim == 1:
        tensor = tensor.unsqueeze(1)
    others = tuple(axis for axis in range(tensor.ndim) if axis != dim)
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    return reduce(tensor, dim=others, dtype=dtype)


def channel_sums(
    groups: Sequence[ChannelGroup],
    roles: tuple[Role, ...],
    tensors: Mapping[str, Tensor],
    along: Callable[[str, int], Tensor],
) -> ChannelValues:
    """Sum over the slots of these roles, and over the positions each channel owns there.

    Args:
        groups: The channels.
        roles: Which slots take part; a slot whose parameter is not in `tensors` does not.
        tensors: Name -> tensor, read for its sizes.
        along: (name, dim) -> one number for each index of the axis, float [size].
    Returns:
        The sums, 0 for a channel without such slots.
    Raises:
        ArgumentError: If a position lies outside its axis: the groups belong to another model.
    """
    axes = tuple(axis for axis in _axes(tuple(groups), roles) if axis[0] in tensors)
    sizes = tuple(tensors[name].shape[dim] for name, dim in axes)
    device = next(iter(tensors.values())).device if tensors else torch.device("cpu")
    layout = _layout(tuple(groups), roles, axes, sizes, device)
    if not axes:
        return ChannelValues(torch.zeros(len(layout.group_of), device=device), layout)
    values = torch.cat([along(name, dim) for name, dim in axes])
    # embedding_bag and not index_add: its sums come in one order on every device, so runs repeat bit for bit
    sums = nn.functional.embedding_bag(layout.source, values.unsqueeze(1), layout.offsets, mode="sum")
    return ChannelValues(sums.squeeze(1), layout)


def group_means(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each group's values over their mean, so that groups rank together; a group of zeros stays as it is.

    Example:
        >>> group_means({"a": torch.tensor([1.0, 3.0]), "b": torch.zeros(2)})
        {'a': tensor([0.5000, 1.5000]), 'b': tensor([0., 0.])}
    """
    tiny = {name: torch.finfo(v.dtype).tiny for name, v in values.items()}
    return {name: v / v.mean().clamp_min(tiny[name]) for name, v in values.items()}


@dataclass(frozen=True, eq=False)
class ChannelValues:
    """One number per channel of all groups, kept in one tensor because a group at a time costs too much.

    Attributes:
        flat: float [sum of C], the groups one after the other.
        layout: Where each group lies.
    """

    flat: Tensor
    layout: _Layout

    def over_group_mean(self, order: int) -> ChannelValues:
        """Divided by the group's mean absolute value (order 1) or root mean square (2); zeros stay zeros."""
        if not self.layout.widths:
            return self
        parts = torch.split(self.flat, self.layout.widths)
        norms = torch.stack(torch._foreach_norm(parts, order))
        means = norms / self.layout.width.to(norms.dtype) ** (1 / order)
        tiny = torch.finfo(means.dtype).tiny
        return ChannelValues(self.flat / means.clamp_min(tiny)[self.layout.group_of], self.layout)

    def by_group(self) -> dict[str, Tensor]:
        """Group name -> values, float [C]."""
        return dict(zip(self.layout.names, torch.split(self.flat, self.layout.widths), strict=True))


@dataclass(frozen=True, eq=False)
class _Layout:
    names: tuple[str, ...]
    widths: list[int]
    source: Tensor  # int64: which entry of the concatenated axes, channel after channel
    offsets: Tensor  # int64 [sum of C]: where in `source` a channel begins
    group_of: Tensor  # int64 [sum of C]: index of the channel's group
    width: Tensor  # int64 [groups], at least 1


@lru_cache(maxsize=32)
def _axes(groups: tuple[ChannelGroup, ...], roles: tuple[Role, ...]) -> tuple[Axis, ...]:
    return tuple(dict.fromkeys((s.name, s.dim) for g in groups for s in g.with_role(*roles)))


@lru_cache(maxsize=32)
def _layout(
    groups: tuple[ChannelGroup, ...],
    roles: tuple[Role, ...],
    axes: tuple[Axis, ...],
    sizes: tuple[int, ...],
    device: torch.device,
) -> _Layout:
    starts = dict(zip(axes, _running_starts(sizes), strict=True))
    size_of = dict(zip(axes, sizes, strict=True))
    sources: list[Tensor] = []
    counts: list[int] = []
    for group in groups:
        slots = [slot for slot in group.with_role(*roles) if (slot.name, slot.dim) in starts]
        for slot in slots:
            if slot.positions.numel() and int(slot.positions.max()) >= size_of[slot.name, slot.dim]:
                raise ArgumentError(
                    f"group {group.name!r} does not fit the model: {slot.name} has "
                    f"{size_of[slot.name, slot.dim]} entries along axis {slot.dim}, the group points at "
                    f"{int(slot.positions.max())}; trace the groups of this model again"
                )
        places = [slot.positions + starts[slot.name, slot.dim] for slot in slots]
        sources += [torch.cat(places, dim=1).flatten()] if places else []
        counts += [sum(p.shape[1] for p in places)] * group.num_channels
    widths = [group.num_channels for group in groups]
    return _Layout(
        names=tuple(group.name for group in groups),
        widths=widths,
        source=(torch.cat(sources) if sources else torch.empty(0, dtype=torch.int64)).to(device),
        offsets=torch.tensor(_running_starts(counts), dtype=torch.int64, device=device),
        group_of=torch.repeat_interleave(torch.arange(len(widths)), torch.tensor(widths, dtype=torch.int64)).to(device),
        width=torch.tensor(widths, dtype=torch.int64).clamp_min(1).to(device),
    )


def _running_starts(counts: Iterable[int]) -> list[int]:
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += count
    return starts
