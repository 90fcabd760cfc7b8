"""Which channels go: the least important of the model, or of each class of groups, until the budget is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adasap.checks import whole_number
from adasap.errors import ArgumentError, BudgetError
from adasap.groups.group import ChannelGroup, Scores, fingerprint, prunable, widths
from adasap.pruning.budget import Budget
from adasap.pruning.cost import amount
from adasap.pruning.plan import PruningPlan


def select_channels(
    groups: Sequence[ChannelGroup],
    scores: Scores,
    budget: Budget,
    *,
    min_channels: int = 1,
    multiple_of: int = 1,
    floors: Mapping[str, int] | None = None,
    classes: Mapping[str, str] | None = None,
    dense: Mapping[str, int] | None = None,
) -> PruningPlan:
    """The smallest number of removals, lowest scores first, that meets the budget.

    By default all channels stand in one ranking. With `classes` those of a class of groups do, and every class
    loses the same fraction of its channels, to within one removal, as long as floors allow.

    With `multiple_of` m > 1 channels go in bundles: a group first falls to the next multiple of m, then by m
    at a time; the lowest channels of a group form its first bundle, and a bundle ranks by its mean score. A
    group stays whole or ends at a multiple of m. Equal scores go in the order of groups, then of channels.

    Args:
        groups: The model's groups; frozen ones stay whole.
        scores: Group name -> importance, float [C], for at least every prunable group.
        budget: The cost to reach, counted with its true cost at every width that is tried.
        min_channels: Every group keeps at least so many (or all, if it has fewer).
        multiple_of: Width step.
        floors: Group name -> channels that this group keeps at least, beside `min_channels`.
        classes: Group name -> class, from `ranking_classes`, for at least every prunable group.
        dense: Group name -> channels before all cuts, of which the classes' fractions are taken; the present
            ones by default. Without it many small cuts spare narrow groups, which lose no part of a channel.
    Returns:
        The plan, in the groups' indices; it keeps everything if the budget is met already.
    Raises:
        BudgetError: If the budget cannot be met.
        ArgumentError: If scores are missing, not finite or of the wrong length, or an option is out of range.
    """
    candidates = prunable(groups)
    least = least_widths(candidates, min_channels, multiple_of, floors or {})
    ranked = [_rank(group, checked_scores(scores, group), least[group.name], multiple_of) for group in candidates]
    ranking = _merge(ranked if classes is None else _by_fraction(candidates, ranked, classes, dense or {}))
    present = widths(groups)

    def widths_after(removals: int) -> dict[str, int]:
        gone = ranking.channels_gone(removals)
        return {**present, **{g.name: g.num_channels - n for g, n in zip(candidates, gone, strict=True)}}

    removals = _fewest_removals(lambda n: budget.cost.total(widths_after(n)), len(ranking.group), budget.limit)
    if removals is None:
        smallest = widths_after(len(ranking.group))
        raise _impossible(
            budget,
            smallest,
            groups,
            min_channels=min_channels,
            multiple_of=multiple_of,
            floors=floors or {},
        )
    gone = ranking.channels_gone(removals)
    return PruningPlan(
        kept={
            group.name: rank.order[n:].sort().values for group, rank, n in zip(candidates, ranked, gone, strict=True)
        },
        num_channels={group.name: group.num_channels for group in candidates},
        fingerprint=fingerprint(groups),
    )


@dataclass(frozen=True, eq=False)
class _Rank:
    """One group: its channels by rising score, and the bundles in which they go."""

    order: Tensor  # int64 [C]
    sizes: Tensor  # int64 [bundles]: channels in each
    values: Tensor  # float64 [bundles]: what it ranks by, the lowest first; rising


@dataclass(frozen=True, eq=False)
class _Ranking:
    """All bundles of the model by rising value."""

    group: Tensor  # int64 [bundles]
    sizes: Tensor  # int64 [bundles]
    num_groups: int

    def channels_gone(self, removals: int) -> list[int]:
        """Channels each group has lost after the first `removals` bundles."""
        gone = torch.zeros(self.num_groups, dtype=torch.int64)
        gone.index_add_(0, self.group[:removals], self.sizes[:removals])
        counts: list[int] = gone.tolist()
        return counts


def least_widths(
    groups: Sequence[ChannelGroup], min_channels: int, multiple_of: int, floors: Mapping[str, int]
) -> dict[str, int]:
    whole_number(min_channels, "min_channels", least=1)
    whole_number(multiple_of, "multiple_of", least=1)
    if unknown := floors.keys() - {g.name for g in groups}:
        raise ArgumentError(f"floors name {min(unknown)!r}, which is no group that can be pruned")
    return {g.name: min(g.num_channels, max(min_channels, floors.get(g.name, 1))) for g in groups}


def checked_scores(scores: Scores, group: ChannelGroup) -> Tensor:
    if not isinstance(scores, Mapping) or not isinstance(scores.get(group.name, torch.empty(0)), Tensor):
        raise ArgumentError(
            "scores map the name of each group to a tensor; adasap.score(criterion, model, groups) does"
        )
    if group.name not in scores:
        raise ArgumentError(f"no scores for group {group.name!r}, which can be pruned: score all groups of the model")
    values = scores[group.name].detach().to("cpu", torch.float64)
    if values.shape != (group.num_channels,):
        raise ArgumentError(
            f"scores of group {group.name!r} have shape {tuple(values.shape)}, wanted ({group.num_channels},)"
        )
    if not bool(values.isfinite().all()):
        bad = int((~values.isfinite()).sum())
        raise ArgumentError(
            f"scores of group {group.name!r} are not finite for {bad} of {group.num_channels} channels: "
            f"look for weights or gradients that overflowed"
        )
    return values


def _rank(group: ChannelGroup, scores: Tensor, least: int, multiple_of: int) -> _Rank:
    order = scores.argsort(stable=True)
    first = group.num_channels % multiple_of or multiple_of
    bundles = max(0, (group.num_channels - first - least) // multiple_of + 1)
    sizes = torch.full((bundles,), multiple_of)
    sizes[:1] = first
    rising = scores[order]
    rest = rising[first : first + max(0, bundles - 1) * multiple_of].view(-1, multiple_of)
    values = torch.cat([rising[:first].mean().view(1), rest.mean(1)])[:bundles]
    return _Rank(order, sizes, values.cummax(0).values)  # cummax: the means may fall by a rounding error


def _by_fraction(
    candidates: Sequence[ChannelGroup],
    ranked: Sequence[_Rank],
    classes: Mapping[str, str],
    dense: Mapping[str, int],
) -> list[_Rank]:
    """The same bundles, each valued by the fraction of its class that is gone after it."""
    members: dict[str, list[int]] = {}
    for index, group in enumerate(candidates):
        if group.name not in classes:
            raise ArgumentError(
                f"no class for group {group.name!r}, which can be pruned: class all groups of the model"
            )
        members.setdefault(classes[group.name], []).append(index)
    result = list(ranked)
    for indices in members.values():
        whole = sum(dense.get(candidates[i].name, candidates[i].num_channels) for i in indices)
        present = sum(candidates[i].num_channels for i in indices)
        order = torch.cat([ranked[i].values for i in indices]).argsort(stable=True)
        gone = whole - present + torch.cat([ranked[i].sizes for i in indices])[order].cumsum(0)
        fractions = torch.empty(len(order), dtype=torch.float64).index_copy_(0, order, gone.double() / whole)
        for i, values in zip(indices, torch.split(fractions, [len(ranked[i].sizes) for i in indices]), strict=True):
            result[i] = replace(ranked[i], values=values)
    return result


def _merge(ranked: Sequence[_Rank]) -> _Ranking:
    empty = torch.empty(0, dtype=torch.int64)
    owner = torch.cat([torch.full_like(rank.sizes, i) for i, rank in enumerate(ranked)] or [empty])
    sizes = torch.cat([rank.sizes for rank in ranked] or [empty])
    values = torch.cat([rank.values for rank in ranked] or [empty])
    order = values.argsort(stable=True)
    return _Ranking(owner[order], sizes[order], len(ranked))


def _fewest_removals(cost_after: Callable[[int], float], most: int, limit: float) -> int | None:
    """The smallest n with cost_after(n) <= limit, for a falling cost; None if even `most` is not enough."""
    if cost_after(0) <= limit:
        return 0
    if cost_after(most) > limit:
        return None
    too_few, enough = 0, most
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        if cost_after(middle) <= limit:
            enough = middle
        else:
            too_few = middle
    return enough


def _impossible(
    budget: Budget,
    smallest: Mapping[str, int],
    groups: Sequence[ChannelGroup],
    *,
    min_channels: int,
    multiple_of: int,
    floors: Mapping[str, int],
) -> BudgetError:
    cost, unit, candidates = budget.cost, budget.cost.unit, prunable(groups)
    if not candidates:
        return BudgetError(
            f"cannot reach {amount(budget.limit)} of {amount(cost.dense)} {unit}: no group of the model can lose "
            f"channels{_frozen_because(groups)}; trace a model without these operators, or prune the part before them"
        )
    whole = f" and floors in {len(floors)} of them" if floors else ""
    step = f" at multiples of {multiple_of}" if multiple_of > 1 else ""
    options = " or ".join(
        ["min_channels"] + (["multiple_of"] if multiple_of > 1 else []) + (["the floors"] if floors else [])
    )
    return BudgetError(
        f"cannot reach {amount(budget.limit)} {unit}: keeping min_channels={min_channels}{step} in each of "
        f"{len(candidates)} groups{whole} still costs {amount(cost.total(smallest))} of {amount(cost.dense)}"
        f"{_frozen_because(groups)}{_bound_together(candidates)}; raise the budget or lower {options}"
        f"{_percentage(budget.limit)}"
    )


def _bound_together(groups: Sequence[ChannelGroup]) -> str:
    """Groups of one unit of several channels, which could only go as a whole; empty if there are none."""
    sizes = {g.name: max(slot.positions.shape[1] for slot in g.slots) for g in groups if g.num_channels == 1}
    bound = [f"these {size} channels of {name} can only go together" for name, size in sizes.items() if size > 1]
    more = f", and {len(bound) - 3} more such groups" if len(bound) > 3 else ""
    return f"; {'; '.join(bound[:3])}{more}, so they stay" if bound else ""


def _percentage(limit: float) -> str:
    return f"; a fraction is at most 1: {limit:g} % is {limit / 100:g}" if 1 < limit <= 100 else ""


def _frozen_because(groups: Sequence[ChannelGroup]) -> str:
    """How many groups are frozen beside outputs, and the first few reasons; empty if none are."""
    reasons = [group.frozen for group in groups if group.frozen and not group.is_output]
    distinct = list(dict.fromkeys(sentence for sentences in reasons for sentence in sentences))
    more = f" and {len(distinct) - 3} more reasons" if len(distinct) > 3 else ""
    return f" ({len(reasons)} frozen: {'; '.join(distinct[:3])}{more})" if reasons else ""
