"""Trying a cut on a copy without numbers: does forward still fit, and mean the same channels?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from adasap.errors import TraceError
from adasap.groups.assemble import assemble_groups
from adasap.groups.components import distinct, distinct_columns
from adasap.groups.copies import Skeleton
from adasap.groups.cutting import cut_
from adasap.groups.exported import ExampleInputs
from adasap.groups.extents import drive_pads
from adasap.groups.group import ChannelGroup, prunable
from adasap.groups.walk import KEPT, walk_model


def freeze_what_fails(
    model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs
) -> tuple[ChannelGroup, ...]:
    """The groups, with those frozen whose cut the model's own forward does not survive.

    All groups are cut together first, each by another number of units, so that widths do not agree by
    accident. If that fails, halves are tried until the groups at fault are found.
    """
    trial = Trial(model, groups, example_inputs)
    names = [group.name for group in prunable(groups) if group.num_channels > 1]
    failures: dict[str, str] = {}
    remaining = names
    while remaining and trial.failure(remaining) is not None:
        found = trial.culprits(remaining)
        failures.update(found)
        remaining = [name for name in remaining if name not in found]
    return tuple(
        replace(group, frozen=(*group.frozen, failures[group.name])) if group.name in failures else group
        for group in groups
    )


class Trial:
    """Cuts groups of a model on skeletons and says what goes wrong."""

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs) -> None:
        self.model, self.groups, self.example_inputs = model, groups, example_inputs
        self.kept = _different_cuts(prunable(groups))
        self.expected = Skeleton(model, example_inputs).output_shapes()

    def failure(self, names: Sequence[str]) -> str | None:
        """Cut these together: None if forward runs and carries the same channels, else a sentence."""
        skeleton = Skeleton(self.model, self.example_inputs)
        try:
            cut = cut_(skeleton.model, self.groups, {name: self.kept[name] for name in names})
            shapes = skeleton.output_shapes()
        except Exception as error:  # whatever the model's own code raises at another width
            return f"the model's forward does not fit a cut: {_first_line(error)}"
        if shapes != self.expected:
            return f"a cut changes the output's shape from {self.expected} to {shapes}"
        return self._other_meaning(skeleton, cut)

    def _other_meaning(self, skeleton: Skeleton, cut: Sequence[ChannelGroup]) -> str | None:
        try:
            walked = walk_model(skeleton.model, skeleton.inputs)
            drive_pads(walked, skeleton.model, skeleton.inputs)
        except TraceError as error:
            return f"the cut model cannot be traced: {_first_line(error)}"
        if same_channels(cut, assemble_groups(walked.book)):
            return None
        bounds = ", ".join(sorted(set(walked.notes.bounded))) or "an operator with fixed bounds"
        return f"after a cut other channels meet at {bounds}"

    def culprits(self, names: Sequence[str]) -> dict[str, str]:
        """Group name -> what fails, for groups that fail alone; if none does, for one half of them."""
        found: dict[str, str] = {}
        pending = [list(names)]
        while pending:
            some = pending.pop()
            failure = self.failure(some)
            if failure is None:
                continue
            if len(some) == 1:
                found[some[0]] = failure
                continue
            halves = [some[: len(some) // 2], some[len(some) // 2 :]]
            if all(self.failure(half) is None for half in halves):
                found.update(dict.fromkeys(halves[1], f"{failure} (together with other groups)"))
                continue
            pending.extend(halves)
        return found


def same_channels(left: Sequence[ChannelGroup], right: Sequence[ChannelGroup]) -> bool:
    """Whether two lists of groups tie the same positions into units and freeze the same units for the same reasons.

    What the user asked to keep does not count.
    """
    (units_left, reasons_left), (units_right, reasons_right) = _units_by_axis(left), _units_by_axis(right)
    if units_left.keys() != units_right.keys():
        return False
    if any(units_left[key].shape != units_right[key].shape for key in units_left):
        return False
    if not units_left:
        return True
    pairs = torch.stack([torch.cat([units[key] for key in units_left]) for units in (units_left, units_right)])
    pairs = distinct_columns(pairs)
    if not pairs.shape[1] == len(distinct(pairs[0])) == len(distinct(pairs[1])):
        return False
    return all(reasons_left[a] == reasons_right[b] for a, b in pairs.T.tolist())


def _units_by_axis(
    groups: Sequence[ChannelGroup],
) -> tuple[dict[tuple[str, int], Tensor], list[set[str]]]:
    """(name, dim) -> unit number of each position, 0 for none; and why each unit is frozen."""
    reasons: list[set[str]] = [set()]
    entries: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}
    start = 1
    for group in groups:
        for slot in group.slots:
            unit = torch.arange(start, start + group.num_channels).unsqueeze(1).expand_as(slot.positions)
            entries.setdefault((slot.name, slot.dim), []).append((slot.positions.flatten(), unit.flatten()))
        start += group.num_channels
        reasons += [set(group.frozen) - {KEPT}] * group.num_channels
    units = {}
    for key, parts in entries.items():
        positions = torch.cat([part for part, _ in parts])
        axis = torch.zeros(int(positions.max()) + 1, dtype=torch.int64)
        axis[positions] = torch.cat([part for _, part in parts])
        units[key] = axis
    return units, reasons


def _different_cuts(groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Kept indices per group: each loses another number of units, spread over the group."""
    kept = {}
    several = (group for group in groups if group.num_channels > 1)
    narrow_first = sorted(several, key=lambda group: group.num_channels)
    for place, group in enumerate(narrow_first):
        width = group.num_channels
        count = min(2 + place, width // 2) if width > 2 else 1
        removed = torch.linspace(0, width - 1, max(count, 1)).round().long()
        stays = torch.ones(width, dtype=torch.bool)
        stays[removed] = False
        kept[group.name] = stays.nonzero().flatten()
    return kept


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
