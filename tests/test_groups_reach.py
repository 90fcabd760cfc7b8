"""Operators that tie channels in ways of their own: each in a small network, with the proof, and with a wrong rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.experiments.list_groups import list_groups
from adasap.experiments.name_models import open_any
from adasap.export.program import batched_program
from adasap.groups import check_cut, cut_, prunable, trace_groups, widths
from adasap.groups.exported import export_program
from adasap.groups.inputs import as_arguments
from adasap.groups.labels import varying
from adasap.groups.operators import (
    LabelledCall,
    convolution,
    einsum,
    group_norm,
    movement,
    reduction,
    transposed_convolution,
    unary,
)
from adasap.groups.operators.einsum import Equation
from adasap.groups.operators.movement import padding
from adasap.groups.operators.operator import OPERATORS, Rule
from adasap.groups.regions import REGIONS
from adasap.groups.trial import MISFIT
from adasap.profiling import layer_calls
from adasap.pruning import MACs
from groups_nets import IMAGES, Net, by_name, places, random_kept


class Strided(Net):
    """Every other channel goes another way."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.even, self.odd = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.even(x[:, ::2]) * self.odd(x[:, 1::2])


class With(Net):
    """The plain network with one function in its middle."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def body(self, x: Tensor) -> Tensor:
        return self.function(x)


class GroupedTransposed(Net):
    """Three channels to each group of two: whole groups go."""

    width = 12

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 12, 2, stride=2, groups=4)

    def body(self, x: Tensor) -> Tensor:
        return self.up(x)


class DepthwiseTransposed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(8, 8, 2, stride=2, groups=8)

    def body(self, x: Tensor) -> Tensor:
        return self.up(x)


class PixelUnshuffled(Net):
    """Each channel becomes four, of a pixel in four each."""

    width = 5

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(32, 5, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.last(F.pixel_unshuffle(x, 2))


class GroupNormed(Net):
    """Norms over groups, of several channels and of one: whole groups go; counted by modules and by an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = 4
        self.other = nn.Conv2d(8, 8, 1)
        self.of_two, self.of_one, self.bare = nn.GroupNorm(4, 8), nn.GroupNorm(8, 8), nn.GroupNorm(4, 8, affine=False)

    def body(self, x: Tensor) -> Tensor:
        return self.bare(self.of_two(x)) + F.group_norm(self.of_two(self.of_one(self.other(x))), self.parts)


class ChannelwiseNormed(Net):
    def __init__(self) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(8, 8)

    def body(self, x: Tensor) -> Tensor:
        return self.group_norm(x)


class Einsums(Net):
    """A linear layer, a scale, a gate, a sum and a table of positions by their equations."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.scale = nn.Parameter(torch.randn(8, 6)), nn.Parameter(torch.randn(8))
        self.register_buffer("table", torch.rand(8, 8))

    def body(self, x: Tensor) -> Tensor:
        x = torch.einsum("bchw,c -> bchw", x, self.scale)
        x = torch.einsum("bchw,bc->bhwc", x, x.mean((2, 3)).sigmoid())
        x = torch.einsum("b...c,cd -> b...d", x, self.matrix)
        return torch.einsum("bdhv->bd", torch.einsum("bhwd,wv->bdhv", x, self.table))


class Tied(Net):
    """Decoders with the weights of their encoders: the axis that writes a code reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.short = nn.Conv2d(8, 6, 3, padding=1), nn.Linear(8, 5)

    def body(self, x: Tensor) -> Tensor:
        x = F.conv_transpose2d(F.gelu(self.code(x)), self.code.weight, padding=1).mean((2, 3))
        x = F.linear(F.gelu(self.short(x)), self.short.weight.t())
        return F.gelu(self.short(x)) @ self.short.weight


class SelectiveKernel(nn.Module):
    """Two ways for the halves of the input, weighed by each other (SKNet); its output is as wide as it by chance."""

    def __init__(self) -> None:
        super().__init__()
        self.in_channels = 8
        self.ways = nn.ModuleList(nn.Conv2d(4, 8, 1) for _ in range(2))
        self.weigh, self.out = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        halves = x.split(self.in_channels // 2, 1)
        y = torch.stack([way(half) for way, half in zip(self.ways, halves, strict=True)], 1)
        weights = self.weigh(y.sum(1).mean((2, 3), keepdim=True))
        return x + self.out((y * weights.view(len(x), 2, -1, 1, 1).softmax(1)).sum(1))


class Selective(Net):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = SelectiveKernel(), SelectiveKernel()

    def body(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class SplitAttention(Net):
    """The two groups of a convolution are weighed by each other and summed (ResNeSt): channel c of both is one."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.radix = 2
        self.wide = nn.Conv2d(8, 12, 3, padding=1, groups=2)
        self.reduce, self.weigh = nn.Conv2d(6, 4, 1), nn.Conv2d(4, 12, 1)

    def body(self, x: Tensor) -> Tensor:
        y = self.wide(x).relu()
        y = y.reshape(len(y), self.radix, y.shape[1] // self.radix, *y.shape[2:])
        weights = self.weigh(self.reduce(y.sum(1).mean((2, 3), keepdim=True)).relu())
        weights = weights.view(len(y), 1, self.radix, -1).transpose(1, 2).softmax(1).reshape(len(y), -1)
        return (y * weights.reshape(len(y), self.radix, -1, 1, 1)).sum(1)


class ShuffleUnit(Net):
    """A shuffle between grouped convolutions (ShuffleNet v1): every group reads every other."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(8, 12, 1, groups=2), nn.Conv2d(12, 8, 1, groups=2)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12)

    def body(self, x: Tensor) -> Tensor:
        return x + self.last(self.depth(F.channel_shuffle(self.first(x).relu(), 2)))


class NotNesting(Net):
    """Groups of four, read in groups of three."""

    width = 12

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(8, 12, 1)
        self.fours, self.threes = nn.Conv2d(12, 12, 1, groups=3), nn.Conv2d(12, 12, 1, groups=4)

    def body(self, x: Tensor) -> Tensor:
        return self.threes(self.fours(self.wide(x)))


class Regions(Net):
    """Layers under other modes than their surroundings, one region inside another; the last gives the output."""

    width = 6

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.last = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 6, 1)

    def body(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            x = self.wide(x).relu()
            with torch.enable_grad():
                x, y = self.last(x), x.mean((2, 3))
        return x * self.last(y[..., None, None]).sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return x * 2


class PaddedHeads(Net):
    """A one beside each head, which counts what is summed (linear attention as of EfficientViT)."""

    width = 12

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(8, 36, 1)

    def body(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).reshape(len(x), -1, 9, x.shape[-1] ** 2).transpose(-1, -2).chunk(3, -1)
        v = F.pad(v, (0, 1), value=1.0)
        y = q.relu() @ (k.relu().transpose(-1, -2) @ v)
        return (y[..., :-1] / (y[..., -1:] + 1)).transpose(-1, -2).reshape(len(x), -1, *x.shape[2:])


PRUNABLE: dict[type[nn.Module], dict[str, int]] = {
    Strided: {"stem": 4, "even": 6},
    GroupedTransposed: {"stem": 4},
    DepthwiseTransposed: {"stem": 8},
    PixelUnshuffled: {"stem": 8, "last": 5},
    GroupNormed: {"stem": 4},
    ChannelwiseNormed: {"stem": 8},
    Einsums: {"stem": 8, "matrix": 6},
    SplitAttention: {"stem": 4, "wide": 6, "reduce": 4},
    ShuffleUnit: {"stem": 4, "first": 3},
    NotNesting: {"stem": 8, "wide": 1, "threes": 3},
    Selective: {"stem": 4, "first.ways.0": 8, "second.ways.0": 8},
    Tied: {"stem": 8, "code": 6, "short": 5},
    Regions: {"stem": 8, "wide": 12, "last": 6},
    PaddedHeads: {"stem": 8, "qkv": 4},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", PRUNABLE, ids=lambda kind: kind.__name__)
def test_what_can_go_is_proven(kind: type[nn.Module]) -> None:
    net = kind()
    groups = trace_groups(net, IMAGES)
    assert widths(prunable(groups)) == PRUNABLE[kind]
    proof = check_cut(net, groups, random_kept(groups), IMAGES)
    assert proof.holds, str(proof)


def shifted(rule: Rule, axis: int | None = None) -> Rule:
    """The rule with every channel of the result in its neighbour's place, on the last axis with channels or this."""

    def wrong(call: LabelledCall) -> Tensor:
        labels = rule(call)
        return labels.roll(1, max(varying(labels), default=0) if axis is None else axis)

    return wrong


WRONG: list[tuple[type[nn.Module], str, Rule]] = [
    (Strided, "slice", movement),
    (GroupedTransposed, "conv_transpose2d", shifted(transposed_convolution)),
    (DepthwiseTransposed, "conv_transpose2d", shifted(transposed_convolution)),
    (PixelUnshuffled, "pixel_unshuffle", shifted(movement)),
    (GroupNormed, "group_norm", unary),
    (ChannelwiseNormed, "group_norm", shifted(group_norm)),
    (Einsums, "einsum", shifted(einsum)),
    (Tied, "conv_transpose2d", shifted(transposed_convolution)),
    (Tied, "t", movement),
    (Selective, "sum", shifted(reduction)),
    (SplitAttention, "conv2d", shifted(convolution)),
    (ShuffleUnit, "channel_shuffle", unary),
    (Regions, "conv2d", shifted(convolution)),
    (PaddedHeads, "pad", shifted(padding, 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "operator", "rule"), WRONG, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_rule_is_found_out(
    kind: type[nn.Module], operator: str, rule: Rule, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The trial cut freezes what the rule binds wrongly, or the proof fails."""
    monkeypatch.setattr(OPERATORS.get(operator), "rule", rule)
    net = kind()
    groups = trace_groups(net, IMAGES)
    found = widths(prunable(groups)).items() >= PRUNABLE[kind].items()
    assert not found or not check_cut(net, groups, random_kept(groups), IMAGES).holds


def test_calls_of_a_region_are_counted_where_they_stand() -> None:
    net = Regions()
    groups = trace_groups(net, IMAGES)
    macs = MACs(net, groups, IMAGES)
    assert not macs.uncounted.keys() & REGIONS
    assert {"wide", "last"} <= {call.where for call in layer_calls(net, groups, IMAGES)}
    after = cut_(net, groups, {"wide": torch.arange(5), "last": torch.arange(3)})
    assert macs.total({"wide": 5, "last": 3}) == MACs(net, after, IMAGES).dense < macs.dense


def test_a_program_that_is_to_run_keeps_its_regions() -> None:
    def regions(program: torch.export.ExportedProgram) -> int:
        return sum(getattr(node.target, "__name__", "") in REGIONS for node in program.graph.nodes)

    net, arguments = Regions().eval(), as_arguments(torch.randn(2, 3, 8, 8))
    assert regions(batched_program(net, arguments))
    read = export_program(net, arguments)
    assert not regions(read)
    assert torch.equal(read.module()(*arguments.args), net(*arguments.args))


def test_what_is_created_beside_a_part_of_a_head_stays() -> None:
    class Added(Net):
        def __init__(self) -> None:
            super().__init__()
            self.short = nn.Conv2d(8, 6, 1)

        def body(self, x: Tensor) -> Tensor:
            short = self.short(x).unflatten(1, (2, 3))
            return (F.pad(short, (0, 0, 0, 0, 0, 1)) + x.unflatten(1, (2, 4))).flatten(1, 2)

    groups = by_name(trace_groups(Added(), IMAGES))
    frozen = [group for group in groups.values() if any("creates a fixed number" in reason for reason in group.frozen)]
    assert [places(group, 0)["stem.weight", 0] for group in frozen] == [[3, 7]]


def test_channels_that_do_not_fill_a_stride_stay() -> None:
    net = Strided()
    net.stem, net.norm, net.even = nn.Conv2d(3, 9, 1), nn.BatchNorm2d(9), nn.Conv2d(5, 6, 1)
    groups = by_name(trace_groups(net, IMAGES))
    assert places(groups["stem"], 1)["stem.weight", 0] == [2, 3]
    assert "takes every channel in 2, and 9 are not a multiple of that" in groups["stem:2"].frozen[0]


def test_groups_of_a_norm_fall_with_their_channels() -> None:
    net = GroupNormed()
    groups = trace_groups(net, IMAGES)
    cut_(net, groups, {"stem": torch.tensor([0, 2, 3])})
    assert (net.of_two.num_groups, net.of_two.num_channels, net.of_one.num_groups) == (3, 6, 6)
    assert (net.bare.num_groups, net.parts) == (3, 3)
    assert net(IMAGES).shape == (2, 5)


def test_a_cut_across_groups_keeps_their_number() -> None:
    net = SplitAttention()
    groups = trace_groups(net, IMAGES)
    assert places(by_name(groups)["wide"], 1)["wide.weight", 0] == [1, 7]
    stem = places(by_name(groups)["stem"], 1)
    assert (stem["stem.weight", 0], stem["wide.weight", 1]) == ([1, 5], [1])
    at = {"stem": 3, "wide": 5, "reduce": 4}
    (wide,) = [call for call in layer_calls(net, groups, IMAGES) if call.where == "wide"]
    assert sorted(width.at(at) for width in wide.widths) == [
        3,
        10,
    ]  # of its input, which is read by both groups, and its own
    macs = MACs(net, groups, IMAGES).total(at)
    cut_(net, groups, {name: torch.arange(width) for name, width in at.items()})
    assert (net.wide.groups, net.wide.in_channels, net.wide.out_channels) == (2, 6, 10)
    assert MACs(net, (), IMAGES).dense == macs


def test_groups_that_do_not_nest_are_named() -> None:
    (shown, *_) = list_groups(open_any(NotNesting(), size=8)).parts()
    assert [row[3] for row in shown.rows] == ["", "these 12 channels only go together", "", "output of the model"]


def test_an_axis_that_writes_and_reads_has_both_roles() -> None:
    group = by_name(trace_groups(Tied(), IMAGES))["short"]
    assert [(slot.name, slot.dim, slot.role) for slot in group.slots] == [
        ("short.weight", 0, "producer"),
        ("short.bias", 0, "shift"),
        ("short.weight", 0, "consumer"),
    ]


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x: torch.einsum("bchw,bdhw->bchw", x, x), "with 'bchw,bdhw->bchw' mixes the channels"),
        (lambda x: torch.einsum("bchw,ce->behw", x, torch.ones(8, 8)), "mixes the channels"),
        (lambda x: torch.einsum("bcii->bci", x)[..., None], "with 'bcii->bci' has no rule"),
        (lambda x: torch.einsum("bchw->bh", x)[:, :, None, None], "with 'bchw->bh' mixes the channels"),
    ],
)
def test_an_equation_that_mixes_channels_freezes_them_by_name(
    function: Callable[[Tensor], Tensor], sentence: str
) -> None:
    (stem, *_) = trace_groups(With(function), IMAGES)
    assert any(sentence in reason for reason in stem.frozen), stem.frozen


@pytest.mark.parametrize(
    ("text", "ranks", "read"),
    [
        ("bnd,dhk->bnhk", [3, 3], Equation(("bnd", "dhk"), "bnhk")),
        ("i j, jk", [2, 2], Equation(("ij", "jk"), "ik")),
        ("b...,...->...b", [3, 1], Equation(("bAB", "B"), "ABb")),
        ("ii", [2], None),
    ],
)
def test_equations_are_read_as_torch_reads_them(text: str, ranks: list[int], read: Equation | None) -> None:
    assert Equation.of(text, ranks) == read
    if read is not None:
        operands = [torch.rand([2 + ord(letter) % 3 for letter in letters]) for letters in read.operands]
        written = ",".join(read.operands) + "->" + read.result
        assert torch.equal(torch.einsum(text, operands), torch.einsum(written, operands))


class Reduced(nn.Module):
    """Takes the number of channels that a layer makes from what the layer reads, as SegFormer's sequence reduction."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.stem, self.reduction = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 2, stride=2)
        self.mixed, self.head = nn.Conv2d(width, width, 1), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mixed(self.stem(x).relu()).relu()
        batch, channels = x.shape[:2]
        return self.head(self.reduction(x).reshape(batch, channels, -1).relu().mean(-1))


def test_a_layer_that_is_told_to_make_what_it_reads_loses_the_same_channels() -> None:
    groups = by_name(trace_groups(Reduced().eval(), IMAGES))
    assert {name: group.num_channels for name, group in groups.items()} == {"stem": 12, "mixed": 12, "head": 5}
    tied = groups["mixed"]
    assert not tied.frozen
    assert {(slot.name, slot.dim, slot.role) for slot in tied.slots} >= {
        ("mixed.weight", 0, "producer"),
        ("reduction.weight", 0, "producer"),
        ("reduction.weight", 1, "consumer"),
        ("head.weight", 1, "consumer"),
    }
    everything = tuple(groups.values())
    kept = {"stem": torch.tensor([0, 2, 3, 4, 8, 9]), "mixed": torch.tensor([1, 4, 5, 6, 7, 11])}
    proof = check_cut(Reduced(), everything, kept, IMAGES)
    assert proof.holds, str(proof)
    cut = Reduced()
    left = cut_(cut, everything, kept)
    again = by_name(trace_groups(cut.eval(), IMAGES))  # as it is found anew in a file
    assert {group.name: (group.num_channels, group.frozen) for group in left} == {
        name: (group.num_channels, group.frozen) for name, group in again.items()
    }


class Pinned(Reduced):
    """The same, but the number of what is read stands in the code, too."""

    def __init__(self) -> None:
        super().__init__()
        self.beside = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        read = self.mixed(self.stem(x).relu()).reshape(len(x), 12, -1)
        return super().forward(x) + self.beside(read.mean(-1))


def test_what_does_not_fit_with_its_like_either_stays() -> None:
    groups = by_name(trace_groups(Pinned().eval(), IMAGES))
    assert not groups["stem"].frozen
    for name in ("mixed", "reduction"):
        assert groups[name].frozen[0].startswith(MISFIT)
