"""What channels do when they go, against cut models and exact Hessians."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from adasap.analysis import Objective, channel_blocks, channel_removals, some_channels
from adasap.errors import RecipeError
from adasap.groups import ChannelGroup, trace_groups
from adasap.pruning import PruningPlan, apply_plan_
from analysis_nets import cross_entropy, exact_hessian, small_batches, small_net, small_objective

EXAMPLE = torch.zeros(1, 2, 5, 5, dtype=torch.float64)


def cut_loss(net: nn.Module, groups: tuple[ChannelGroup, ...], group: str, channel: int) -> float:
    cut = copy.deepcopy(net)
    size = next(g.num_channels for g in groups if g.name == group)
    apply_plan_(cut, groups, PruningPlan.of(groups, {group: [c for c in range(size) if c != channel]}))
    return Objective(cut, small_batches(), cross_entropy).losses().mean().item()


def test_damage_is_that_of_the_cut_model() -> None:
    objective = small_objective()
    groups = trace_groups(objective.model, EXAMPLE)
    seen: list[None] = []
    found = channel_removals(objective, groups, advance=lambda: seen.append(None))
    assert len(found.channels) == len(seen) == 4 + 3
    clean = objective.losses().mean().item()
    for (group, channel), damage in zip(found.channels, found.damage.tolist(), strict=True):
        assert damage == pytest.approx(cut_loss(objective.model, groups, group, channel) - clean, abs=1e-12)
        assert abs(damage) > 1e-6


@pytest.mark.parametrize("side", ["reading", "producing"])
def test_slope_and_curvature_are_those_of_the_exact_hessian(side: str) -> None:
    objective = small_objective()
    groups = trace_groups(objective.model, EXAMPLE)
    found = channel_removals(objective, groups, side=side)  # type: ignore[arg-type]
    differenced = channel_removals(objective, groups, side=side, method="finite differences")  # type: ignore[arg-type]
    hessian, weights = exact_hessian(objective), torch.cat([w.flatten() for w in objective.weights])
    gradients = [torch.cat([g.flatten() for g in objective.gradient(batch)[1]]) for batch in range(2)]
    gradient = torch.stack(gradients).mean(0)
    for place, (group, channel) in enumerate(found.channels):
        positions = _positions(objective, groups, group, channel, side)
        direction = torch.zeros_like(weights)
        direction[positions] = -weights[positions]
        assert found.slope[place].item() == pytest.approx((gradient @ direction).item(), abs=1e-12)
        assert found.curvature[place].item() == pytest.approx((direction @ hessian @ direction).item(), abs=1e-11)
        assert differenced.curvature[place].item() == pytest.approx(found.curvature[place].item(), rel=0.05, abs=1e-3)


def _positions(
    objective: Objective, groups: tuple[ChannelGroup, ...], group: str, channel: int, side: str
) -> list[int]:
    if side == "producing":
        return channel_blocks(objective, groups)[group][channel].tolist()
    start = 0
    for name, parameter in objective.parameters.items():
        places = torch.arange(start, start + parameter.numel()).view(parameter.shape)
        start += parameter.numel()
        if (group, name) == ("0", "3.weight"):
            return places[:, channel].flatten().tolist()
        if (group, name) == ("3", "7.weight"):
            return places[:, 4 * channel : 4 * channel + 4].flatten().tolist()
    raise AssertionError(group)


def test_a_loss_that_is_quadratic_in_the_reading_slices_is_predicted_exactly() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    batch = torch.randn(6, 3, dtype=torch.float64)
    objective = Objective(net, [batch], lambda model, inputs: (model(inputs) - 1).square().mean())
    found = channel_removals(objective, trace_groups(net, batch[:1]))
    assert torch.allclose(found.predicted, found.damage, atol=1e-12)
    assert found.damage.abs().max() > 1e-3


def test_a_groups_only_channel_cannot_go_and_weights_come_back() -> None:
    net = nn.Sequential(nn.Linear(3, 1), nn.Tanh(), nn.Linear(1, 2)).double()
    before = copy.deepcopy(net.state_dict())
    batch = torch.randn(6, 3, dtype=torch.float64)
    objective = Objective(net, [batch], lambda model, inputs: model(inputs).square().mean())
    groups = trace_groups(net, batch[:1])
    for method in ("double backward", "finite differences"):
        found = channel_removals(objective, groups, method=method)  # type: ignore[arg-type]
        assert found.damage.isnan().all()
        assert found.curvature.isfinite().all()
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_a_part_of_the_channels_is_drawn_by_seed() -> None:
    groups = trace_groups(small_net(), EXAMPLE)
    part = some_channels(groups, 3, seed=1)
    assert len(part) == 3
    assert part == some_channels(groups, 3, seed=1) != some_channels(groups, 3, seed=2)
    assert set(part) < set(some_channels(groups, None))
    found = channel_removals(small_objective(), groups, channels=part)
    whole = channel_removals(small_objective(), groups)
    places = [whole.channels.index(channel) for channel in part]
    assert found.damage.tolist() == whole.damage[places].tolist()
    assert found.curvature.tolist() == pytest.approx(whole.curvature[places].tolist())
    with pytest.raises(RecipeError, match="cannot go"):
        channel_removals(small_objective(), groups, channels=[("0", 4)])
    with pytest.raises(RecipeError, match="choose one of"):
        channel_removals(small_objective(), groups, side="both")  # type: ignore[arg-type]
