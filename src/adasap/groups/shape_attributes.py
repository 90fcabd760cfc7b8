"""Channels created by padding: which integer attribute of which module sets how many there are?

Found by experiment, not by name: on a copy without numbers each integer of the modules around the padding is
lowered by one, and the amounts with which the padding is then called are compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from adasap.groups.assemble import Driver
from adasap.groups.exported import quiet
from adasap.groups.fake_model import Skeleton
from adasap.groups.inputs import ExampleInputs
from adasap.groups.labels import LabelBook
from adasap.groups.operators.call import Pad
from adasap.groups.walk import Walked


@dataclass(frozen=True)
class Attribute:
    """An integer of a module, or one in a tuple or list of them."""

    module: str
    name: str
    index: int | None
    value: int


class _Stop(Exception):
    """The padding of interest has been seen; the rest of forward does not matter."""


class _PadRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down the amounts of every constant padding."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.amounts: list[list[int]] = []
        self.stop_after = stop_after

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.constant_pad_nd.default:
            self.amounts.append(list(args[1]))
            if self.stop_after is not None and len(self.amounts) > self.stop_after:
                raise _Stop
        return func(*args, **(kwargs or {}))


def drive_pads(walked: Walked, model: nn.Module, example_inputs: ExampleInputs) -> tuple[Driver, ...]:
    """The attributes that set the extents of the walk's paddings; created channels without one are frozen.

    Where one attribute sets both sides, the channels of the two sides are tied pairwise in the walk's book.
    """
    pads = [pad for pad in walked.notes.pads if pad.lines is None]
    for pad in walked.notes.pads:
        _settle_lines(walked.book, pad)
    if not pads:
        return ()
    skeleton = Skeleton(model, example_inputs)
    plain = _recorded(skeleton, None)
    drivers: list[Driver] = []
    for pad in pads:
        found = _drivers(skeleton, pad, plain) if len(plain) == walked.notes.num_pads else []
        drivers.extend(found)
        _settle(walked.book, pad, found)
    return tuple(drivers)


def _settle_lines(book: LabelBook, pad: Pad) -> None:
    """What was created beside a line of channels goes where the line goes as a whole, as a head does; else it stays."""
    if pad.lines is None:
        return
    roots = book.roots()
    units = roots[pad.lines.clamp(min=0)]
    for created in torch.cat([pad.before, pad.after]).view(-1, len(units)):
        apart = (units != roots[created].unsqueeze(1)).any(1)
        book.freeze(created[apart], f"{pad.where} creates a fixed number of channels")


def _settle(book: LabelBook, pad: Pad, drivers: Sequence[Driver]) -> None:
    driven = torch.cat([driver.labels for driver in drivers]) if drivers else torch.empty(0, dtype=torch.int64)
    created = torch.cat([pad.before, pad.after])
    book.freeze(created[~torch.isin(created, driven)], f"{pad.where} creates a fixed number of channels")
    for driver in drivers:
        if len(driver.labels) == len(created) and len(pad.before) == len(pad.after) > 0:
            book.unite(pad.before, pad.after)


def _drivers(skeleton: Skeleton, pad: Pad, plain: Sequence[list[int]]) -> list[Driver]:
    """One driver per side, or one for both sides if the same attribute sets both."""
    sides = [side for side in (pad.before, pad.after) if len(side)]
    found: list[Driver] = []
    for attribute in counts_of(skeleton.model, pad.owners):
        change = _change(skeleton, attribute, pad, plain)
        if change == (-1, -1) and len(sides) == 2:
            return [_driver(attribute, pad.before, pad.after)] if len(pad.before) == len(pad.after) else []
        if change == (-1, 0) and len(pad.before):
            found.append(_driver(attribute, pad.before))
        elif change == (0, -1) and len(pad.after):
            found.append(_driver(attribute, pad.after))
        if len(found) == len(sides):
            break
    return found


def _driver(attribute: Attribute, *labels: Tensor) -> Driver:
    return Driver(attribute.module, attribute.name, attribute.index, torch.cat(labels))


def _change(skeleton: Skeleton, attribute: Attribute, pad: Pad, plain: Sequence[list[int]]) -> tuple[int, int] | None:
    """How far (before, after) move when the attribute is lowered; None if anything else moves."""
    module = skeleton.model.get_submodule(attribute.module)
    value = getattr(module, attribute.name)
    try:
        setattr(module, attribute.name, _lowered(value, attribute.index))
        amounts = _recorded(skeleton, pad.order)
    except Exception:  # a module may refuse the value, or its forward may fail before the padding
        return None
    finally:
        setattr(module, attribute.name, value)
    if len(amounts) != pad.order + 1 or amounts[:-1] != list(plain[: pad.order]):
        return None
    place = 2 * (pad.rank - 1 - pad.dim)
    before, after = plain[pad.order], amounts[pad.order]
    difference = [new - old for old, new in zip(before, after, strict=True)]
    own = (difference[place], difference[place + 1])
    return own if not any(difference[:place]) and not any(difference[place + 2 :]) else None


def _lowered(value: Any, index: int | None) -> Any:
    if index is None:
        return value - 1
    entries = list(value)
    entries[index] -= 1
    return type(value)(entries)


def _recorded(skeleton: Skeleton, stop_after: int | None) -> list[list[int]]:
    recorder = _PadRecorder(stop_after)
    try:
        with torch.no_grad(), quiet(), skeleton.mode, recorder:
            skeleton.inputs.call(skeleton.model)
    except _Stop:
        pass
    return recorder.amounts


def counts_of(model: nn.Module, owners: Sequence[str]) -> Iterator[Attribute]:
    """Integers of at least one in the modules around a call, the innermost module first."""
    for path in owners:
        module = model.get_submodule(path)
        if isinstance(module, nn.GroupNorm) and module.affine:
            continue  # a cut reads them off the weight
        for name, value in vars(module).items():
            if name.startswith("_") or name == "training":
                continue
            if _is_count(value):
                yield Attribute(path, name, None, value)
            elif type(value) in (tuple, list):
                yield from (Attribute(path, name, i, entry) for i, entry in enumerate(value) if _is_count(entry))


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1
