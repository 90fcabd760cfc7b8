"""Trying a cut on a copy without numbers: does forward still fit, and mean the same channels?"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from adasap.errors import TraceError
from adasap.groups.assemble import assemble_groups
from adasap.groups.attribute_search import Adapter
from adasap.groups.components import distinct, distinct_columns
from adasap.groups.cutting import cut_
from adasap.groups.fake_model import Kind, Skeleton, recorded_calls
from adasap.groups.group import ChannelGroup, prunable
from adasap.groups.inputs import ExampleInputs
from adasap.groups.preserving import Untouched
from adasap.groups.shape_attributes import drive_pads
from adasap.groups.walk import KEPT, Graphs, Walked, walk_model

MISFIT = "the model's forward does not fit a cut"


def freeze_what_fails(
    model: nn.Module, groups: Sequence[ChannelGroup], example_inputs: ExampleInputs, walked: Walked
) -> tuple[ChannelGroup, ...]:
    """The groups, with those frozen whose cut the model's own forward does not survive.

    All groups are cut together first, each by another number of units, so that widths do not agree by accident, and
    once more by other numbers, as what forward works out by a division may be right for one of them by chance.
    If that fails, halves are tried until the groups at fault are found. A group at fault is tried again with
    integer attributes that fall with its channels, and is frozen if that does not help.
    """
    trial, adapter = Trial(model, groups, example_inputs, walked), Adapter(model, walked)
    first, reasons = trial.kept, dict[str, str]()
    others, followed = _other_cuts(first, groups), list[object]()
    # to follow the cut model costs ten times as much as to run it
    for kept, failure in (
        (first, trial.misfit),
        (first, trial.failure),
        (others, trial.misfit),
        (first, trial.failure),
    ):
        if failure == trial.failure and _identical(followed, [*reasons, *trial.groups.values()]):
            break
        trial.kept = kept
        remaining = [name for name in trial.kept if name not in reasons]
        adapter.failures.clear()
        while remaining and (sentence := failure(remaining)) is not None:
            for names, reason in trial.culprits(remaining, sentence, failure):
                for name in names:
                    if not _adapt(trial, adapter, name, failure):
                        reasons[name] = reason
            remaining = [name for name in remaining if name not in reasons]
        if failure == trial.failure:
            followed = [*reasons, *trial.groups.values()]
    return tuple(
        replace(group, frozen=(*group.frozen, reasons[group.name])) if group.name in reasons else group
        for group in trial.groups.values()
    )


def _identical(left: list[object], right: list[object]) -> bool:
    return len(left) == len(right) and all(map(operator.is_, left, right))


def any_fits(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    example_inputs: ExampleInputs,
    walked: Walked,
    makers: AbstractSet[str],
) -> bool:
    """Whether one of the groups that these weights make can be cut by itself: a look before all are tried."""
    trial = Trial(model, groups, example_inputs, walked)
    made = [name for name in trial.kept if makers & {slot.name for slot in trial.groups[name].with_role("producer")}]
    return any(trial.misfit([name]) is None for name in made)


def _adapt(trial: Trial, adapter: Adapter, name: str, failure: Failure) -> bool:
    """Give a group the extents it needs; whether it fits then. Groups that need the same of like modules follow.

    What it got by likeness comes off if it fits without: another number may have the same value by chance.
    """
    group, fits = trial.groups[name], partial(trial.fits, failure=failure)
    plain = group if name in trial.adapted else trial.traced[name]
    adapted = plain if plain is not group and fits(plain) else adapter.adapted(plain, fits)
    if adapted is None:
        return False
    trial.groups[name] = adapted
    trial.adapted.add(name)
    for other in trial.kept.keys() - trial.adapted:
        trial.groups[other] = adapter.likened(trial.groups[other])
    return True


Failure = Callable[[Sequence[str]], str | None]
"""Cut these groups together: None if all is well, else a sentence."""


class Trial:
    """Cuts groups of a model on skeletons and says what goes wrong.

    Args:
        model: The model.
        groups: Its groups.
        example_inputs: As `trace_groups` takes them.
        walked: The walk of the model as it is: the shapes that it returns, what its norms see together.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: Sequence[ChannelGroup],
        example_inputs: ExampleInputs,
        walked: Walked,
    ) -> None:
        self.model, self.example_inputs = model, example_inputs
        self.expected, self.norm_sizes = walked.output_shapes, walked.notes.norm_sizes
        self.allow_inexact = walked.book.allow_inexact
        self.by_value, self.tied = walked.notes.by_value, walked.notes.tied
        self.plain, self.graphs = walked.notes.plain, walked.graphs
        self.traced = {group.name: group for group in groups}
        self.groups, self.adapted = dict(self.traced), set[str]()
        self.kept = _different_cuts(prunable(groups))
        self.kind: Kind = "bare"  # until the model as it is turns out not to run on such tensors
        self._known_to_run: dict[Kind, bool] = {}
        self._fitted: tuple[object, ...] = ()
        self._calls: list[Any] = []
        self._fitted_calls: list[Any] = []
        self._own_calls: list[Any] | None = None
        self._bare: tuple[Skeleton, Untouched] | None = None

    def misfit(self, names: Sequence[str]) -> str | None:
        """Whether forward runs after the cut."""
        asked = (id(self.kept), *names, *self.groups.values())
        if asked == self._fitted:
            return None
        wrong = self._wrong_shape(names, self.kind)
        while wrong is not None and self.kind != "real" and not self._runs(self.kind):
            self.kind = "fake" if self.kind == "bare" else "real"
            wrong = self._wrong_shape(names, self.kind)
        if wrong is None:
            self._fitted, self._fitted_calls = asked, self._calls
        return wrong

    def failure(self, names: Sequence[str]) -> str | None:
        """Whether forward runs after the cut and carries the same channels."""
        if (wrong := self.misfit(names)) is not None:
            return wrong
        if self.plain and self.kind == "bare" and self._calls_alike():
            return None
        fuller: Kind = "fake" if self.kind == "bare" else self.kind
        skeleton = self._skeleton(fuller)
        cut = self._cut(skeleton, names)
        try:
            graphs = Graphs(skeleton.model, skeleton.inputs, like=self.graphs)
            walked = walk_model(graphs, allow_inexact=self.allow_inexact, by_value=self.by_value, tied=self.tied)
            drive_pads(walked, skeleton.model, skeleton.inputs)
        except TraceError as error:
            return self._wrong_shape(names, fuller) or f"the cut model cannot be traced: {_first_line(error)}"
        if walked.output_shapes != self.expected:
            return self._other_shape(walked.output_shapes)
        if walked.notes.norm_sizes != self.norm_sizes:
            return "after a cut other channels are normalised together: a number of groups does not fall with them"
        if same_channels(cut, assemble_groups(walked.book)):
            return None
        bounds = ", ".join(sorted(set(walked.notes.bounded))) or "an operator with fixed bounds"
        return f"after a cut other channels meet at {bounds}"

    def _calls_alike(self) -> bool:
        """Whether the cut that fitted last made the calls of the model as it is: following it would tell no more."""
        try:
            if self._own_calls is None:
                skeleton = self._skeleton("bare")
                with recorded_calls() as calls:
                    skeleton.output_shapes()
                self._own_calls = calls
            return self._fitted_calls == self._own_calls
        except Exception:  # as for a model that asks where its tensors are, or hands arrays to a function
            return False

    def fits(self, changed: ChannelGroup, failure: Failure) -> bool:
        """Whether a group can be cut in this form."""
        before = self.groups[changed.name]
        self.groups[changed.name] = changed
        try:
            return failure([changed.name]) is None
        finally:
            self.groups[changed.name] = before

    def _runs(self, kind: Kind) -> bool:
        """Whether the model as it is runs on tensors of this kind."""
        if kind not in self._known_to_run:
            try:
                shapes = self._skeleton(kind).output_shapes()
                self._known_to_run[kind] = shapes == self.expected
            except Exception:  # as for a model that asks where its tensors are, or for a number of one
                self._known_to_run[kind] = False
        return self._known_to_run[kind]

    def _skeleton(self, kind: Kind) -> Skeleton:
        """The model without a cut; the bare one is made once, and made whole again."""
        if kind != "bare":
            return Skeleton(self.model, self.example_inputs, kind=kind)
        if self._bare is None:
            skeleton = Skeleton(self.model, self.example_inputs, kind=kind)
            self._bare = skeleton, Untouched(skeleton.model)
        else:
            self._bare[1].restore_()
        return self._bare[0]

    def _cut(self, skeleton: Skeleton, names: Sequence[str]) -> tuple[ChannelGroup, ...]:
        return cut_(skeleton.model, tuple(self.groups.values()), {name: self.kept[name] for name in names})

    def _wrong_shape(self, names: Sequence[str], kind: Kind) -> str | None:
        skeleton = self._skeleton(kind)
        try:
            self._cut(skeleton, names)
            with recorded_calls() as self._calls:
                shapes = skeleton.output_shapes()
        except Exception as error:  # whatever the model's own code raises at another width
            return f"{MISFIT}: {_first_line(error)}"
        return None if shapes == self.expected else self._other_shape(shapes)

    def _other_shape(self, shapes: list[tuple[int, ...]]) -> str:
        return f"a cut changes the output's shape from {self.expected} to {shapes}"

    def culprits(self, names: list[str], sentence: str, failure: Failure) -> Iterator[tuple[list[str], str]]:
        """Names that fail, one by one, and what fails; if neither half fails alone, one half as a whole.

        Lazy: what is changed for one culprit counts when the next one is looked for.
        """
        if len(names) == 1:
            yield names, sentence
            return
        halves = [names[: len(names) // 2], names[len(names) // 2 :]]
        fit = True
        for half in halves:
            if (cause := failure(half)) is not None:
                fit = False
                yield from self.culprits(half, cause, failure)
        if fit:
            yield halves[1], f"{sentence} (together with other groups)"


def same_channels(left: Sequence[ChannelGroup], right: Sequence[ChannelGroup]) -> bool:
    """Whether two lists of groups tie the same positions into units and freeze the same units for the same reasons.

    What the user asked to keep does not count. A unit that is alone in its group on the left may be several on the
    right, and be read along axes that had no channels: a grouped convolution with one group left is a plain one, in
    which channels are free that were bound to each other.
    """
    (units_left, reasons_left), (units_right, reasons_right) = _units_by_axis(left), _units_by_axis(right)
    if any(key not in units_right or units_left[key].shape != units_right[key].shape for key in units_left):
        return False
    if not units_left:
        return not units_right
    pairs = torch.stack([torch.cat([units[key] for key in units_left]) for units in (units_left, units_right)])
    pairs = distinct_columns(pairs)
    alone = torch.isin(pairs[0], torch.tensor(_last_units(left), dtype=torch.int64))
    if int((~alone).sum()) != len(distinct(pairs[0, ~alone])) or pairs.shape[1] != len(distinct(pairs[1])):
        return False
    free = set(pairs[1, alone].tolist()) | {0}
    if any(not free.issuperset(units_right[key].tolist()) for key in units_right.keys() - units_left.keys()):
        return False
    return all(reasons_left[a] == reasons_right[b] for a, b in pairs.T.tolist())


def _last_units(groups: Sequence[ChannelGroup]) -> list[int]:
    """The units, counted as in `_units_by_axis`, that are alone in their group."""
    last, start = [], 1
    for group in groups:
        if group.num_channels == 1:
            last.append(start)
        start += group.num_channels
    return last


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
    """Kept indices per group: each loses another number of units, spread over the group, from another place on.

    Groups that are equally wide lose equally many only if there are more of them than numbers: what must agree by the
    model's code would agree by chance. Channels of two that stand side by side would then stay side by side.
    """
    kept = {}
    taken: dict[int, set[int]] = {}
    several = (group for group in groups if group.num_channels > 1)
    narrow_first = sorted(several, key=lambda group: group.num_channels)
    for place, group in enumerate(narrow_first):
        width = group.num_channels
        count = min(2 + place, width // 2) if width > 2 else 1
        others = taken.setdefault(width, set())
        if count in others and (left := set(range(1, width - 1)) - others):  # one channel alone may be an axis less
            count = min(left, key=lambda number: abs(number - count))
        others.add(count)
        removed = (torch.linspace(0, width - 1, max(count, 1)).round().long() + place) % width
        stays = torch.ones(width, dtype=torch.bool)
        stays[removed] = False
        kept[group.name] = stays.nonzero().flatten()
    return kept


def _other_cuts(kept: Mapping[str, Tensor], groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """The same cuts, each of one unit more, or of one less where half of a group or all but two units are gone."""
    others = {}
    for group in groups:
        if (stays := kept.get(group.name)) is not None:
            removed = group.num_channels - len(stays)
            if removed < group.num_channels // 2 and len(stays) > 2:
                stays = stays[1:]
            elif removed > 1:
                gone = torch.ones(group.num_channels, dtype=torch.bool)
                gone[stays] = False
                stays = torch.cat([stays, gone.nonzero()[0]]).sort().values
            others[group.name] = stays
    return others


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().split("\n") if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
