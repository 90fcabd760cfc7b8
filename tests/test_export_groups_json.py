"""Groups come back from JSON as they were; numbers that do not fit the model are refused."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from adasap.errors import ModelFileError
from adasap.groups.group import ChannelGroup, Extent, Slot, fingerprint
from adasap.groups.serialization import from_runs, groups_from_json, groups_to_json, to_runs


class Padded(nn.Module):
    """Attributes of all kinds around one convolution."""

    classwide = 5

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 12, 1)
        self.pad = (2, 3)
        self.width = 12
        self.flag = True
        self._hidden = 7

    @property
    def counted(self) -> int:
        raise AssertionError("code of the model ran")


def _groups() -> tuple[ChannelGroup, ...]:
    rows = torch.tensor([[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11]])  # three parts, tied
    slots = (
        Slot("conv.weight", 0, "producer", rows),
        Slot("conv.bias", 0, "shift", rows),
        Slot("conv.weight", 1, "consumer", torch.randperm(12).view(4, 3)),
    )
    extents = (
        Extent("", "pad", 1, torch.tensor([0, 1, 1, 0])),
        Extent("", "width", None, torch.full((4,), 3)),
    )
    return (
        ChannelGroup("conv", 4, slots, extents),
        ChannelGroup("head", 12, (Slot("conv.weight", 0, "producer", torch.arange(12)[:, None]),), (), ("odd",), True),
    )


def test_groups_survive() -> None:
    groups = _groups()
    again = groups_from_json(groups_to_json(groups), Padded())
    assert fingerprint(again) == fingerprint(groups)
    assert again[1].frozen == ("odd",)
    assert again[1].is_output
    assert again[0].extents[0].index == 1
    assert again[0].slots[0].positions.is_contiguous()


def test_tied_parts_are_stored_in_few_runs() -> None:
    slot = Slot("w", 0, "producer", torch.arange(3000).view(3, 1000).T.contiguous())
    assert len(groups_to_json([ChannelGroup("w", 1000, (slot,))])) < 200


@pytest.mark.parametrize("seed", range(20))
def test_runs_come_back(seed: int) -> None:
    numbers = torch.randint(0, 4, (seed,), generator=torch.Generator().manual_seed(seed)).cumsum(0).tolist()
    assert from_runs(to_runs(numbers)) == numbers


def _slot(**changes: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda groups: groups[0]["slots"][0].update(changes)


def _extent(**changes: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda groups: groups[0]["extents"][0].update(changes)


def _group(**changes: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda groups: groups[0].update(changes)


def _enormous(groups: list[dict[str, Any]]) -> None:
    groups[0]["num_channels"] = 10**7
    groups[0]["slots"][0].update(per_channel=1, runs=[[0, 0, 10**7]])


HOSTILE = {
    "a tensor that is not there": _slot(name="conv.nothing"),
    "an axis that is not there": _slot(dim=4),
    "a negative axis": _slot(dim=-1),
    "a role that is not known": _slot(role="owner"),
    "positions beyond the axis": _slot(runs=[[1, 1, 12]]),
    "positions before the axis": _slot(runs=[[-1, 1, 12]]),
    "a far position": _slot(runs=[[0, 10**18, 12]]),
    "too few positions": _slot(runs=[[0, 1, 11]]),
    "a run without length": _slot(runs=[[0, 1, 12], [0, 1, 0]]),
    "a run of text": _slot(runs=[["0", 1, 12]]),
    "a run of truth values": _slot(runs=[[True, 1, 12]]),
    "a position with a fraction": _slot(runs=[[0.5, 1, 12]]),
    "no positions per channel": _slot(per_channel=0),
    "positions for a whole disk": _enormous,
    "a hidden attribute": _extent(attribute="_hidden", index=None),
    "a dunder attribute": _extent(attribute="__dict__", index=None),
    "a truth value": _extent(attribute="flag", index=None),
    "a method": _extent(attribute="forward", index=None),
    "a property": _extent(attribute="counted", index=None),
    "an attribute that is not there": _extent(attribute="nothing", index=None),
    "a dotted attribute": _extent(attribute="conv.out_channels", index=None),
    "a module that is not there": _extent(module="nothing"),
    "a tuple taken for a number": _extent(index=None),
    "a place beyond the tuple": _extent(index=2),
    "a place before the tuple": _extent(index=-1),
    "a truth value for a place": _extent(index=True),
    "more than the attribute holds": _extent(runs=[[1, 0, 4]]),
    "a growing attribute": _extent(runs=[[-1, 0, 4]]),
    "no channels": _group(num_channels=0),
    "no slots": _group(slots=[]),
    "a name that is no text": _group(name=3),
    "reasons that are no text": _group(frozen=[1]),
    "output as a number": _group(is_output=1),
    "two groups of one name": _group(name="head"),
    "slots as a mapping": _group(slots={}),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_groups_are_refused(change: Callable[[list[dict[str, Any]]], None]) -> None:
    data = json.loads(groups_to_json(_groups()))
    change(data)
    with pytest.raises(ModelFileError):
        groups_from_json(json.dumps(data), Padded())
