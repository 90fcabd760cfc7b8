"""Integers that fall with the channels, heads as units, and weights that forward computes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.criteria import score
from adasap.errors import BudgetError
from adasap.groups import (
    ChannelGroup,
    check_cut,
    cut_,
    fingerprint,
    materialise_weights_,
    prunable,
    trace_groups,
)
from adasap.groups.assemble import assemble_groups
from adasap.groups.attribute_search import Adapter
from adasap.groups.trial import Trial
from adasap.groups.walk import Graphs, walk_model
from adasap.pruning import Budget, MACs, Parameters, select_channels
from groups_nets import CUTTABLE, IMAGES, Attention, Net, by_name, places, random_kept


def groups_of(net: nn.Module):
    return by_name(trace_groups(net, IMAGES))


def attributes(group) -> dict[str, list[int]]:
    return {extent.attribute: extent.counts.tolist() for extent in group.extents}


@pytest.mark.parametrize("name", ["Attention", "TableAttention", "MaskedAttention", "ChannelAttention"])
def test_a_head_is_a_unit_and_the_integers_of_heads_fall_with_it(name: str) -> None:
    group = groups_of(CUTTABLE[name]())["qkv"]
    assert group.num_channels == 4
    assert places(group, 1)["qkv.weight", 0] == [2, 3, 10, 11, 18, 19]
    assert places(group, 1)["proj.weight", 1] == [2, 3]
    assert attributes(group) == {"num_heads": [1] * 4, "attn_dim": [2] * 4}


@pytest.mark.parametrize("name", ["TableAttention", "MaskedAttention"])
def test_a_table_of_biases_loses_the_column_of_the_head(name: str) -> None:
    group = groups_of(CUTTABLE[name]())["qkv"]
    assert places(group, 3)["table", 1] == [3]


@pytest.mark.parametrize(("shape", "dim"), [((5, 4, 1), 1), ((5, 1, 4), 2)])
def test_the_heads_of_a_table_lie_along_its_long_axis(shape: tuple[int, ...], dim: int) -> None:
    net = CUTTABLE["MaskedAttention"]()
    net.table = nn.Parameter(torch.randn(shape))
    assert places(groups_of(net)["qkv"], 3)["table", dim] == [3]


def test_a_number_that_equals_the_heads_by_chance_stays() -> None:
    net = Attention()
    cut_(net, trace_groups(net, IMAGES), {"qkv": torch.tensor([0, 3])})
    assert (net.num_heads, net.attn_dim, net.head_dim, net.depth) == (2, 4, 2, 4)
    assert net(IMAGES).shape == (2, 5)


def test_what_one_module_needs_is_taken_for_others_of_its_class() -> None:
    class Block(Attention):
        def forward(self, x: Tensor) -> Tensor:
            return self.body(x)

    class Twice(Net):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = Block(), Block()

        def body(self, x: Tensor) -> Tensor:
            return self.first(x) + self.second(x)

    net = Twice()
    walked = walk_model(Graphs(net, IMAGES))
    groups, adapter = by_name(assemble_groups(walked.book)), Adapter(net, walked)
    trial, tried = Trial(net, tuple(groups.values()), IMAGES, walked), []

    def fits(group: ChannelGroup) -> bool:
        tried.append(group.name)
        return trial.fits(group, trial.misfit)

    assert attributes(adapter.adapted(groups["first.qkv"], fits)) == {"num_heads": [1] * 4, "attn_dim": [2] * 4}
    tried.clear()
    assert attributes(adapter.likened(groups["second.qkv"])) == {"num_heads": [1] * 4, "attn_dim": [2] * 4}
    assert attributes(adapter.adapted(groups["second.qkv"], fits)) == {"num_heads": [1] * 4, "attn_dim": [2] * 4}
    assert tried == ["second.qkv"]


@pytest.mark.parametrize("heads", [[1, 2], [2]])
def test_biases_that_an_earlier_forward_left_in_a_cache_are_computed_anew(heads: list[int]) -> None:
    from timm.models import levit

    class Levit(Net):
        def __init__(self) -> None:
            super().__init__()
            self.attention = levit.Attention(8, 4, num_heads=3, attn_ratio=2, resolution=8)
            nn.init.normal_(self.attention.attention_biases)

        def body(self, x: Tensor) -> Tensor:
            return self.attention(x.flatten(2).transpose(1, 2)).mean(1)

    net, images = Levit().eval(), torch.randn(2, 3, 8, 8)
    groups = trace_groups(net, IMAGES)
    net(images)
    cut_(net, groups, {"attention.qkv.linear": torch.tensor(heads)})
    early = net(images)
    net.train()  # which empties the cache, too
    assert torch.equal(early, net.eval()(images))


def test_heads_whose_width_is_worked_out_in_forward_are_frozen() -> None:
    class Swinlike(Attention):
        def body(self, x: Tensor) -> Tensor:
            self.head_dim = x.shape[1] // self.num_heads
            return super().body(x)

    group = groups_of(Swinlike())["qkv"]
    assert "does not fit a cut" in group.frozen[0]
    assert not group.extents


@pytest.mark.parametrize(
    ("name", "group", "expected"),
    [
        ("SplitByWidth", "wide", {"part": [1] * 4}),
        ("HalvedByWidth", "wide", {"part": [2] * 4}),
        ("SlicedByWidth", "stem", {"front": [1] * 8}),
        ("ShuffledGroups", "stem", {"parts": [1] * 4}),
    ],
)
def test_the_integer_that_sets_a_part_falls_with_the_channels(name: str, group: str, expected) -> None:
    assert attributes(groups_of(CUTTABLE[name]())[group]) == expected


def test_what_an_integer_does_not_set_stays_with_its_own_group() -> None:
    groups = groups_of(CUTTABLE["SlicedByWidth"]())
    assert places(groups["stem"], 2)["wide.weight", 0] == [2]
    assert [group.num_channels for group in groups.values()] == [8, 4, 5]
    assert not groups["wide"].extents


def test_the_integer_that_sets_where_a_part_starts_falls_with_the_channels_before_it() -> None:
    class Tail(Net):
        def __init__(self) -> None:
            super().__init__()
            self.front = 4
            self.wide = nn.Conv2d(8, 12, 1)

        def body(self, x: Tensor) -> Tensor:
            return x + self.wide(x)[:, self.front :]

    groups = groups_of(Tail())
    assert attributes(groups["wide"]) == {"front": [1] * 4}
    assert places(groups["stem"], 1)["wide.weight", 0] == [5]


def test_the_integer_that_sets_where_a_part_ends_falls_with_its_channels() -> None:
    class Start(Net):
        def __init__(self) -> None:
            super().__init__()
            self.front = 8
            self.wide = nn.Conv2d(8, 12, 1)

        def body(self, x: Tensor) -> Tensor:
            return x + self.wide(x)[:, : self.front]

    groups = groups_of(Start())
    assert attributes(groups["stem"]) == {"front": [1] * 8}
    assert not groups["stem"].frozen


@pytest.mark.parametrize("name", ["Attention", "SplitByWidth", "SlicedByWidth", "ShuffledGroups"])
def test_a_cut_model_is_traced_to_the_renumbered_groups(name: str) -> None:
    net = CUTTABLE[name]()
    groups = trace_groups(net, IMAGES)
    cut = cut_(net, groups, {group.name: torch.arange(1, group.num_channels) for group in prunable(groups)})
    assert fingerprint(trace_groups(net, IMAGES)) == fingerprint(cut)


def test_two_convolution_groups_may_fall_to_one() -> None:
    class Two(Net):
        width = 12

        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(8, 12, 3, groups=2)

        def body(self, x: Tensor) -> Tensor:
            return self.grouped(x)

    net = Two()
    groups = trace_groups(net, IMAGES)
    assert [group.name for group in prunable(groups)] == ["stem"]
    assert check_cut(net, groups, {"stem": torch.tensor([1])}, IMAGES).holds


def test_the_macs_of_attention_follow_the_heads() -> None:
    net = Attention()
    groups = trace_groups(net, IMAGES)
    macs = MACs(net, groups, IMAGES)
    assert not macs.constant_operators
    after = cut_(net, groups, {"qkv": torch.tensor([0, 3])})
    assert macs.total({"qkv": 2}) == MACs(net, after, IMAGES).dense < macs.dense


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, centred, self.bias, self.stride, self.padding, self.dilation, self.groups)


class Averaged(Standardised):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.avg_pool2d(x, 2))


class Activated(Standardised):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


class WithChild(Standardised):
    def __init__(self, *args: int, **options: int) -> None:
        super().__init__(*args, **options)
        self.after = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(super().forward(x))


class Given(nn.Conv2d):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, self.bias, padding=self.padding)


def standardised(layer: type[nn.Conv2d]) -> nn.Module:
    net = Net()
    net.norm = layer(8, 8, 3, stride=2, padding=1, groups=2)
    return net


def test_materialised_weights_give_the_same_outputs_and_can_be_cut() -> None:
    net, images = standardised(Standardised), torch.randn(2, 3, 8, 8)
    before = net(images)
    assert not prunable(trace_groups(net, IMAGES))
    assert materialise_weights_(net, IMAGES) == ("norm",)
    assert type(net.norm) is nn.Conv2d
    assert net.norm.training
    assert torch.allclose(net(images), before, atol=1e-6)
    groups = trace_groups(net, IMAGES)
    assert check_cut(net, groups, random_kept(groups), IMAGES).holds
    assert materialise_weights_(net, IMAGES) == ()


@pytest.mark.parametrize("layer", [Averaged, Activated, WithChild])
def test_a_layer_that_is_no_plain_convolution_stays_and_is_frozen_by_name(layer: type[nn.Conv2d]) -> None:
    net = standardised(layer)
    assert materialise_weights_(net, IMAGES) == ()
    reasons = [reason for group in trace_groups(net, IMAGES) for reason in group.frozen]
    assert "aten.conv2d.default in norm has a weight that is computed in forward" in reasons


def test_a_layer_whose_weight_depends_on_the_input_stays() -> None:
    class Dynamic(Net):
        def __init__(self) -> None:
            super().__init__()
            self.given = Given(8, 8, 3, padding=1)

        def body(self, x: Tensor) -> Tensor:
            return self.given(x, self.given.weight * x.mean())

    assert materialise_weights_(Dynamic(), IMAGES) == ()


def test_a_product_with_a_table_over_the_channels_is_frozen_by_name() -> None:
    class Mixed(Net):
        def body(self, x: Tensor) -> Tensor:
            return (x.flatten(2).transpose(1, 2) @ torch.ones(8, 8, dtype=x.dtype).triu()).mean(1)

    assert groups_of(Mixed())["stem"].frozen == ("aten.matmul.default in model mixes the channels",)


def test_a_product_with_a_parameter_on_the_left_is_frozen_by_name() -> None:
    class Mixed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(torch.randn(8, 8))

        def body(self, x: Tensor) -> Tensor:
            return (self.matrix @ x.flatten(2)).mean(2)

    reason = "aten.matmul.default in model is a product of another kind than activations, which has no rule"
    assert groups_of(Mixed())["stem"].frozen == (reason,)


def test_a_channel_picked_by_number_is_frozen_by_name() -> None:
    class Picked(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("order", torch.tensor([3, 1, 0, 2, 4, 7, 6, 5]))

        def body(self, x: Tensor) -> Tensor:
            return x[:, self.order]

    assert "aten.index.Tensor in model picks channels by number" in groups_of(Picked())["stem"].frozen


def test_a_pixel_picked_by_what_channels_say_freezes_them() -> None:
    class Pointed(Net):
        def body(self, x: Tensor) -> Tensor:
            return x.flatten(2)[:, :, x.mean((0, 2, 3)).long().clamp(0, 63)].mean(2)

    assert "aten.index.Tensor in model picks channels by number" in groups_of(Pointed())["stem"].frozen


def test_a_model_that_cannot_be_cut_is_refused_with_the_operators_name() -> None:
    class Sorted(Net):
        def body(self, x: Tensor) -> Tensor:
            return x.cumprod(dim=1)

    net = Sorted()
    groups = trace_groups(net, IMAGES)
    budget = Budget(Parameters(net, groups), kept=0.5)
    with pytest.raises(
        BudgetError, match=r"no group .* can lose channels .*aten\.cumprod\.default in model has no rule"
    ):
        select_channels(groups, score("l2", net, groups), budget)
