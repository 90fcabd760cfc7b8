"""Prune a network by a criterion of your own: any function of the model and its groups.

Run it with `python examples/own_criterion.py`; it takes a few seconds on a CPU and needs no data.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torchvision
from torch import Tensor, nn

from adasap.criteria import score
from adasap.groups import ChannelGroup, trace_groups
from adasap.pruning import Budget, MACs, Parameters, apply_plan_, select_channels


def distance_from_the_others(model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
    """Mean distance of a channel from the other channels of its group, over the group's mean distance.

    The idea of FPGM (arXiv:1811.00250): a channel that is close to many others can be replaced by them.
    """
    weights = dict(model.named_parameters())
    scores = {}
    for group in groups:
        rows = [
            weights[slot.name].detach().movedim(slot.dim, 0).flatten(1)[slot.positions].flatten(1)
            for slot in group.with_role("producer")
        ]
        joined = torch.cat(rows, dim=1)
        distances = torch.cdist(joined, joined).mean(1)
        scores[group.name] = distances / distances.mean().clamp_min(1e-12)
    return scores


def main() -> None:
    """Cuts a small ResNet to half of its multiply-accumulates and prints what went."""
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=10)
    images = torch.randn(2, 3, 64, 64)

    groups = trace_groups(model, images)
    macs, parameters = MACs(model, groups, images), Parameters(model, groups)
    scores = score(distance_from_the_others, model, groups)
    plan = select_channels(groups, scores, Budget(macs, kept=0.5), min_channels=8)
    apply_plan_(model, groups, plan)

    print(plan.summary())
    for cost in (macs, parameters):
        print(f"{cost.unit}: {cost.total(plan.widths()):,.0f} of {cost.dense:,.0f}")
    print("output:", tuple(model.eval()(images).shape))


if __name__ == "__main__":
    main()
