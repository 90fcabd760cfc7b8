"""Channel groups of small networks, written down by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.groups import check_cut, prunable, trace_groups, widths
from groups_nets import CUTTABLE, IMAGES, Depthwise, Net, by_name, places, random_kept

PRUNABLE: dict[str, dict[str, int]] = {
    "Net": {"stem": 8},
    "Residual": {"stem": 8, "inner": 6},
    "InPlaceResidual": {"stem": 8, "inner": 6},
    "Joined": {"stem": 8, "side": 6},
    "Depthwise": {"stem": 8},
    "Grouped": {"stem": 4},
    "SingleChannel": {"stem": 8, "squeeze": 1, "single": 1, "widen": 4},
    "SqueezeExcite": {"stem": 8, "reduce": 4},
    "SpatialAttention": {"stem": 8},
    "Flattened": {"stem": 8},
    "Shared": {"stem": 8, "shared": 6},
    "Gated": {"stem": 8, "both": 6},
    "HalvesApart": {"stem": 8, "both": 6, "a": 10},
    "Shuffled": {"stem": 4, "last": 5},
    "PixelShuffled": {"stem": 2, "last": 5},
    "Transposed": {"stem": 8, "up": 6},
    "Tokens": {"stem": 8, "patch": 6, "mlp.0": 10},
    "Resized": {"stem": 8},
    "Attention": {"qkv": 4},
    "TableAttention": {"qkv": 4},
    "MaskedAttention": {"qkv": 4},
    "ChannelAttention": {"qkv": 4},
    "SplitByWidth": {"stem": 8, "wide": 4, "way": 4},
    "HalvedByWidth": {"stem": 8, "wide": 4, "way": 4},
    "SlicedByWidth": {"stem": 8, "wide": 4},
    "ShuffledGroups": {"stem": 4},
    "MatrixProduct": {"stem": 8, "matrix": 6},
}


def groups_of(net: nn.Module):
    return by_name(trace_groups(net, IMAGES))


@pytest.mark.slow
@pytest.mark.parametrize("name", CUTTABLE)
def test_what_can_go_and_that_cutting_any_of_it_equals_masking_it(name: str) -> None:
    net = CUTTABLE[name]()
    groups = trace_groups(net, IMAGES)
    assert widths(prunable(groups)) == PRUNABLE[name]
    kept = random_kept(groups)
    assert kept
    proof = check_cut(net, groups, kept, IMAGES)
    assert proof.holds, str(proof)
    assert proof.control.keys() == kept.keys()


def test_a_plain_chain_has_every_place_of_a_channel() -> None:
    stem, head = trace_groups(Net(), IMAGES)
    assert places(stem, 3) == {
        ("stem.weight", 0): [3],
        ("stem.bias", 0): [3],
        ("norm.weight", 0): [3],
        ("norm.bias", 0): [3],
        ("norm.running_mean", 0): [3],
        ("norm.running_var", 0): [3],
        ("head.weight", 1): [3],
    }
    roles = ["producer", "shift", "scale", "shift", "statistic", "statistic", "consumer"]
    assert [slot.role for slot in stem.slots] == roles
    assert (head.name, head.is_output, head.frozen) == ("head", True, ("output of the model",))
    assert [slot.name for slot in head.slots] == ["head.weight", "head.bias"]


@pytest.mark.parametrize("name", ["Residual", "InPlaceResidual"])
def test_addition_ties_both_producers(name: str) -> None:
    groups = groups_of(CUTTABLE[name]())
    assert list(groups) == ["stem", "inner", "head"]
    assert [slot.name for slot in groups["stem"].with_role("producer")] == ["stem.weight", "outer.weight"]


def test_concatenation_keeps_groups_apart_and_shifts_positions() -> None:
    groups = groups_of(CUTTABLE["Joined"]())
    assert places(groups["stem"], 2)["head.weight", 1] == [2]
    assert places(groups["side"], 2)["head.weight", 1] == [10]


@pytest.mark.parametrize(("multiplier", "rows"), [(1, [2]), (3, [6, 7, 8])])
def test_depthwise_rows_are_producers_of_their_input_channel(multiplier: int, rows: list[int]) -> None:
    group = groups_of(Depthwise(multiplier))["stem"]
    assert places(group, 2)["depth.weight", 0] == rows
    assert ("depth.weight", 1) not in places(group, 2)
    assert {slot.name for slot in group.with_role("producer")} == {"stem.weight", "depth.weight"}


def test_a_grouped_convolution_loses_whole_groups() -> None:
    group = groups_of(CUTTABLE["Grouped"]())["stem"]
    assert group.num_channels == 4
    assert places(group, 1)["stem.weight", 0] == [2, 3]
    assert places(group, 1)["grouped.weight", 0] == [3, 4, 5]
    assert ("grouped.weight", 1) not in places(group, 1)


def test_one_channel_is_not_depthwise() -> None:
    groups = groups_of(CUTTABLE["SingleChannel"]())
    assert {"squeeze", "single", "widen"} <= groups.keys()
    assert ("single.weight", 1) in places(groups["squeeze"], 0)


def test_squeeze_and_excite_ties_the_gate_and_frees_the_hidden_width() -> None:
    groups = groups_of(CUTTABLE["SqueezeExcite"]())
    assert ("expand.weight", 0) in places(groups["stem"], 0)
    assert groups["reduce"].num_channels == 4
    assert not groups["reduce"].frozen


def test_a_channel_spread_over_others_stays_and_ties_nothing() -> None:
    groups = groups_of(CUTTABLE["SpatialAttention"]())
    assert groups["stem"].num_channels == 8
    assert not groups["stem"].frozen
    assert "spreads one channel over several" in groups["gate"].frozen[0]


def test_flattening_gives_each_channel_its_pixels() -> None:
    group = groups_of(CUTTABLE["Flattened"]())["stem"]
    assert places(group, 3)["head.weight", 1] == list(range(48, 64))


def test_a_module_called_twice_ties_what_it_reads() -> None:
    groups = groups_of(CUTTABLE["Shared"]())
    assert list(groups) == ["stem", "shared", "head"]
    assert places(groups["stem"], 5)["other.weight", 0] == [5]


@pytest.mark.parametrize("name", ["Gated", "HalvesApart"])
def test_equal_parts_are_tied(name: str) -> None:
    group = groups_of(CUTTABLE[name]())["both"]
    assert group.num_channels == 6
    assert places(group, 1)["both.weight", 0] == [1, 7]


def test_a_shuffle_ties_one_channel_of_each_half() -> None:
    group = groups_of(CUTTABLE["Shuffled"]())["stem"]
    assert places(group, 1)["stem.weight", 0] == [1, 5]
    assert places(group, 1)["last.weight", 1] == [2, 3]


def test_pixel_shuffle_makes_four_channels_one() -> None:
    group = groups_of(CUTTABLE["PixelShuffled"]())["stem"]
    assert places(group, 1)["stem.weight", 0] == [4, 5, 6, 7]


def test_transposed_convolutions_exchange_the_axes() -> None:
    groups = groups_of(CUTTABLE["Transposed"]())
    assert ("up.weight", 0) in places(groups["stem"], 0)
    assert places(groups["up"], 2)["up.weight", 1] == [2]
    assert [slot.role for slot in groups["up"].slots if slot.name == "slope.weight"] == ["scale"]


def test_parameters_used_as_tensors_are_producers() -> None:
    group = groups_of(CUTTABLE["Tokens"]())["patch"]
    names = {slot.name for slot in group.with_role("producer")}
    assert names == {"patch.weight", "token", "position", "mlp.2.weight", "gamma"}
    assert places(group, 4)["position", 2] == [4]


class With(Net):
    """The plain network with one function in its middle."""

    def __init__(self, function) -> None:
        super().__init__()
        self.middle = _Function(function)

    def body(self, x: Tensor) -> Tensor:
        return self.middle(x)


class _Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def pooled_along_channels(x: Tensor) -> Tensor:
    return F.avg_pool1d(x.flatten(2).transpose(1, 2), 3, 1, 1).transpose(1, 2).view(x.shape)


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: x.cumprod(dim=1), "aten.cumprod.default in middle has no rule"),
        (lambda x: x.sort(dim=1).values, "aten.sort.default in middle mixes the channels"),
        (lambda x: x.softmax(1), "mixes the channels"),
        (lambda x: x / x.sum(1, keepdim=True), "aten.sum.dim_IntList in middle mixes the channels"),
        (lambda x: F.group_norm(x, 1), "aten.group_norm.default in middle normalises over the channels"),
        (lambda x: F.group_norm(x, 2), "a number of groups does not fall with them"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "normalises over the channels"),
        (lambda x: x.roll(1, 1), "shifts along the channels"),
        (lambda x: F.pad(x, (0, 0, 0, 0, -1, 1)), "pads along the channels"),
        (lambda x: F.pad(x[:, :6], (0, 0, 0, 0, 1, 1)) + x, "creates a fixed number of channels"),
        (lambda x: x.view(2, 8, 64).view(2, 8, 8, 8), "does not fit a cut"),
        (lambda x: x * x[:, 5:6], "after a cut other channels meet at aten.slice.Tensor in middle"),
        (pooled_along_channels, "works along the channels"),
        (lambda x: F.linear(x, torch.ones(8, 8)), "has a weight that is computed in forward"),
    ],
)
def test_what_cannot_be_followed_freezes_by_name(function, sentence: str) -> None:
    groups = groups_of(With(function))
    reasons = [reason for name, group in groups.items() if not name.startswith("head") for reason in group.frozen]
    assert any(sentence in reason for reason in reasons), reasons
    for group in groups.values():
        assert all(slot.positions.shape[0] == group.num_channels for slot in group.slots)


def test_a_frozen_group_keeps_its_channel_axis() -> None:
    group = groups_of(With(lambda x: F.group_norm(x, 1)))["stem"]
    assert group.frozen
    assert group.num_channels == 8
    assert places(group, 3)["norm.weight", 0] == [3]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(2).softmax(-1).view(x.shape),
        lambda x: x - x.amax((2, 3), keepdim=True),
        lambda x: F.relu(F.instance_norm(x)),
        lambda x: x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        lambda x: torch.stack([x, x.flip(3)]).mean(0),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: x.unsqueeze(2).expand(-1, -1, 3, -1, -1).squeeze(2).sum(2),
        lambda x: torch.cat([part.abs() for part in x.split(4, dim=0)], 0).clamp(0, 3),
        lambda x: torch.cat([x[:, :, ::2], x[:, :, 1::2]], 2),
    ],
)
def test_what_leaves_channels_in_place_frees_them(function) -> None:
    net = With(function)
    groups = trace_groups(net, IMAGES)
    assert [group.name for group in prunable(groups)] == ["stem"]
    assert by_name(groups)["stem"].num_channels == 8
    assert check_cut(net, groups, random_kept(groups), IMAGES).holds


def test_a_fixed_slice_is_found_even_where_shapes_agree() -> None:
    """`x[:, 5:6]` still gives one channel when channel 2 goes, but another one."""
    net = With(lambda x: x * x[:, 5:6].mean((2, 3), keepdim=True))
    assert not prunable(trace_groups(net, IMAGES))


def test_a_fixed_prefix_of_channels_is_frozen_and_the_rest_is_free() -> None:
    class Sliced(Net):
        width = 10

        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(8, 10, 1)
            self.front = nn.Conv2d(4, 10, 1)

        def body(self, x: Tensor) -> Tensor:
            y = self.wide(x)
            return y * self.front(x[:, :4])

    net = Sliced()
    groups = trace_groups(net, IMAGES)
    assert [group.name for group in prunable(groups)] == ["stem:2", "wide"]
    assert places(by_name(groups)["stem:2"], 0)["stem.weight", 0] == [4]
    assert check_cut(net, groups, random_kept(groups), IMAGES).holds


def test_two_outputs_are_both_frozen() -> None:
    class TwoHeads(Net):
        def __init__(self) -> None:
            super().__init__()
            self.second = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = F.relu(self.norm(self.stem(x))).mean((2, 3))
            return {"classes": self.head(x), "boxes": self.second(x)}

    groups = groups_of(TwoHeads())
    assert [name for name, group in groups.items() if group.is_output] == ["head", "second"]
    assert not groups["stem"].frozen


def test_adding_the_input_freezes_but_does_not_tie() -> None:
    class ToImage(Net):
        def __init__(self) -> None:
            super().__init__()
            self.back = nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.back(self.stem(x)) + x

    group = groups_of(ToImage())["back"]
    assert group.frozen == ("input of the model", "output of the model")
    assert group.num_channels == 3


def test_writing_channels_into_a_view_freezes_them() -> None:
    def written(x: Tensor) -> Tensor:
        canvas = torch.zeros(2, 8, 8, 8)
        canvas[:, 0:8].copy_(x)
        return canvas

    assert "writes into a view" in " ".join(groups_of(With(written))["stem"].frozen)


def test_what_was_written_in_place_is_read_under_the_old_name() -> None:
    def accumulated(x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        total.add_(x)
        return total

    net = With(accumulated)
    groups = trace_groups(net, IMAGES)
    assert [group.name for group in prunable(groups)] == ["stem"]
    assert check_cut(net, groups, random_kept(groups), IMAGES).holds


def test_tied_parameters_have_one_name() -> None:
    class Tied(Net):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(8, 8, 1)
            self.second = nn.Conv2d(8, 8, 1)
            self.second.weight = self.first.weight

        def body(self, x: Tensor) -> Tensor:
            return self.second(F.relu(self.first(x)))

    net = Tied()
    groups = trace_groups(net, IMAGES)
    names = {slot.name for group in groups for slot in group.slots}
    assert "first.weight" in names
    assert "second.weight" not in names
    assert check_cut(net, groups, random_kept(groups), IMAGES).holds


def test_groups_with_the_same_first_producer_get_numbered_names() -> None:
    class Apart(Net):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.Conv2d(8, 12, 1)
            self.front, self.back = nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1)

        def body(self, x: Tensor) -> Tensor:
            y = self.wide(x)
            return self.front(y[:, :4]) + self.back(y[:, 4:])

    groups = groups_of(Apart())
    assert [name for name in groups if name.startswith("wide")] == ["wide", "wide:2"]
    assert groups["wide"].frozen  # its bound, 4, is a constant
    assert [groups["wide"].num_channels, groups["wide:2"].num_channels] == [4, 8]


def test_a_linear_layer_along_pixels_freezes_the_channels_before_it() -> None:
    class Mixer(Net):
        def __init__(self) -> None:
            super().__init__()
            self.pixels = nn.Linear(8, 8)

        def body(self, x: Tensor) -> Tensor:
            return self.pixels(x)

    group = groups_of(Mixer())["stem"]
    assert any("reads an axis that is not its channels' own" in reason for reason in group.frozen)
    assert group.num_channels == 8
