"""Attention as wide as its input, with queries and keys narrower than values (YOLO11): the values get narrower."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from adasap.groups import check_cut, cut_, prunable, trace_groups, widths
from adasap.groups.operators import product, reshaped
from adasap.groups.operators.operator import OPERATORS, Rule
from adasap.pruning import MACs
from groups_nets import IMAGES, Net, by_name, places, random_kept
from test_groups_adapt import attributes
from test_groups_reach import shifted


class NarrowKeys(nn.Module):
    """Queries and keys half as wide as values, side by side in each head; a depthwise layer adds positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.key_dim = num_heads, width // num_heads, width // num_heads // 2
        self.qkv = nn.Conv2d(width, width + 2 * num_heads * self.key_dim, 1)
        self.positions, self.proj = nn.Conv2d(width, width, 3, padding=1, groups=width), nn.Conv2d(width, width, 1)

    def width_of(self, x: Tensor) -> int:
        return x.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        batch, width, (height, columns) = len(x), self.width_of(x), x.shape[2:]
        sizes = [self.key_dim, self.key_dim, self.head_dim]
        qkv = self.qkv(x).view(batch, self.num_heads, 2 * self.key_dim + self.head_dim, height * columns)
        q, k, v = qkv.split(sizes, dim=2)
        weights = (q.transpose(-2, -1) @ k * self.key_dim**-0.5).softmax(-1)
        mixed = (v @ weights.transpose(-2, -1)).view(batch, width, height, columns)
        return self.proj(mixed + self.positions(v.reshape(batch, width, height, columns)))


class FreeWidth(NarrowKeys):
    """Forward leaves the number of channels to the view: heads go whole."""

    def width_of(self, x: Tensor) -> int:
        return -1


class Beside(Net):
    """Half of the channels go through attention, the others past it; a depth is as large as a head by chance."""

    width = 10
    kind = NarrowKeys

    def __init__(self) -> None:
        super().__init__()
        self.hidden = 8
        self.wide, self.last = nn.Conv2d(8, 16, 1), nn.Conv2d(16, 10, 1)
        self.attention = self.kind(8, 2)

    def body(self, x: Tensor) -> Tensor:
        past, x = self.wide(x).split((self.hidden, self.hidden), dim=1)
        return self.last(torch.cat([past, x + self.attention(x)], 1))


class BesideFreeWidth(Beside):
    kind = FreeWidth


EXPECTED = {
    Beside: {"stem": 8, "wide": 4, "last": 10},
    BesideFreeWidth: {"stem": 8, "wide": 8, "attention.qkv": 2, "last": 10},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
def test_what_can_go_is_proven_and_costs_what_was_planned(kind: type[Net]) -> None:
    net = kind()
    groups = trace_groups(net, IMAGES)
    assert widths(prunable(groups)) == EXPECTED[kind]
    kept = random_kept(groups)
    proof = check_cut(net, groups, kept, IMAGES)
    assert proof.holds, str(proof)
    macs = MACs(net, groups, IMAGES)
    planned = macs.total({name: len(channels) for name, channels in kept.items()})
    after = cut_(net, groups, kept)
    assert planned == MACs(net, after, IMAGES).dense < macs.dense


def test_values_and_the_channels_that_enter_in_their_place_are_one_unit() -> None:
    groups = by_name(trace_groups(Beside(), IMAGES))
    wide = groups["wide"]
    assert attributes(wide) == {"hidden": [2] * 4, "head_dim": [1] * 4}
    assert places(wide, 1)["wide.weight", 0] == [1, 5, 9, 13]
    assert places(wide, 1)["attention.qkv.weight", 0] == [5, 13]  # behind two queries and two keys of each head
    assert places(wide, 1)["attention.proj.weight", 1] == [1, 5]
    assert groups["attention.qkv"].frozen == (
        "aten.matmul.default in attention keeps queries and keys, and loses channels of the values",
    )


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "rule"), [("view", shifted(reshaped)), ("matmul", shifted(product, 2))])
def test_a_wrong_rule_is_found_out(operator: str, rule: Rule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OPERATORS.get(operator), "rule", rule)
    net = Beside()
    groups = trace_groups(net, IMAGES)
    found = widths(prunable(groups)).items() >= EXPECTED[Beside].items()
    assert not found or not check_cut(net, groups, random_kept(groups), IMAGES).holds


@pytest.mark.parametrize("others", [{"levels": 4}, {"levels": 4, "steps": 4}])
def test_numbers_that_equal_a_width_by_chance_do_not_hide_the_one_that_sets_it(others: dict[str, int]) -> None:
    class Parted(Net):
        """Two parts as wide as an attribute says, and loops of that many rounds that need the number as it is."""

        def __init__(self) -> None:
            super().__init__()
            self.part = 4
            self.wide, self.way = nn.Conv2d(8, 8, 1), nn.Conv2d(4, 4, 1)
            self.rounds = nn.Parameter(torch.randn(4))
            vars(self).update(others)

        def body(self, x: Tensor) -> Tensor:
            a, b = torch.split(self.wide(x), self.part, 1)
            rounds = sum(self.rounds.view(value).sum() for value in (vars(self)[name] for name in others))
            return torch.cat([a, self.way(b) * rounds], 1)

    assert attributes(by_name(trace_groups(Parted(), IMAGES))["wide"]) == {"part": [1] * 4}


def test_a_number_of_the_innermost_module_does_not_hide_that_of_an_outer_one() -> None:
    class Way(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.depth, self.layer = 4, nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor, part: int) -> Tensor:
            a, b = torch.split(x, part, 1)
            return torch.cat([a, self.layer(b)], 1)

    class Outer(Net):
        def __init__(self) -> None:
            super().__init__()
            self.part = 4
            self.wide, self.way = nn.Conv2d(8, 8, 1), Way()

        def body(self, x: Tensor) -> Tensor:
            return self.way(self.wide(x), self.part)

    assert attributes(by_name(trace_groups(Outer(), IMAGES))["wide"]) == {"part": [1] * 4}
