"""Detectors with queries: picking by score, sampling at places that heads compute, training that looks at numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import adasap
from adasap.groups import check_cut, prunable, trace_groups
from adasap.groups.group import ChannelGroup


def half(groups: tuple[ChannelGroup, ...]) -> dict[str, Tensor]:
    """Every second channel of all groups that can lose some, so that a wrong cut exchanges them all."""
    return {group.name: torch.arange(0, group.num_channels, 2) for group in prunable(groups)}


class Sampling(nn.Module):
    """Deformable attention: each of the heads reads its part of a map at places of its own, around boxes."""

    def __init__(self, width: int, heads: int, points: int) -> None:
        super().__init__()
        self.heads, self.points, self.width = heads, points, width
        self.offsets = nn.Linear(width, heads * points * 2)
        self.weights = nn.Linear(width, heads * points)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, queries: Tensor, maps: Tensor, boxes: Tensor) -> Tensor:
        batch, count, _ = queries.shape
        height, width = maps.shape[-2:]
        value = self.value(maps.flatten(2).transpose(1, 2)).view(batch, -1, self.heads, self.width // self.heads)
        value = value.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, (height, width))
        offsets = self.offsets(queries).view(batch, count, self.heads, self.points, 2)
        places = boxes[:, :, None, None, :2] + offsets / self.points * boxes[:, :, None, None, 2:]
        sampled = F.grid_sample(value, 2 * places.transpose(1, 2).flatten(0, 1) - 1, align_corners=False)
        weights = self.weights(queries).view(batch, count, self.heads, self.points).softmax(-1)
        weights = weights.transpose(1, 2).reshape(batch * self.heads, 1, count, self.points)
        mixed = (sampled * weights).sum(-1).view(batch, -1, count)
        return self.out(mixed.transpose(1, 2))


class Queries(nn.Module):
    """The best of all places by score become queries; their boxes say where the decoder looks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1)
        self.score, self.box = nn.Linear(16, 3), nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4))
        self.sampling, self.label = Sampling(16, 4, 2), nn.Linear(16, 3)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.mix(self.stem(images).relu())
        tokens = maps.flatten(2).transpose(1, 2)
        _, best = self.score(tokens).max(-1).values.topk(5, dim=1)
        queries = tokens.gather(1, best.unsqueeze(-1).repeat(1, 1, tokens.shape[-1]))
        boxes = self.box(queries).sigmoid()
        return self.label(self.sampling(queries, maps, boxes)), boxes


def test_heads_that_sample_a_map_go_whole_and_the_best_queries_keep_their_channels() -> None:
    torch.manual_seed(0)
    model, images = Queries().eval(), torch.randn(2, 3, 16, 16)
    groups = trace_groups(model, images)
    found = {group.name: group.num_channels for group in prunable(groups)}
    assert found == {"stem": 16, "mix": 16, "box.0": 12, "sampling.value": 4, "sampling.out": 16}
    heads = next(group for group in groups if group.name == "sampling.value")
    assert {slot.name for slot in heads.slots} >= {"sampling.offsets.weight", "sampling.weights.weight"}
    assert {slot.name for slot in heads.slots} >= {"sampling.value.weight", "sampling.out.weight"}
    assert {extent.attribute for extent in heads.extents} == {"heads", "width"}
    assert check_cut(model, groups, half(groups), images).holds
    cut = adasap.prune(model, images, "l2", {"macs": 0.5}).model
    assert cut(torch.randn(1, 3, 24, 24))[1].shape == (1, 5, 4)


class Shared(nn.Module):
    """All channels are read at the same places, which a layer computes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.flow = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(3, 2, 3, 1, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        places = self.flow(images).permute(0, 2, 3, 1).tanh()
        return self.head(F.grid_sample(self.stem(images).relu(), places, align_corners=False))


def test_places_that_serve_all_channels_stay() -> None:
    model, images = Shared().eval(), torch.randn(2, 3, 12, 12)
    groups = trace_groups(model, images)
    assert [group.name for group in prunable(groups)] == ["stem"]
    flow = next(group for group in groups if group.name == "flow")
    assert flow.frozen == ("aten.grid_sampler.default in model moves the places that are read by it",)
    assert check_cut(model, groups, half(groups), images).holds


class Ranked(nn.Module):
    """Sorts along the places, or along the channels."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim, self.stem, self.head = dim, nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, images: Tensor) -> Tensor:
        best = self.stem(images).flatten(2).topk(4, dim=self.dim).values
        return self.head(best.mean(-1)) if self.dim == 2 else self.head(best.flatten(1)[:, :8])


def test_a_rank_among_places_is_each_channels_own_and_one_among_channels_freezes_them() -> None:
    images = torch.randn(2, 3, 8, 8)
    groups = trace_groups(Ranked(2).eval(), images)
    assert [group.name for group in prunable(groups)] == ["stem"]
    assert check_cut(Ranked(2).eval(), groups, half(groups), images).holds
    stem = trace_groups(Ranked(1).eval(), images)[0]
    assert "aten.topk.default in model mixes the channels" in stem.frozen


class Watchful(nn.Module):
    """In training its layer looks at numbers, and one more parameter is read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Linear(4, 8), Clamped(), nn.Linear(8, 2)
        self.extra = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.layer(self.stem(x))
        return (self.head(features), self.extra(features)) if self.training else (self.head(features),)


class Clamped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.isfinite(x).all():
            return x.clamp(-1e4, 1e4)
        return x.relu()


def test_what_only_training_reaches_is_followed_where_another_layer_looks_at_numbers_in_training() -> None:
    groups = trace_groups(Watchful().eval(), torch.randn(2, 4))
    stem = groups[0]
    assert not stem.frozen
    assert {slot.name for slot in stem.with_role("consumer")} == {"head.weight", "extra.weight"}
    assert check_cut(Watchful(), groups, half(groups), torch.randn(2, 4)).holds


TOWER = {"d_model": 32, "num_queries": 12, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 48}
HYBRID = TOWER | {
    "encoder_in_channels": [24, 32, 48],
    "encoder_hidden_dim": 32,
    "encoder_ffn_dim": 48,
    "encoder_attention_heads": 4,
    "decoder_in_channels": [32, 32, 32],
}


def transformers_detector(name: str) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    stages = {"hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1], "out_features": ["stage2", "stage3", "stage4"]}
    if name == "DFine":
        sizes = {"stem_channels": [3, 8, 16], "stage_in_channels": [16, 16, 24, 32]}
        sizes |= {"stage_mid_channels": [8, 8, 12, 16], "stage_out_channels": [16, 24, 32, 48], "embedding_size": 16}
        sizes |= {"stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [1, 1, 1, 1]}
        backbone, more = transformers.HGNetV2Config(**stages, **sizes), HYBRID | {"decoder_n_points": [2, 2, 2]}
    elif name == "RTDetr":
        backbone = transformers.RTDetrResNetConfig(**stages, embedding_size=16, layer_type="basic")
        more = HYBRID
    else:
        backbone = transformers.ResNetConfig(**stages, embedding_size=16, layer_type="basic")
        more = TOWER | {"encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 48}
        more |= {"use_timm_backbone": False, "two_stage": True, "with_box_refine": True, "two_stage_num_proposals": 12}
    kind = getattr(transformers, f"{name}ForObjectDetection")
    model: nn.Module = kind(kind.config_class(backbone_config=backbone, **more))
    return model.eval()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Transformers' own, of its and torch's
@pytest.mark.parametrize(("name", "size"), [("RTDetr", 64), ("DFine", 64), ("DeformableDetr", 160)])
def test_detectors_of_transformers_lose_half_of_their_macs(name: str, size: int) -> None:
    torch.manual_seed(0)
    model, images = transformers_detector(name), {"pixel_values": torch.randn(2, 3, size, size)}
    pruned = adasap.prune(model, images, "l2", {"macs": 0.5})
    with torch.no_grad():
        found = pruned.model(**images)
    assert found.logits.shape[1] == found.pred_boxes.shape[1] == 12
    groups = pruned.dense_groups
    kept = half(groups)
    sampling = [group for group in prunable(groups) if any("sampling_offsets" in slot.name for slot in group.slots)]
    assert bool(sampling) == (name != "DFine")  # whose heads are the channels of the encoder, under its norms
    proofs = [check_cut(model, groups, kept, images)]
    if proofs[0].unproven:  # units behind a ReLU may be off: draw again
        proofs.append(check_cut(model, groups, kept, images, seed=1))
    assert max(proof.relative_error for proof in proofs) <= 1e-9
    assert not set.intersection(*(set(proof.unproven) for proof in proofs))


class Grouped(nn.Module):
    """Training has a second group of queries, with a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.heads = nn.ModuleList([nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2)) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([head(self.stem(x)) for head in (self.heads if self.training else self.heads[:1])], 1)


def test_the_proof_sees_what_training_adds_to_the_queries() -> None:
    groups = trace_groups(Grouped().eval(), torch.zeros(2, 3, 4))
    assert {group.name for group in prunable(groups)} == {"stem", "heads.0.0", "heads.1.0"}
    assert check_cut(Grouped(), groups, half(groups), torch.zeros(2, 3, 4)).holds


class Chancy(nn.Module):
    """A second head in training, behind dropout that forward calls as a function or hands to attention."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.second = how, nn.Linear(8, 16), nn.Linear(16, 8)
        self.heads = nn.ModuleList([nn.Linear(8, 3), nn.Linear(8, 3)])
        if how == "module":
            self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.second(self.first(x).relu())
        if self.how == "function":
            x = torch.dropout(F.dropout(x, 0.5, self.training), 0.5, self.training)
        elif self.how == "attention":
            x = F.scaled_dot_product_attention(x, x, x, dropout_p=0.5 * self.training)
        else:
            x = self.attention(x, x, x)[0]
        return [head(x) for head in (self.heads if self.training else self.heads[:1])]


@pytest.mark.parametrize("how", ["function", "attention", "module"])
def test_what_training_drops_by_chance_is_kept_in_the_proof(how: str) -> None:
    model, images = Chancy(how), torch.randn(2, 5, 8)
    groups = trace_groups(model, images)
    assert check_cut(model, groups, half(groups), images).holds
