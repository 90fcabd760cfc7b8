"""How many residual branches go whole, and how much of the width then: tried on batches, at the same cost.

Channels and branches have no scale in common by which they could be ranked: a branch of many unimportant channels may
carry the network. So branches are ordered by the rise of the loss that taking each of them out alone makes, for each
unit of cost that it saves; none, the first, the first two and so on are taken out, the selection cuts the widths of
the rest to the limit, and the plan with the least loss is it. Norm statistics are renewed in every trial, which is
two forward passes over the batches. Width alone is the first candidate, so on these batches depth never does worse.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from adasap.criteria.protocol import Loss
from adasap.errors import ArgumentError, BudgetError
from adasap.groups.group import ChannelGroup, Scores, widths
from adasap.groups.past import branches_of, removed_before
from adasap.groups.stand_ins import Branch, Removed
from adasap.pruning.damage import LEAST_RISE, loss_after, mean_loss
from adasap.pruning.plan import PruningPlan, absent
from adasap.pruning.selection import Selection

PATIENCE = 3
"""Plans in a row that do worse than the best one, before no more branches are tried."""


def choose_depth(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    selection: Selection,
    scores: Scores,
    limit: float,
    batches: Sequence[Any],
    loss: Loss,
    *,
    average: Callable[[Tensor], Tensor] = lambda losses: losses,
) -> PruningPlan:
    """The plan of the least loss under a limit, some branches taken out whole, some channels of the others.

    Args:
        model: Left as it is.
        groups: Of the model, with its branches (`trace_groups(..., depth=True)`).
        selection: How widths are chosen.
        scores: Group name -> importance, float [C].
        limit: In the unit of the selection's cost.
        batches: Prepared batches on the model's device; some hundred images.
        loss: `loss(model, batch)`, the mean loss.
        average: Of losses, float64 [n], over processes.
    Raises:
        BudgetError: If no plan meets the limit.
        ArgumentError: For no batches.
    """
    if not batches:
        raise ArgumentError("batches are missing to try depth on; give a list of prepared batches")

    def loss_of(plan: PruningPlan) -> float:
        return float(average(torch.tensor([loss_after(model, groups, plan, batches, loss)], dtype=torch.float64)))

    whole = float(average(torch.tensor([mean_loss(model, batches, loss)], dtype=torch.float64)))
    rises = {b.name: loss_of(PruningPlan.of(groups, None, b.modules)) - whole for b in branches_of(groups)}
    removed: Removed = {}
    best, least, misses = None, float("inf"), 0
    refused: BudgetError | None = None
    for branch in (None, *by_price(groups, selection, rises)):
        removed = removed if branch is None else {**removed, **branch.modules}
        try:
            plan = selection.plan_without(removed, groups, scores, limit)
        except BudgetError as error:
            refused = refused or error
            continue
        found = loss_of(plan)
        if best is None or found < least:
            best, least, misses = plan, found, 0
        else:
            misses += 1
        if misses == PATIENCE or plan.widths() == PruningPlan.of(groups, None, removed).widths():
            break  # or the branches alone meet the limit, and more of them would only do more harm
    if best is None:
        assert refused is not None
        raise refused
    return best


def by_price(groups: Sequence[ChannelGroup], selection: Selection, rises: dict[str, float]) -> list[Branch]:
    """The branches by the rise of the loss for each unit of cost that they save, the cheapest first.

    Args:
        rises: Branch -> rise; a branch whose rise is not a number comes last.
    """
    present = {**widths(groups), **absent(removed_before(groups))}
    here = selection.cost.total(present)

    def price(branch: Branch) -> float:
        saved = here - selection.cost.total({**present, **absent(branch.modules)})
        rise = max(rises[branch.name], LEAST_RISE)
        return rise / saved if saved > 0 and rise == rise else float("inf")

    return sorted(branches_of(groups), key=price)
