"""Attention modules that split the input's width by their heads: they lose whole heads all the same."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.swin_transformer import (
    PatchMergingV2,
    ShiftedWindowAttention,
    ShiftedWindowAttentionV2,
    SwinTransformerBlockV2,
)

from adasap.export import load, save
from adasap.groups import check_cut, cut_, fingerprint, prunable, trace_groups
from adasap.groups.heads import CutMultiheadAttention, fit_heads_
from adasap.groups.heads_cait import CutClassAttn, CutTalkingHeadAttn
from adasap.groups.heads_swin import CutShiftedWindowAttention, CutShiftedWindowAttentionV2
from adasap.groups.operators import TensorRef, parts
from adasap.groups.operators.operator import OPERATORS
from adasap.models import ModelSpec
from adasap.pruning import MACs, PruningPlan, apply_plan_
from groups_nets import by_name, places, random_kept

IMAGES = torch.zeros(1, 3, 40, 40)
MASK = torch.ones(6, 6).triu(1).bool()
PADDING = torch.tensor([[False] * 6, [False] * 4 + [True] * 2])


class Encoder(nn.Module):
    """Patches, torch's own encoder layer, attention whose weights are computed and left unread."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
        self.mix = nn.MultiheadAttention(16, 4, batch_first=True, **options)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.patch(x).flatten(2).transpose(1, 2))
        y, _ = self.mix(x, x, x)
        return self.head((x + y).mean(1))


def small_vit() -> nn.Module:
    return VisionTransformer(40, 8, num_layers=2, num_heads=4, hidden_dim=16, mlp_dim=32, num_classes=5)


def small_swin() -> nn.Module:
    return SwinTransformer([4, 4], 12, [2], [3], [4, 4], num_classes=5)


def small_swin_v2() -> nn.Module:
    return SwinTransformer(
        [4, 4], 12, [2], [3], [4, 4], num_classes=5, block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    )


def with_separate_projections() -> nn.Module:
    net = Encoder(kdim=16, vdim=16, bias=False)
    net.mix._qkv_same_embed_dim, weight = False, net.mix.in_proj_weight
    for name, part in zip("qkv", weight.detach().chunk(3), strict=True):
        setattr(net.mix, f"{name}_proj_weight", nn.Parameter(part.clone()))
    net.mix.in_proj_weight = None
    return net


NETS = [
    pytest.param(small_vit, ["in_proj_weight"], id="vit"),
    pytest.param(small_swin, ["qkv.weight", "relative_position_bias_table"], id="swin"),
    pytest.param(small_swin_v2, ["qkv.weight", "logit_scale", "cpb_mlp.2.weight"], id="swin-v2"),
    pytest.param(Encoder, ["in_proj_weight"], id="encoder"),
    pytest.param(lambda: Encoder(add_bias_kv=True), ["bias_k", "bias_v"], id="added-keys"),
    pytest.param(with_separate_projections, ["q_proj_weight", "k_proj_weight", "v_proj_weight"], id="separate"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "tensors"), NETS)
def test_heads_are_units_and_a_cut_model_is_the_masked_one(build, tensors: list[str]) -> None:
    torch.manual_seed(0)
    net = build()
    groups = trace_groups(net, IMAGES)
    slots = {slot.name for group in prunable(groups) for slot in group.slots}
    attention = [name for name, module in net.named_modules() if hasattr(module, "num_heads") and "attn" in name]
    assert all(any(f"{name}." in slot for slot in slots) for name in attention)
    assert all(any(slot.endswith(f".{tensor}") for slot in slots) for tensor in tensors)
    kept = random_kept(groups)
    proof = check_cut(net, groups, kept, torch.cat([IMAGES, IMAGES]))
    assert proof.holds, str(proof)
    cut_(net, groups, kept)
    assert torch.export.export(net.eval(), (IMAGES,)).module()(IMAGES).shape == (1, 5)
    with torch.no_grad():  # torch's own kernel for whole layers would fail on fewer heads
        assert net(IMAGES).shape == (1, 5)


def test_the_rows_of_a_head_stand_in_three_parts_and_its_bias_in_a_column() -> None:
    group = by_name(trace_groups(small_swin(), IMAGES))["features.1.1.attn"]
    assert group.num_channels == 3
    assert places(group, 1) == {
        ("features.1.1.attn.relative_position_bias_table", 1): [1],
        ("features.1.1.attn.qkv.weight", 0): [4, 5, 6, 7, 16, 17, 18, 19, 28, 29, 30, 31],
        ("features.1.1.attn.qkv.bias", 0): [4, 5, 6, 7, 16, 17, 18, 19, 28, 29, 30, 31],
        ("features.1.1.attn.proj.weight", 1): [4, 5, 6, 7],
    }


@pytest.mark.slow
@pytest.mark.parametrize("build", [small_vit, small_swin, small_swin_v2, Encoder])
def test_only_modules_that_lost_heads_change_and_later_cuts_count_on(build) -> None:
    net = build()
    before, keys = {name: type(module) for name, module in net.named_modules()}, list(net.state_dict())
    groups = trace_groups(net, IMAGES)
    first = next(group for group in prunable(groups) if group.num_channels in (3, 4))
    for width in range(first.num_channels - 1, 0, -1):
        groups = cut_(net, groups, {first.name: torch.arange(1, width + 1)})
        changed = [name for name, kind in before.items() if type(net.get_submodule(name)) is not kind]
        assert len(changed) == 1
        assert net.get_submodule(changed[0]).num_heads == width
        assert net(IMAGES).shape == (1, 5)
        if width > 2 or build is not small_swin_v2:  # a lone head is its norm's whole axis, which freezes it
            assert fingerprint(trace_groups(net, IMAGES)) == fingerprint(groups)
    assert list(net.state_dict()) == keys
    assert pickle.loads(pickle.dumps(net))(IMAGES).shape == (1, 5)


def test_a_file_of_a_model_with_fewer_heads_is_loaded_into_the_dense_one(tmp_path) -> None:
    torch.manual_seed(0)
    options = {"image_size": 32, "patch_size": 8, "num_layers": 1, "num_heads": 4, "hidden_dim": 16, "mlp_dim": 32}
    spec, images = ModelSpec("torchvision.models:VisionTransformer", options), torch.randn(1, 3, 32, 32)
    net = VisionTransformer(**options).eval()
    groups = trace_groups(net, images)
    plan = PruningPlan.of(groups, random_kept(groups))
    macs = MACs(net, groups, images)
    after = apply_plan_(net, groups, plan)
    assert MACs(net, after, images).dense == macs.total({group.name: group.num_channels for group in after})
    save(tmp_path / "net.safetensors", net, spec=spec, plan=plan, groups=groups)
    again = load(tmp_path / "net.safetensors", builder=VisionTransformer)
    assert torch.equal(again(images), net(images))


def test_a_head_whose_weights_are_returned_is_frozen() -> None:
    class Shown(Encoder):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.patch(x).flatten(2).transpose(1, 2)
            y, weights = self.mix(x, x, x)
            return self.head(y.mean(1)), weights

    net = Shown()
    net.layer = nn.Identity()
    assert "mixes the channels" in by_name(trace_groups(net, IMAGES))["mix"].frozen[0]


@pytest.mark.parametrize("need", [{"need_weights": False}, {}, {"average_attn_weights": False}])
@pytest.mark.parametrize(
    "masks",
    [
        {},
        {"attn_mask": MASK},
        {"attn_mask": MASK, "is_causal": True},
        {"attn_mask": MASK.double(), "key_padding_mask": PADDING.double()},
        {"attn_mask": MASK, "key_padding_mask": PADDING},
        {"attn_mask": MASK.expand(8, 6, 6)},
        {"key_padding_mask": PADDING},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "options",
    [{"batch_first": True}, {"bias": False}, {"add_bias_kv": True, "add_zero_attn": True}, {"kdim": 5, "vdim": 3}],
    ids=str,
)
def test_the_stand_in_computes_what_the_original_does(options, masks, need) -> None:
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 4, **options).double()
    for bias in (layer.in_proj_bias, layer.out_proj.bias):
        if bias is not None:
            nn.init.normal_(bias)
    query, key, value = (torch.randn(6, 2, width).double() for width in (8, layer.kdim, layer.vdim))
    inputs = (query, key, value) if layer.kdim != 8 else (query, query, query)
    if layer.batch_first:
        inputs = tuple(tensor.transpose(0, 1) for tensor in inputs)
    stand_in = copy.deepcopy(layer)
    stand_in.__class__ = CutMultiheadAttention
    stand_in.count_heads_()
    assert_same(stand_in(*inputs, **masks, **need), layer(*inputs, **masks, **need))
    if not masks:  # without a batch
        single = tuple(tensor[0] if layer.batch_first else tensor[:, 0] for tensor in inputs)
        assert_same(stand_in(*single, **need), layer(*single, **need))


def assert_same(ours: tuple[Tensor, Tensor | None], theirs: tuple[Tensor, Tensor | None]) -> None:
    for left, right in zip(ours, theirs, strict=True):
        assert (left is None) == (right is None)
        if left is not None:
            assert left.shape == right.shape
            assert torch.allclose(left, right, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_a_causal_hint_without_a_mask_is_refused() -> None:
    layer = nn.MultiheadAttention(8, 4)
    layer.__class__ = CutMultiheadAttention
    with pytest.raises(RuntimeError, match="pass the mask"):
        layer(*[torch.zeros(2, 1, 8)] * 3, is_causal=True)


def test_the_stand_ins_for_cait_compute_what_the_originals_do() -> None:
    from timm.models.cait import ClassAttn, TalkingHeadAttn

    torch.manual_seed(0)
    tokens = torch.randn(2, 5, 12)
    for original, stand_in in ((ClassAttn, CutClassAttn), (TalkingHeadAttn, CutTalkingHeadAttn)):
        module = original(12, num_heads=3, qkv_bias=True)
        expected = module(tokens)
        module.__class__ = stand_in
        module.count_heads_()
        assert module.num_heads == 3
        torch.testing.assert_close(module(tokens), expected)


@pytest.mark.parametrize("size", [(8, 8), (9, 6), (4, 12), (3, 3)])
@pytest.mark.parametrize("shift", [[0, 0], [2, 2], [2, 0]])
@pytest.mark.parametrize(
    ("original", "stand_in"),
    [
        (ShiftedWindowAttention, CutShiftedWindowAttention),
        (ShiftedWindowAttentionV2, CutShiftedWindowAttentionV2),
    ],
)
def test_windows_are_those_of_the_original(original, stand_in, shift, size) -> None:
    torch.manual_seed(0)
    layer = original(12, [4, 4], shift, 3).double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    x = torch.randn(2, *size, 12).double()
    expected = layer(x)
    layer.__class__ = stand_in
    assert torch.allclose(layer(x), expected, rtol=1e-12, atol=1e-12)


def test_a_whole_module_and_a_subclass_stay_what_they_are() -> None:
    class Own(nn.MultiheadAttention):
        pass

    whole, own = nn.MultiheadAttention(8, 4), Own(8, 4)
    own.in_proj_weight.data = own.in_proj_weight.data[:12]
    fit_heads_(nn.ModuleList([whole, own]))
    assert type(whole) is nn.MultiheadAttention
    assert type(own) is Own


class Streams(nn.Module):
    """Queries of one stream look at another, whose keys and values may differ; one weight has the rows of all three."""

    def __init__(self, *, apart: bool) -> None:
        super().__init__()
        self.apart = apart
        self.patch, self.table = nn.Conv2d(3, 16, 8, 8), nn.Parameter(torch.randn(5, 12))
        self.query, self.mix = nn.Linear(12, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        y = self.query(self.table).expand(len(x), -1, -1)
        return self.head((y + self.mix(y, x, x * 2 if self.apart else x, need_weights=False)[0]).mean(1))


@pytest.mark.parametrize("apart", [False, True])
def test_attention_between_two_streams_loses_heads_and_the_streams_lose_the_same_channels(apart: bool) -> None:
    net = Streams(apart=apart)
    groups = trace_groups(net, IMAGES)
    assert {group.name: group.num_channels for group in prunable(groups)} == {"patch": 16, "table": 12, "mix": 4}
    assert places(by_name(groups)["mix"], 1)["mix.in_proj_weight", 0] == [
        *range(4, 8),
        *range(20, 24),
        *range(36, 40),
    ]
    roles = {slot.name: slot.role for slot in by_name(groups)["mix"].slots}
    assert roles["mix.in_proj_bias"] == "shift"
    kept = random_kept(groups)
    proof = check_cut(net, groups, kept, IMAGES)
    assert proof.holds, str(proof)
    planned = MACs(net, groups, IMAGES).total({name: len(channels) for name, channels in kept.items()})
    assert planned == MACs(net, cut_(net, groups, kept), IMAGES).dense


def test_a_part_of_a_weight_in_another_parts_place_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(call):
        result = parts(call)
        return result[:1] * len(result) if isinstance(result[0], TensorRef) else result

    monkeypatch.setattr(OPERATORS.get("chunk"), "rule", wrong)
    net = Streams(apart=True)
    groups = trace_groups(net, IMAGES)
    found = {group.name: group.num_channels for group in prunable(groups)}
    assert found.get("mix") != 4 or not check_cut(net, groups, random_kept(groups), IMAGES).holds
