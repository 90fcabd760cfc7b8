"""The channel groups of a model by name, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from adasap.experiments.name_models import AnyModel, OpenedModel, open_any
from adasap.groups import ChannelGroup, prunable, trace_groups
from adasap.groups.past import branches_of
from adasap.groups.stand_ins import Branch
from adasap.pruning import MACs, Parameters
from adasap.pruning.plan import absent
from adasap.report import Shown, Table

_MOST_NAMES = 4


@dataclass(frozen=True, repr=False)
class ListedGroups(Shown):
    """The groups of a model; it prints as a table, and what could be saved at most."""

    groups: Sequence[ChannelGroup]
    opened: OpenedModel

    def parts(self) -> Iterator[Table | str]:
        """A row for each group, then sums; then the branches that can go whole, if they were looked for."""
        rows = [[g.name, str(g.num_channels), _touched(g), _why_whole(g)] for g in self.groups]
        heading = "frozen because"
        if any(group.inexact for group in self.groups):
            rows = [[*row[:3], row[3] or _not_exact(g)] for row, g in zip(rows, self.groups, strict=True)]
            heading = "frozen because, or not exact"
        yield Table(["group", "channels", "parameters it touches", heading], rows, left=(0, 2, 3))
        model, free = self.opened.model, prunable(self.groups)
        parameters, macs = Parameters(model, self.groups), MACs(model, self.groups, self.opened.example_inputs)
        yield (
            f"{len(free)} of {len(self.groups)} groups can be pruned, {sum(g.num_channels for g in free):,} channels; "
            f"{parameters.dense:,.0f} parameters, {macs.dense:,.0f} MACs at {self.opened.input_size[-1]} px; "
            f"with one channel per group {parameters.total({g.name: 1 for g in free}):,.0f} parameters would be left."
        )
        if branches := branches_of(self.groups):
            rows = [[b.name, _replaced(b), *(_saved(cost, b) for cost in (parameters, macs))] for b in branches]
            yield Table(
                ["residual branch", "modules it replaces", "of all parameters", "of all MACs"], rows, left=(0, 1)
            )
            yield f"{len(branches)} residual branches can go under a budget with depth: true."


def _replaced(branch: Branch) -> str:
    names = list(branch.modules)
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _saved(cost: Parameters | MACs, branch: Branch) -> str:
    """What goes with a branch, of the whole."""
    return f"{1 - cost.total(absent(branch.modules)) / cost.dense:.1%}"


def _not_exact(group: ChannelGroup) -> str:
    more = f" and {len(group.inexact) - 1} more" if len(group.inexact) > 1 else ""
    return f"not exact: {group.inexact[0]}{more}" if group.inexact else ""


def _touched(group: ChannelGroup) -> str:
    names = sorted({slot.name for slot in group.slots if slot.role != "statistic"})
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _why_whole(group: ChannelGroup) -> str:
    """Why it is frozen, or that its channels are one unit, as where groups of layers do not nest."""
    together = max(slot.positions.shape[1] for slot in group.slots)
    if not group.frozen and group.num_channels == 1 and together > 1:
        return f"these {together} channels only go together"
    return "; ".join(group.frozen)


def list_groups(
    model: AnyModel, *, keep: Sequence[str] = (), allow_inexact: bool = False, depth: bool = False
) -> ListedGroups:
    """The channel groups of a model, opened as in `adasap.evaluate` (`adasap.trace_groups`).

    Args:
        model: A module, a `ModelSpec`, a builder's name, a model file or a recipe.
        keep: Patterns of modules whose channels stay.
        allow_inexact: Whether channels under a norm or mean over them may go, which is then marked.
        depth: Whether the residual branches that can go whole are looked for, too.
    """
    opened = open_any(model)
    groups = trace_groups(
        opened.model, opened.example_inputs, keep=tuple(keep), allow_inexact=allow_inexact, depth=depth
    )
    return ListedGroups(groups, opened)
