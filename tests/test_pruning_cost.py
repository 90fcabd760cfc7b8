"""The cost planned from widths equals the cost counted on the model that was really cut."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from adasap.errors import TraceError
from adasap.groups import trace_groups
from adasap.groups.group import ChannelGroup, Slot, prunable, widths
from adasap.pruning import MACs, Parameters, PruningPlan, apply_plan_
from criteria_nets import each, plain_net

IMAGES = torch.zeros(2, 3, 8, 8)


def counted_macs(model: nn.Module, images: Tensor) -> float:
    """Multiply-accumulates per image as torch's own counter sees them while the model runs."""
    model.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops() / 2 / len(images)


def counted_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def random_plan(groups: tuple[ChannelGroup, ...], seed: int = 0) -> PruningPlan:
    """Keeps a different share of each group, channels at random."""
    draw = torch.Generator().manual_seed(seed)
    kept = {}
    for group in prunable(groups):
        count = int(torch.randint(1, group.num_channels + 1, (1,), generator=draw))
        kept[group.name] = torch.randperm(group.num_channels, generator=draw)[:count]
    return PruningPlan.of(groups, kept)


def test_dense_costs_are_those_counted() -> None:
    net, groups = plain_net()
    assert Parameters(net, groups).dense == Parameters(net, groups).total({}) == counted_parameters(net)
    assert MACs(net, groups, IMAGES).dense == counted_macs(net, IMAGES)
    assert (Parameters.unit, MACs.unit) == ("parameters", "MACs")


@pytest.mark.parametrize("seed", range(3))
def test_planned_cost_equals_the_cut_models_cost(seed: int) -> None:
    net, groups = plain_net()
    parameters, macs = Parameters(net, groups), MACs(net, groups, IMAGES)
    plan = random_plan(groups, seed)
    after = apply_plan_(net, groups, plan)
    assert parameters.total(plan.widths()) == parameters.total(widths(after)) == counted_parameters(net)
    assert macs.total(plan.widths()) == macs.total(widths(after)) == counted_macs(net, IMAGES)


def test_one_cost_object_serves_all_events() -> None:
    net, groups = plain_net()
    macs = MACs(net, groups, IMAGES)
    for seed in range(3):
        groups = apply_plan_(net, groups, random_plan(groups, seed))
        assert macs.total(widths(groups)) == counted_macs(net, IMAGES)
        assert macs.total(widths(groups)) == MACs(net, groups, IMAGES).dense


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "resnext50_32x4d", "densenet", "convnext_tiny"])
def test_planned_cost_equals_the_cut_models_cost_on_real_nets(name: str) -> None:
    """A DenseNet of ten layers says what one of 121 does."""
    small_densenet = torchvision.models.DenseNet(growth_rate=8, block_config=(2, 4, 4), num_init_features=16)
    model = small_densenet if name == "densenet" else torchvision.models.get_model(name)
    images = torch.zeros(2, 3, 64, 64)
    groups = trace_groups(model, images)
    assert prunable(groups)
    parameters, macs = Parameters(model, groups), MACs(model, groups, images)
    assert macs.dense == counted_macs(model, images)
    assert not macs.constant_operators
    after = apply_plan_(model, groups, random_plan(groups))
    assert parameters.total(widths(after)) == counted_parameters(model) < parameters.dense
    assert macs.total(widths(after)) == counted_macs(model, images) < macs.dense


def test_a_group_that_is_not_named_is_whole_and_an_unknown_one_an_error() -> None:
    net, groups = plain_net()
    cost = Parameters(net, groups)
    assert cost.total({"conv1": 2}) == cost.total({"conv1": 2, "conv2": 4, "fc": 3})
    with pytest.raises(ValueError, match="'conv9'"):
        cost.total({"conv9": 2})


def test_channels_that_own_several_indices_on_both_axes_of_one_tensor() -> None:
    net = nn.Linear(5, 7, bias=False)
    places = torch.tensor([[0, 3], [1, 4]])
    group = ChannelGroup("g", 2, (Slot("weight", 0, "producer", places), Slot("weight", 1, "consumer", places)))
    assert Parameters(net, (group,)).total({"g": 1}) == (3 + 2) * (1 + 2)


def test_a_position_listed_in_two_slots_counts_once() -> None:
    net = nn.Linear(2, 4, bias=False)
    slots = (Slot("weight", 0, "producer", each(4)), Slot("weight", 0, "consumer", each(4)))
    assert Parameters(net, (ChannelGroup("g", 4, slots),)).total({"g": 1}) == 2


def test_shared_parameters_count_once_and_their_calls_each_time() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    net[2].weight = net[0].weight
    assert Parameters(net, ()).dense == 16 + 8
    assert MACs(net, (), torch.zeros(3, 4)).dense == 32


class Attention(nn.Module):
    """Linear layers around products of activations, with an operator that cannot be counted."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = nn.functional.scaled_dot_product_attention(q, k, v) * self.scale
        x = (q @ k.transpose(1, 2)).softmax(-1) @ x
        return torch.cdist(torch.einsum("bij,bkj->bik", x, v), x @ x.transpose(1, 2))


def test_products_of_activations_are_constants_and_the_rest_is_listed() -> None:
    net = Attention()
    macs = MACs(net, (), torch.zeros(2, 5, 8))
    product = 5 * 5 * 8
    assert macs.dense == 5 * 8 * 24 + 2 * product + 2 * product + product + product
    assert sum(macs.constant_operators.values()) == 6 * product
    assert any("scaled_dot_product_attention" in place for place in macs.constant_operators)
    assert macs.uncounted == {"cdist": 1, "mul": 1, "softmax": 1}


def test_an_activation_as_large_as_a_weight_is_none() -> None:
    class Square(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            return y @ x.transpose(0, 1)

    macs = MACs(Square(8, 8), (), torch.zeros(8, 8))
    assert macs.constant_operators == {"model: matmul": 64.0}


class Standardised(nn.Module):
    """A convolution whose weight is computed from a parameter, a transposed one and a bare matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3))
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2, groups=2)
        self.matrix = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self.up(nn.functional.conv2d(x, weight)).mean((2, 3)) @ self.matrix


def test_weights_that_are_computed_from_a_parameter_follow_its_width() -> None:
    net = Standardised()
    places = torch.arange(6).view(2, 3)
    slots = (Slot("weight", 0, "producer", places), Slot("up.weight", 0, "consumer", places))
    macs = MACs(net, (ChannelGroup("g", 2, slots),), IMAGES)
    assert macs.dense == counted_macs(net, IMAGES) == 36 * 6 * 27 + 36 * 6 * 2 * 4 + 20
    assert macs.total({"g": 1}) == 36 * 3 * 27 + 36 * 3 * 2 * 4 + 20
    assert not macs.constant_operators


def test_counting_leaves_the_model_alone() -> None:
    net, groups = plain_net()
    net.bn1.eval()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    MACs(net, groups, IMAGES)
    assert net.training
    assert not net.bn1.training
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())


def test_a_model_that_cannot_be_exported_is_named() -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    model = Branching()
    with pytest.raises(TraceError, match="cannot follow Branching on inputs of shape"):
        MACs(model, (), IMAGES)
    assert model.training
