"""Channel groups as JSON, and back with every number checked against the model it is going to cut."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast, get_args

import torch
from torch import Tensor, nn

from adasap.errors import ModelFileError
from adasap.groups.group import ChannelGroup, Extent, Role, Slot
from adasap.io import parse_json

T = TypeVar("T")

MOST_TIMES = 8
"""Each place of an axis is named by so many slots and extents at most; tracing names it once or twice."""

Run = list[int]
"""[start, step, count]: the numbers start, start + step, ..., count of them."""


def groups_to_json(groups: Sequence[ChannelGroup]) -> str:
    """The groups as JSON text; positions are stored as arithmetic runs.

    Example:
        >>> slot = Slot("conv.weight", 0, "producer", torch.arange(64)[:, None])
        >>> groups_to_json([ChannelGroup("conv", 64, (slot,))])  # doctest: +ELLIPSIS
        '[{"name":"conv",...,"slots":[{"name":"conv.weight",...,"by":"channel","runs":[[0,1,64]]}],...}]'
    """
    return json.dumps([_group_to_data(group) for group in groups], separators=(",", ":"))


def groups_from_json(text: str, model: nn.Module) -> tuple[ChannelGroup, ...]:
    """The groups back, checked against the dense model before anything is laid out in memory.

    Args:
        text: What `groups_to_json` wrote; it may come from somebody else.
        model: The dense model.
    Raises:
        ModelFileError: If the text is no description of groups, or names tensors, positions or attributes
            that the model does not have.
    """
    data = parse_json(text, where="the text of the groups", error=ModelFileError)
    reader = _Reader(model)
    groups = tuple(reader.group(item) for item in _typed(data, list, "the groups"))
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ModelFileError("two groups have the same name; the file is damaged or foreign")
    return groups


def _group_to_data(group: ChannelGroup) -> dict[str, Any]:
    return {
        "name": group.name,
        "num_channels": group.num_channels,
        "frozen": list(group.frozen),
        "is_output": group.is_output,
        "slots": [_slot_to_data(slot) for slot in group.slots],
        "extents": [
            {
                "module": e.module,
                "attribute": e.attribute,
                "index": e.index,
                "runs": to_runs(e.counts.tolist()),
            }
            for e in group.extents
        ],
        **({"inexact": list(group.inexact)} if group.inexact else {}),
    }


def _slot_to_data(slot: Slot) -> dict[str, Any]:
    by_channel, by_place = (
        to_runs(slot.positions.flatten().tolist()),
        to_runs(slot.positions.T.flatten().tolist()),
    )
    order, runs = ("channel", by_channel) if len(by_channel) <= len(by_place) else ("place", by_place)
    data = {"name": slot.name, "dim": slot.dim, "role": slot.role}
    return {**data, "per_channel": slot.positions.shape[1], "by": order, "runs": runs}


class _Reader:
    """Reads groups for one model."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules(remove_duplicate=False))
        self.tensors: dict[str, Tensor] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_buffers(remove_duplicate=False)),
        }
        self.left = MOST_TIMES * sum(sum(tensor.shape) for tensor in self.tensors.values())

    def group(self, item: Any) -> ChannelGroup:
        data = _typed(item, dict, "a group")
        name = _get(data, "name", str, "a group")
        where = f"group {name[:80]!r}"
        channels = _get(data, "num_channels", int, where)
        slots = tuple(self._slot(slot, channels, where) for slot in _get(data, "slots", list, where))
        if channels < 1 or not slots:
            raise _refused(f"{where} has {channels} channels and {len(slots)} slots")
        return ChannelGroup(
            name=name,
            num_channels=channels,
            slots=slots,
            extents=tuple(self._extent(e, channels, where) for e in _get(data, "extents", list, where)),
            frozen=tuple(_typed(why, str, where) for why in _get(data, "frozen", list, where)),
            is_output=_get(data, "is_output", bool, where),
            inexact=tuple(_typed(what, str, where) for what in _typed(data.get("inexact", []), list, where)),
        )

    def _slot(self, item: Any, channels: int, where: str) -> Slot:
        data = _typed(item, dict, where)
        name, dim = _get(data, "name", str, where), _get(data, "dim", int, where)
        per_channel, order = _get(data, "per_channel", int, where), _get(data, "by", str, where)
        if name not in self.tensors or not 0 <= dim < self.tensors[name].ndim:
            raise _refused(f"{where} names axis {dim} of {name[:80]!r}, which the model does not have")
        size, role = self.tensors[name].shape[dim], _get(data, "role", str, where)
        runs = _runs(data, where)
        if role not in get_args(Role) or order not in ("channel", "place") or per_channel < 1:
            raise _refused(f"{where} describes {name!r} as {role[:20]!r} by {order[:20]!r}, {per_channel} per channel")
        lowest, highest, count = _reach(runs)
        if count != channels * per_channel or count > size or lowest < 0 or highest >= size:
            raise _refused(
                f"{where} has {count} positions from {lowest} to {highest} on axis {dim} of {name!r}, which has {size}"
            )
        self._spend(count, where)
        positions = torch.tensor(from_runs(runs), dtype=torch.int64)
        shape = (channels, per_channel)
        positions = positions.view(shape) if order == "channel" else positions.view(shape[::-1]).T.contiguous()
        return Slot(name, dim, cast(Role, role), positions)

    def _extent(self, item: Any, channels: int, where: str) -> Extent:
        data = _typed(item, dict, where)
        module, attribute = _get(data, "module", str, where), _get(data, "attribute", str, where)
        index = data.get("index")
        value = self._integer(module, attribute, index)
        if value is None:
            raise _refused(
                f"{where} would change {f'{module}.{attribute}'[:80]!r} (index {index!r:.20}), which is no "
                f"integer "
                f"attribute of the model"
            )
        runs = _runs(data, where)
        lowest, highest, count = _reach(runs)
        if count != channels or lowest < 0 or _sum(runs) > value:
            raise _refused(f"{where} would change {module}.{attribute} = {value} by {lowest} to {highest} per channel")
        self._spend(count, where)
        return Extent(module, attribute, index, torch.tensor(from_runs(runs), dtype=torch.int64))

    def _spend(self, count: int, where: str) -> None:
        """A few bytes of text can stand for a whole axis, so what all slots lay out together is limited."""
        self.left -= count
        if self.left < 0:
            raise _refused(f"{where} is one too many: the groups name the model's channels over {MOST_TIMES} times")

    def _integer(self, module: str, attribute: str, index: Any) -> int | None:
        """The plain integer that stands there, or None; no property or other code of the model is run."""
        if module not in self.modules or not attribute.isidentifier() or attribute.startswith("_"):
            return None
        value = inspect.getattr_static(self.modules[module], attribute, None)
        if index is not None:
            if type(index) is not int or not isinstance(value, tuple | list) or not 0 <= index < len(value):
                return None
            value = value[index]
        return value if type(value) is int else None


def to_runs(numbers: Sequence[int]) -> list[Run]:
    """Numbers as arithmetic runs, greedily.

    Example:
        >>> to_runs([0, 1, 2, 3, 7, 7, 7, 5])
        [[0, 1, 4], [7, 0, 3], [5, 0, 1]]
    """
    runs: list[Run] = []
    for number in numbers:
        if runs and runs[-1][2] == 1:
            runs[-1][1:] = [number - runs[-1][0], 2]
        elif runs and number == runs[-1][0] + runs[-1][1] * runs[-1][2]:
            runs[-1][2] += 1
        else:
            runs.append([number, 0, 1])
    return runs


def from_runs(runs: Sequence[Run]) -> list[int]:
    """The numbers back.

    Example:
        >>> from_runs([[0, 1, 4], [7, 0, 3], [5, 0, 1]])
        [0, 1, 2, 3, 7, 7, 7, 5]
    """
    return [start + step * place for start, step, count in runs for place in range(count)]


def _runs(data: Mapping[str, Any], where: str) -> list[Run]:
    runs = _get(data, "runs", list, where)
    for run in runs:
        if type(run) is not list or len(run) != 3 or any(type(n) is not int for n in run) or run[2] < 1:
            raise _refused(f"{where} has a run {run!r:.80}, wanted [start, step, count]")
    return runs


def _reach(runs: Sequence[Run]) -> tuple[int, int, int]:
    """Lowest and highest number and how many, without laying them out."""
    ends = [end for start, step, count in runs for end in (start, start + step * (count - 1))]
    return min(ends, default=0), max(ends, default=0), sum(count for _, _, count in runs)


def _sum(runs: Sequence[Run]) -> int:
    return sum(count * start + step * (count * (count - 1) // 2) for start, step, count in runs)


def _get(data: Mapping[str, Any], key: str, kind: type[T], where: str) -> T:
    return _typed(data.get(key), kind, f"{where}: {key}")


def _typed(value: Any, kind: type[T], where: str) -> T:
    if type(value) is not kind:
        raise _refused(f"{where} is {type(value).__name__}, wanted {kind.__name__}")
    return value


def _refused(what: str) -> ModelFileError:
    return ModelFileError(f"{what}; the file belongs to another model or was altered")
