"""Trials of a cut at little cost: shapes without torch's own Python, one copy for all trials, no trial in vain."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.errors import TraceError
from adasap.groups import ChannelGroup, cut_, trace_groups
from adasap.groups.assemble import assemble_groups
from adasap.groups.attribute_search import MAX_FAILURES, Adapter
from adasap.groups.components import counted_columns, distinct, distinct_columns
from adasap.groups.fake_model import Skeleton
from adasap.groups.group import Extent
from adasap.groups.preserving import Untouched
from adasap.groups.quick_shapes import quick_result
from adasap.groups.trial import Trial, _other_cuts
from adasap.groups.walk import Graphs, walk_model
from groups_nets import CUTTABLE, IMAGES, Attention, Net, by_name, random_kept

CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "linear": (F.linear, (torch.ones(2, 5, 8), torch.ones(3, 8), torch.ones(3)), {}),
    "linear of a view": (F.linear, (torch.ones(2, 8, 5).mT, torch.ones(3, 8)), {}),
    "linear of one row": (F.linear, (torch.ones(8), torch.ones(3, 8)), {}),
    "layer norm": (F.layer_norm, (torch.ones(2, 5, 8), (8,), torch.ones(8)), {"bias": torch.ones(8)}),
    "layer norm of a view": (F.layer_norm, (torch.ones(2, 8, 3, 4).permute(0, 2, 3, 1), (4, 8)[1:]), {}),
    "layer norm over two axes": (F.layer_norm, (torch.ones(2, 5, 8), (5, 8)), {}),
    "batch norm": (F.batch_norm, (torch.ones(2, 6, 4, 4), torch.ones(6), torch.ones(6), torch.ones(6)), {}),
    "batch norm, channels last": (
        F.batch_norm,
        (torch.ones(2, 6, 4, 4).contiguous(memory_format=torch.channels_last), torch.ones(6), torch.ones(6)),
        {"training": False},
    ),
    "batch norm in training": (F.batch_norm, (torch.ones(2, 6, 4), None, None), {"training": True}),
    "gelu": (F.gelu, (torch.ones(2, 8, 5).mT,), {"approximate": "tanh"}),
    "normalize": (F.normalize, (torch.ones(2, 8, 5),), {"dim": -1}),
}


def on_meta(value: Any) -> Any:
    return value.to("meta") if isinstance(value, Tensor) else value


@pytest.mark.parametrize("name", CALLS)
def test_a_quick_answer_is_laid_out_as_the_processors(name: str) -> None:
    function, args, kwargs = CALLS[name]
    expected = function(*args, **kwargs)
    found = quick_result(function, tuple(map(on_meta, args)), {key: on_meta(value) for key, value in kwargs.items()})
    if name in ("linear of one row", "batch norm in training"):
        assert found is None
        return
    assert found is not None
    assert found.is_meta
    assert (found.shape, found.stride(), found.dtype) == (expected.shape, expected.stride(), expected.dtype)


@pytest.mark.parametrize(
    ("function", "shapes"),
    [
        (F.linear, [(2, 8), (3, 7)]),
        (F.linear, [(2, 8), (3, 8), (4,)]),
        (F.layer_norm, [(2, 8), [7]]),
        (F.layer_norm, [(2, 8), [8], (7,)]),
        (F.batch_norm, [(2, 6, 4), (5,), (5,)]),
        (F.batch_norm, [(2, 6, 4), (6,), (6,), (5,)]),
    ],
)
def test_what_does_not_fit_is_left_to_torch(function: Any, shapes: list[Any]) -> None:
    args = tuple(shape if isinstance(shape, list) else torch.empty(shape, device="meta") for shape in shapes)
    assert quick_result(function, args, {}) is None
    with pytest.raises(RuntimeError):
        function(*args)


def test_tensors_of_other_kinds_are_left_to_torch() -> None:
    x = torch.empty(2, 8, device="meta")
    for weight in (torch.empty(3, 8), torch.empty(3, 8, device="meta", dtype=torch.float64)):
        assert quick_result(F.linear, (x, weight), {}) is None
    assert quick_result(F.gelu, (torch.empty(2, 8),), {}) is None


@pytest.mark.parametrize("name", CUTTABLE)
def test_a_cut_is_taken_back_whole(name: str) -> None:
    net = CUTTABLE[name]()
    groups = trace_groups(net, IMAGES)
    skeleton = Skeleton(net, IMAGES, kind="bare")

    def state() -> dict[str, Any]:
        shapes = {
            key: tensor.shape for key, tensor in (*skeleton.model.named_parameters(), *skeleton.model.named_buffers())
        }
        own = {
            f"{place}.{key}": value
            for place, module in skeleton.model.named_modules()
            for key, value in vars(module).items()
            if isinstance(value, int | float | tuple | str)
        }
        return shapes | own | {place: type(module) for place, module in skeleton.model.named_modules()}

    before, untouched = state(), Untouched(skeleton.model)
    for seed in range(2):
        cut_(skeleton.model, groups, random_kept(groups, seed))
        skeleton.output_shapes()
        assert state() != before
        untouched.restore_()
        assert state() == before


def test_what_helps_no_two_blocks_is_not_tried_for_a_third(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stiff(Attention):
        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(2).transpose(1, 2)
            q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 4, 2).permute(2, 0, 3, 1, 4).unbind(0)
            return self.proj(self.mixed(q, k, v).transpose(1, 2).flatten(2)).mean(1)

    class Deep(Net):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList(Stiff() for _ in range(4))

        def body(self, x: Tensor) -> Tensor:
            return torch.stack([block(x) for block in self.blocks]).sum(0)

    tried: list[str] = []
    adapted = Adapter.adapted

    def counted(self: Adapter, group: Any, fits: Any) -> Any:
        def noted(changed: Any) -> bool:
            tried.append(group.name)
            return bool(fits(changed))

        return adapted(self, group, noted)

    monkeypatch.setattr(Adapter, "adapted", counted)
    groups = by_name(trace_groups(Deep(), IMAGES))
    names = [f"blocks.{number}.qkv" for number in range(4)]
    assert all("does not fit a cut" in groups[name].frozen[0] for name in names)
    assert len({name for name in tried if name in names}) == MAX_FAILURES


def test_a_division_that_is_right_for_one_number_by_chance_frees_nothing() -> None:
    """Three heads of the eight channels that enter would be two wide, as they are: of one head less forward fails."""

    class Floored(Attention):
        def forward(self, x: Tensor) -> Tensor:
            self.head_dim = x.shape[1] // self.num_heads
            return super().forward(x)

        def body(self, x: Tensor) -> Tensor:
            self.head_dim = x.shape[1] // self.num_heads
            return super().body(x)

    net = Floored()
    walked = walk_model(Graphs(net, IMAGES))
    groups = assemble_groups(walked.book)
    trial = Trial(net, groups, IMAGES, walked)
    extents = [Extent("", "num_heads", None, torch.full((4,), 1)), Extent("", "attn_dim", None, torch.full((4,), 2))]
    trial.groups["qkv"] = replace(trial.groups["qkv"], extents=tuple(extents))
    trial.kept = {"qkv": torch.arange(3)}
    assert trial.misfit(["qkv"]) is None
    trial.kept = _other_cuts(trial.kept, groups)
    assert len(trial.kept["qkv"]) == 2
    assert "does not fit a cut" in str(trial.misfit(["qkv"]))
    assert "does not fit a cut" in by_name(trace_groups(net, IMAGES))["qkv"].frozen[0]


@pytest.mark.parametrize(
    ("width", "removed", "other"), [(8, 1, 2), (8, 3, 4), (8, 4, 3), (4, 1, 2), (4, 2, 1), (3, 1, 1), (2, 1, 1)]
)
def test_other_cuts_are_of_another_number_where_there_is_one(width: int, removed: int, other: int) -> None:
    kept = _other_cuts({"g": torch.arange(width)[removed:]}, [ChannelGroup("g", width, ())])["g"]
    assert width - len(kept) == other
    assert torch.equal(kept, torch.unique(kept))


def test_a_forward_that_cannot_be_followed_prints_no_graph(capsys: pytest.CaptureFixture[str]) -> None:
    class Looks(Net):
        def body(self, x: Tensor) -> Tensor:
            return x if bool(x.isfinite().all()) else x.nan_to_num()

    with pytest.raises(TraceError, match=r"torch\.export cannot follow Looks"):
        trace_groups(Looks(), IMAGES)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("highest", [3, 5_000, 10**9, 2**40])
@pytest.mark.parametrize("count", [0, 1, 9_000, 30_000])
def test_distinct_values_are_those_of_a_sort(count: int, highest: int) -> None:
    drawn = torch.randint(-highest, highest, (2, count), generator=torch.Generator().manual_seed(count))
    assert torch.equal(distinct(drawn), torch.unique(drawn))
    pairs = drawn % math.isqrt(highest)
    assert torch.equal(distinct_columns(pairs), counted_columns(pairs)[0])
    assert torch.equal(distinct_columns(pairs), torch.unique(pairs, dim=1))
