"""Which numbers share a radius and a norm: every perturbed tensor is cut along one axis into rows, and the rows of all
tensors stand in one flat vector of the model.

A row knows its channel (whose radius it takes) and its ellipsoid (with which it shares a norm). Radii, norms
and coefficients of a whole model are then single vectors, whatever the scope.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adasap.errors import ArgumentError
from adasap.groups.group import ChannelGroup, Role, Slot
from adasap.sharpness.options import Norms, Scope

Kind = Literal["filters", "scales", "shifts"]

KINDS: tuple[Kind, ...] = ("filters", "scales", "shifts")
_KIND_OF_ROLE: dict[Role, Kind] = {"producer": "filters", "scale": "scales", "shift": "shifts"}


@dataclass(frozen=True)
class TensorRows:
    """How one tensor is cut into rows.

    Attributes:
        kind: Whether it holds filters, scales or shifts.
        axis: The axis of the rows.
        num_rows: Their number; a scalar has one.
        inner_dims: The axes over which the norm of a row is taken; empty if a row is a single number.
        factor_shape: The shape in which a vector over the rows multiplies the tensor, such as (C, 1, 1, 1).
    """

    kind: Kind
    axis: int
    num_rows: int
    inner_dims: tuple[int, ...]
    factor_shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RowLayout:
    """The rows of all perturbed tensors, one after the other.

    Attributes:
        tensors: How each tensor is cut, in order.
        units: int64 [rows]: the channel whose radius the row takes, counted over all groups; the number of
            channels stands for the midpoint.
        ellipsoids: int64 [rows]: rows with the same number share a norm.
        num_ellipsoids: How many there are.
    """

    tensors: tuple[TensorRows, ...]
    units: Tensor
    ellipsoids: Tensor
    num_ellipsoids: int

    def split(self, values: Tensor) -> tuple[Tensor, ...]:
        """A vector over all rows -> one vector per tensor."""
        return torch.split(values, [rows.num_rows for rows in self.tensors])


class Channels:
    """Which rows of which tensor belong to which channel, read off the groups once.

    Raises:
        ArgumentError: If two groups have the same name.
    """

    def __init__(self, groups: Sequence[ChannelGroup]) -> None:
        self.groups = tuple(groups)
        if len({group.name for group in groups}) < len(self.groups):
            raise ArgumentError("two channel groups have the same name; pass the groups of one model, once")
        self.num_units = sum(group.num_channels for group in self.groups)
        self._slots: dict[str, list[tuple[int, int, Slot]]] = {}  # tensor -> (group, its first unit, slot)
        first_unit = 0
        for number, group in enumerate(self.groups):
            for slot in group.with_role("producer", "scale", "shift"):
                self._slots.setdefault(slot.name, []).append((number, first_unit, slot))
            first_unit += group.num_channels

    def kind(self, name: str, tensor: Tensor) -> Kind:
        """What a tensor holds: by its slot's role, and without a slot by its shape and name.

        Example:
            >>> Channels(()).kind("head.bias", torch.zeros(3)), Channels(()).kind("ln.weight", torch.zeros(3))
            ('shifts', 'scales')
        """
        slots = self._slots.get(name)
        if slots:
            return min((_KIND_OF_ROLE[slot.role] for _, _, slot in slots), key=KINDS.index)
        if tensor.ndim > 1:
            return "filters"
        return "shifts" if name.endswith("bias") else "scales"

    def norms(self, tensors: Mapping[str, Tensor]) -> set[str]:
        """The scales, and the shifts beside one: a convolution's bias is no norm's.

        Example:
            >>> names = ("bn.weight", "bn.bias", "fc.bias")
            >>> sorted(Channels(()).norms({name: torch.ones(2) for name in names}))
            ['bn.bias', 'bn.weight']
        """
        kinds = {name: self.kind(name, tensor) for name, tensor in tensors.items()}
        layers = {name.rpartition(".")[0] for name, kind in kinds.items() if kind == "scales"}
        return {name for name, kind in kinds.items() if kind != "filters" and name.rpartition(".")[0] in layers}

    def layout(self, tensors: Mapping[str, Tensor], *, scope: Scope, norms: Norms) -> RowLayout:
        """The rows of these tensors.

        Ellipsoids: `model` has one. `group` has one per channel group, and one per tensor (or part of it)
        without a group. `channel` has one per channel of each group, and again one per tensor without a
        group: balls around each number of a position embedding, say, would reduce its gradient to signs.

        Raises:
            ArgumentError: If the groups do not fit the tensors, as after a cut.
        """
        cuts = tuple(self._cut(name, tensor) for name, tensor in tensors.items())
        units, ellipsoids = [], []
        for number, (name, rows) in enumerate(zip(tensors, cuts, strict=True)):
            group, unit = self._owners(name, rows.num_rows)
            owner = {"model": torch.zeros_like(unit), "group": group, "channel": unit}[scope]
            alone = 0 if scope == "model" else self.num_units + number
            ellipsoids.append(owner.where(unit < self.num_units, alone))
            of_midpoint = norms == "midpoint" and rows.kind != "filters"
            units.append(torch.full_like(unit, self.num_units) if of_midpoint else unit)
        device = next(iter(tensors.values())).device
        distinct, numbers = torch.unique(torch.cat(ellipsoids), return_inverse=True)
        return RowLayout(cuts, torch.cat(units).to(device), numbers.to(device), len(distinct))

    def _cut(self, name: str, tensor: Tensor) -> TensorRows:
        axis, shape = self._row_axis(name), tuple(tensor.shape)
        return TensorRows(
            kind=self.kind(name, tensor),
            axis=axis,
            num_rows=shape[axis] if shape else 1,
            inner_dims=tuple(d for d in range(len(shape)) if d != axis),
            factor_shape=tuple(size if d == axis else 1 for d, size in enumerate(shape)),
        )

    def _row_axis(self, name: str) -> int:
        slots = self._slots.get(name)
        return slots[0][2].dim if slots else 0

    def _owners(self, name: str, rows: int) -> tuple[Tensor, Tensor]:
        """The group and the channel of each row, int64 [rows]; the number of channels for no owner."""
        group = torch.zeros(rows, dtype=torch.int64)
        unit = torch.full((rows,), self.num_units)
        for number, first_unit, slot in self._slots.get(name, ()):
            if slot.dim != self._row_axis(name) or not slot.positions.numel():
                continue
            if int(slot.positions.max()) >= rows:
                raise ArgumentError(
                    f"group {self.groups[number].name!r} has channels up to row "
                    f"{int(slot.positions.max())} of {name!r}, which has {rows} rows; after a cut, use the "
                    "groups that apply_plan_ returned"
                )
            positions = slot.positions.cpu()
            group[positions] = number
            unit[positions] = first_unit + torch.arange(len(positions)).unsqueeze(1)
        return group, unit
