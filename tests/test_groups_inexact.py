"""Channels under a norm over them: frozen, unless inexact cuts are asked for; then marked, and proven all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer

from adasap.errors import BudgetError
from adasap.export import load
from adasap.groups import ChannelGroup, check_cut, cut_, cut_matches_mask, prunable, trace_groups
from adasap.groups.fake_model import copied
from adasap.integrations import LoopCompression
from adasap.models import ModelSpec, open_model
from adasap.pruning import BudgetOptions, PruningOptions, prune
from adasap.training import Compression, FineTuneOptions, PhaseOptions
from groups_nets import random_kept

TOKENS = torch.zeros(2, 5, 6)
IMAGES = torch.zeros(2, 3, 8, 8)


class Mixer(nn.Module):
    """A residual stream of 8 channels under a norm over them, with a block of its own."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.norm, self.wide, self.narrow = norm(8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.last, self.head = norm(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.narrow(torch.relu(self.wide(self.norm(x))))
        return self.head(self.last(x).mean(1))


class WrittenNorm(nn.Module):
    """An RMSNorm in plain operators."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


class Plain(nn.LayerNorm):
    """A LayerNorm whose width stands in an attribute alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width, elementwise_affine=False)


class Response(nn.Module):
    """The global response norm of ConvNeXt V2, channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        seen = x.norm(p=2, dim=1, keepdim=True)
        return x + self.weight * (x * (seen / (seen.mean(-1, keepdim=True) + 1e-6))) + self.bias


class Unit(nn.Module):
    """Vectors of length one, and a scale for each channel, as of SSD300's first map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), 20.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * nn.functional.normalize(x, dim=-1)


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8)
        self.side, self.head = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.side(torch.relu(self.norm(self.stem(x))))))


def _stream(groups: tuple[ChannelGroup, ...]) -> ChannelGroup:
    return next(group for group in groups if group.inexact)


@pytest.fixture(scope="module")
def mixer() -> tuple[nn.Module, tuple[ChannelGroup, ...]]:
    torch.manual_seed(0)
    net = Mixer()
    return net, trace_groups(net, TOKENS, allow_inexact=True)


def test_without_the_option_they_are_frozen_as_ever() -> None:
    group = trace_groups(Mixer(), TOKENS)[0]
    assert group.frozen == (
        "aten.layer_norm.default in last normalises over the channels",
        "aten.layer_norm.default in norm normalises over the channels",
    )
    assert not group.inexact


def test_with_it_they_are_free_and_marked(mixer: tuple[nn.Module, tuple[ChannelGroup, ...]]) -> None:
    stream, inner = prunable(mixer[1])
    assert (stream.name, stream.num_channels) == ("embed", 8)
    assert stream.inexact == ("LayerNorm in last", "LayerNorm in norm")
    assert (inner.name, inner.inexact) == ("wide", ())


@pytest.mark.parametrize(
    ("norm", "kind"),
    [
        (nn.LayerNorm, "LayerNorm"),
        pytest.param(Plain, "LayerNorm", marks=pytest.mark.slow),
        pytest.param(nn.RMSNorm, "RMSNorm", marks=pytest.mark.slow),
        pytest.param(WrittenNorm, "mean", marks=pytest.mark.slow),
        pytest.param(Response, "mean", marks=pytest.mark.slow),
        pytest.param(Unit, "linalg_vector_norm", marks=pytest.mark.slow),
    ],
)
def test_the_cut_equals_the_model_whose_norms_see_what_stays(norm: Callable[[int], nn.Module], kind: str) -> None:
    net = Mixer(norm)
    groups = trace_groups(net, TOKENS, allow_inexact=True)
    kept = random_kept(groups)
    proof = check_cut(net, groups, kept, TOKENS)
    assert proof.holds, str(proof)
    assert proof.control.keys() == {"embed", "wide"}
    assert f"embed is not exact: {kind} over {len(kept['embed'])} of 8 channels" in str(proof)


def test_a_group_norm_loses_a_channel_of_every_group() -> None:
    net = Grouped()
    groups = trace_groups(net, IMAGES, allow_inexact=True)
    stem = _stream(groups)
    assert (stem.name, stem.num_channels) == ("stem", 4)
    assert stem.slots[0].positions.tolist() == [[0, 4], [1, 5], [2, 6], [3, 7]]
    proof = check_cut(net, groups, {"stem": torch.tensor([0, 3]), "side": torch.arange(4)}, IMAGES)
    assert proof.holds, str(proof)


def test_weights_alone_cannot_mask_it(mixer: tuple[nn.Module, tuple[ChannelGroup, ...]]) -> None:
    """The reason why these groups are inexact, and that the proof restricts the norms and nothing less."""
    net, groups = mixer
    kept = {"embed": torch.tensor([0, 1, 2, 5, 7])}
    cut, inputs = copied(net), torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    cut_(cut, groups, kept)
    assert cut_matches_mask(net, cut, groups, kept, inputs) < 1e-5
    exactly = tuple(replace(group, inexact=()) for group in groups)
    assert cut_matches_mask(net, cut, exactly, kept, inputs) > 1e-2


@pytest.mark.parametrize(("name", "role"), [("norm.weight", "scale"), ("wide.weight", "consumer")])
def test_a_slice_in_another_order_is_caught(
    mixer: tuple[nn.Module, tuple[ChannelGroup, ...]], name: str, role: str
) -> None:
    net, groups = mixer
    stream = _stream(groups)
    slots = tuple(
        replace(slot, positions=slot.positions.roll(1, 0)) if (slot.name, slot.role) == (name, role) else slot
        for slot in stream.slots
    )
    wrong = tuple(replace(group, slots=slots) if group is stream else group for group in groups)
    assert check_cut(net, groups, {"embed": torch.arange(5)}, TOKENS).holds
    assert not check_cut(net, wrong, {"embed": torch.arange(5)}, TOKENS).holds


def test_a_cut_model_is_saved_and_opened_again(tmp_path: Path) -> None:
    net = open_model(ModelSpec(f"{__name__}:Mixer"), trust_builder=True)
    pruned = prune(net, TOKENS, "l2", {"parameters": 0.5}, min_kept=0.3, allow_inexact=True)
    assert pruned.mask_error < 1e-5
    width = len(pruned.plan.kept["embed"])
    assert width < 8
    assert f"embed is not exact: LayerNorm over {width} of 8 channels" in str(pruned)
    pruned.save(tmp_path / "cut.safetensors")
    again = load(tmp_path / "cut.safetensors", trust_builder=True)
    assert again.get_submodule("norm").normalized_shape == (width,)
    inputs = torch.randn(3, 5, 6)
    assert torch.equal(again(inputs), pruned.model.eval()(inputs))


def test_they_go_last_where_that_is_asked_for() -> None:
    net, scores = Mixer(), {"embed": torch.zeros(8), "wide": torch.ones(12), "head": torch.ones(3)}

    def widths(budget: float, inexact: Literal["by_score", "last"]) -> dict[str, int]:
        by_hand = lambda model, groups: {group.name: scores[group.name] for group in groups}  # noqa: E731
        cut = prune(net, TOKENS, by_hand, {"parameters": budget}, allow_inexact=True, inexact=inexact)
        return cut.plan.widths()

    by_score, last = widths(0.7, "by_score"), widths(0.7, "last")
    assert (by_score["embed"] < 8, by_score["wide"]) == (True, 12)
    assert (last["embed"], last["wide"] < 12) == (8, True)
    assert widths(0.2, "last")["embed"] < 8
    assert PruningOptions().floors(trace_groups(net, TOKENS, allow_inexact=True)) == {"embed": 2, "wide": 1}
    with pytest.raises(BudgetError):
        prune(net, TOKENS, "l2", {"parameters": 0.2})


def small_vit() -> nn.Module:
    return VisionTransformer(40, 8, num_layers=1, num_heads=3, hidden_dim=12, mlp_dim=20, num_classes=5)


def small_swin() -> nn.Module:
    return SwinTransformer([4, 4], 16, [1, 1], [2, 4], [4, 4], num_classes=5)


def small_convnext_v2() -> nn.Module:
    return timm.create_model("convnextv2_atto", num_classes=5, dims=(8, 6, 12, 10), depths=(1, 1, 1, 1))


def small_cait() -> nn.Module:
    options = {"img_size": 40, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
    return timm.create_model("cait_xxs24_224", num_classes=5, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "free"),
    [
        (small_vit, {"conv_proj": 12}),
        (small_swin, {"features.0.0": 16, "features.2.reduction": 32}),
        (
            small_convnext_v2,
            {"stem.0": 8, "stages.1.downsample.1": 6, "stages.2.downsample.1": 12, "stages.3.downsample.1": 10},
        ),
        (small_cait, {"patch_embed.proj": 16}),
    ],
)
def test_the_width_of_the_stream_of_a_network(build: Callable[[], nn.Module], free: dict[str, int]) -> None:
    net, images = build(), torch.zeros(1, 3, 40, 40)
    groups = trace_groups(net, images, allow_inexact=True)
    streams = {g.name: g.num_channels for g in prunable(groups) if any("LayerNorm" in what for what in g.inexact)}
    assert streams == free
    proof = check_cut(net, groups, random_kept(groups), images)
    assert proof.holds, str(proof)


def test_a_loop_cuts_them_event_by_event() -> None:
    net, batch = Mixer(), torch.randn(4, 5, 6)
    budget, allow = BudgetOptions(parameters=0.5), {"allow": ("norms",), "min_kept": 0.3}
    options = PruningOptions(epochs=4, events=2, every=2, budget=budget, ranking="uniform", **allow)
    config = Compression(warm_up=PhaseOptions(epochs=1), pruning=options, fine_tune=FineTuneOptions(epochs=1))
    optimizer, events = torch.optim.SGD(net.parameters(), lr=0.01), []
    loop = LoopCompression(net, TOKENS, config, optimizer, observe=events.append)

    def loss_and_backward() -> Tensor:
        loss = net(batch).square().mean()
        loss.backward()
        return loss

    for _ in range(6):
        loop.gradients(loss_and_backward)
        optimizer.step()
        loop.step()
    cuts = [event for event in events if event.kind == "prune"]
    assert [cut.removed > 0 for cut in cuts] == [True, True]
    assert max(cut.mask_error for cut in cuts) < 1e-5
    assert net.norm.normalized_shape == (len(net.embed.weight),) != (8,)
