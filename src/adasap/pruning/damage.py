"""What it costs a model, in its loss, that a group loses channels: measured, so that groups stand on one scale."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adasap.checks import require_within
from adasap.criteria.protocol import Loss
from adasap.errors import ArgumentError
from adasap.groups.exported import evaluating
from adasap.groups.fake_model import copied
from adasap.groups.group import ChannelGroup, Scores, prunable
from adasap.pruning.plan import PruningPlan
from adasap.pruning.select import checked_scores
from adasap.pruning.surgery import apply_plan_
from adasap.sharpness import recalibrate_

LEAST_RISE = 1e-4
"""Nats. A group whose loss falls short of it counts as harmless as this: a cut must not look like a gain by chance."""


@dataclass(frozen=True)
class Damage:
    """What one group's trial cut did.

    Attributes:
        rise: Of the mean loss, norm statistics renewed; at least `LEAST_RISE`.
        lost: The share of the group's summed importance that was cut, above 0.
    """

    rise: float
    lost: float

    def at(self, lost: Tensor) -> Tensor:
        """The rise when other shares of the importance are lost: by the square, as of a loss near its minimum.

        Example:
            >>> Damage(rise=0.2, lost=0.5).at(torch.tensor([0.0, 0.25, 0.5, 1.0]))
            tensor([0.0000, 0.0500, 0.2000, 0.8000])
        """
        return self.rise * (lost / self.lost) ** 2


def measured_damage(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    scores: Scores,
    batches: Sequence[Any],
    loss: Loss,
    *,
    share: float = 0.5,
    average: Callable[[Tensor], Tensor] = lambda rises: rises,
) -> dict[str, Damage]:
    """How much the loss rises when one group alone loses its least important channels, for each group by itself.

    Each trial cuts a copy of the model, renews its norm statistics on the batches and takes the mean loss over them.
    Importance of one group is not importance of another: the same norm of a filter is much in one layer and nothing in
    the next. The rise is in one unit for all of them.

    Args:
        model: Left as it is.
        groups: Of the model; what cannot be pruned is passed over.
        scores: Group name -> importance, float [C], not negative.
        batches: Prepared batches on the model's device; some hundred images.
        loss: `loss(model, batch)`, the mean loss.
        share: Of each group's channels that go in its trial, above 0 and below 1; at least one goes and one stays.
        average: Of the mean losses float64 [1 + groups], over processes.
    Returns:
        Group name -> its damage, for groups of two channels or more whose trial loses any importance.
    Raises:
        ArgumentError: For scores that do not fit, no batches, or a loss that is not finite.
    Example:
        >>> from torch import nn
        >>> from adasap.groups import trace_groups
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1)).requires_grad_(False)
        >>> groups = trace_groups(net, torch.zeros(1, 2))
        >>> for parameter in net.parameters():
        ...     _ = parameter.fill_(1.0)
        >>> scores, loss = {"0": torch.tensor([1.0, 3.0])}, lambda net, batch: (net(batch) - 7).abs().mean()
        >>> measured_damage(net, groups, scores, [torch.ones(4, 2)], loss)
        {'0': Damage(rise=3.0, lost=0.25)}
    """
    require_within(ArgumentError, 0.01, 0.99, share=share)
    if not batches:
        raise ArgumentError("batches are missing to measure damage on; give a list of prepared batches")
    free = [g for g in prunable(groups) if g.num_channels > 1]
    values = {g.name: checked_scores(scores, g) for g in free}
    trials = {g.name: values[g.name].argsort(descending=True, stable=True)[: _staying(g, share)] for g in free}
    lost = {name: lost_share(values[name][kept].sum(), values[name].sum()).item() for name, kept in trials.items()}
    found = [mean_loss(model, batches, loss)]
    for group in free:
        found.append(loss_after(model, groups, PruningPlan.of(groups, {group.name: trials[group.name]}), batches, loss))
    whole, *cut = average(torch.tensor(found, dtype=torch.float64)).tolist()
    if not all(map(math.isfinite, [whole, *cut])):
        worst = next((g.name for g, one in zip(free, cut, strict=True) if not math.isfinite(one)), "none of them")
        raise ArgumentError(f"the loss is not finite without half of group {worst!r}; look at the batches and the loss")
    return {
        g.name: Damage(max(one - whole, LEAST_RISE), lost[g.name])
        for g, one in zip(free, cut, strict=True)
        if lost[g.name] > 0
    }


def _staying(group: ChannelGroup, share: float) -> int:
    return min(group.num_channels - 1, max(1, round(group.num_channels * (1 - share))))


def loss_after(
    model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan, batches: Sequence[Any], loss: Loss
) -> float:
    """The mean loss over batches of a copy that is cut by a plan, its norm statistics renewed on them."""
    trial = copied(model)
    apply_plan_(trial, groups, plan)
    recalibrate_(trial, batches, forward=loss)
    return mean_loss(trial, batches, loss)


def mean_loss(model: nn.Module, batches: Sequence[Any], loss: Loss) -> float:
    """The mean loss over batches, in evaluation mode."""
    with evaluating(model), torch.no_grad():
        return float(torch.stack([loss(model, batch).double().cpu() for batch in batches]).mean())


def lost_share(kept: Tensor, whole: Tensor) -> Tensor:
    """The share of a group's importance that is lost, none of nothing.

    Example:
        >>> lost_share(torch.tensor([0.0, 3.0]), torch.tensor(4.0)), lost_share(torch.tensor(0.0), torch.tensor(0.0))
        (tensor([1.0000, 0.2500]), tensor(0.))
    """
    return torch.where(whole > 0, 1 - kept / whole, 0.0)
