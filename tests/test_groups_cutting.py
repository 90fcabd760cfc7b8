"""Cutting and masking: which objects stay, what shrinks, what a wrong request is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adasap.errors import PlanError
from adasap.groups import cut_, cut_matches_mask, mask_, masked, trace_groups, widths
from adasap.groups.cutting import cut_tensor, kept_masks
from adasap.groups.fake_model import shared_copy
from adasap.models.cifar_resnet import CifarResNet
from groups_nets import CUTTABLE, IMAGES, by_name, random_kept

KEPT = {"stem": torch.tensor([0, 2, 7]), "inner": torch.tensor([5, 1])}


def residual():
    model = CUTTABLE["Residual"]()
    return model, trace_groups(model, IMAGES)


def test_parameters_keep_their_identity_and_get_cut_gradients() -> None:
    model, groups = residual()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    objects = {name: id(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    weight, gradient = model.outer.weight.clone(), model.outer.weight.grad.clone()
    cut_(model, groups, KEPT)
    assert objects == {name: id(tensor) for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    stays = (torch.tensor([[0], [2], [7]]), torch.tensor([1, 5]))
    assert torch.equal(model.outer.weight, weight[stays])
    assert torch.equal(model.outer.weight.grad, gradient[stays])
    assert all(p.grad.shape == p.shape for p in model.parameters())


def test_layers_know_their_new_widths() -> None:
    model, groups = residual()
    cut_(model, groups, KEPT)
    assert (model.stem.in_channels, model.stem.out_channels) == (3, 3)
    assert (model.inner.in_channels, model.inner.out_channels) == (3, 2)
    assert model.norm.num_features == 3
    assert (model.head.in_features, model.head.out_features) == (3, 5)


@pytest.mark.parametrize(("name", "groups", "channels"), [("Depthwise", 3, 3), ("Grouped", 3, 6)])
def test_a_grouped_convolution_has_fewer_groups(name: str, groups: int, channels: int) -> None:
    model = CUTTABLE[name]()
    cut_(model, trace_groups(model, IMAGES), {"stem": torch.tensor([0, 1, 3])})
    layer = model.depth if name == "Depthwise" else model.grouped
    assert (layer.groups, layer.in_channels) == (groups, channels)
    assert layer.out_channels == layer.weight.shape[0]
    assert layer.weight.shape[1] == channels // groups


def test_groups_are_renumbered_within_what_is_left() -> None:
    model, groups = residual()
    cut = cut_(model, groups, KEPT)
    assert widths(cut) == {"stem": 3, "inner": 2, "head": 5}
    for group in cut:
        for slot in group.slots:
            assert slot.positions.flatten().tolist() == list(range(group.num_channels))


def test_two_cuts_are_their_composition() -> None:
    model, groups = residual()
    twice = shared_copy(model)
    cut_(model, groups, {"stem": torch.tensor([1, 6])})
    middle = cut_(twice, groups, {"stem": torch.tensor([1, 3, 6])})
    cut_(twice, middle, {"stem": torch.tensor([0, 2])})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twice.parameters(), strict=True))


def test_extents_fall_with_the_channels() -> None:
    model = CifarResNet(1)
    groups = trace_groups(model, torch.zeros(1, 3, 32, 32))
    cut = cut_(model, groups, {"layer2.0.conv2": torch.arange(3, 16)})
    assert (model.layer2[0].shortcut.before, model.layer2[0].shortcut.after) == (5, 8)
    assert by_name(cut)["layer2.0.conv2"].extents[0].counts.tolist() == [1] * 5 + [0] * 8
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_masks_cover_only_axes_that_lose_something() -> None:
    model, groups = residual()
    masks = kept_masks(model, groups, {"inner": torch.tensor([1, 5]), "stem": torch.arange(8)})
    assert masks.keys() == {("inner.weight", 0), ("inner.bias", 0), ("outer.weight", 1)}
    assert masks["outer.weight", 1].tolist() == [False, True, False, False, False, True]


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"sten": torch.tensor([0])}, "did you mean 'stem'"),
        ({"stem": torch.tensor([0, 8])}, "channels 0 to 7"),
        ({"stem": torch.tensor([-1, 2])}, "channels 0 to 7"),
        ({"stem": torch.tensor([], dtype=torch.int64)}, "keeps at least one"),
        ({"stem": torch.tensor([1, 1])}, "without duplicates"),
        ({"stem": torch.tensor([0.0])}, "integer"),
        ({"head": torch.tensor([0])}, "output of the model"),
    ],
)
def test_a_request_that_does_not_fit_changes_nothing(kept, message: str) -> None:
    model, groups = residual()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PlanError, match=message):
        cut_(model, groups, {"inner": torch.tensor([0])} | kept)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_frozen_group_may_be_listed_whole() -> None:
    model, groups = residual()
    assert widths(cut_(model, groups, {"head": torch.arange(5)})) == widths(groups)


def test_layout_and_type_survive_a_cut() -> None:
    tensor = torch.randn(4, 6, 3, 3).to(torch.float16).to(memory_format=torch.channels_last)
    cut = cut_tensor(tensor, {0: torch.tensor([True, False, True, True]), 1: torch.arange(6) > 1})
    assert cut.shape == (3, 4, 3, 3)
    assert cut.dtype == torch.float16
    assert cut.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(cut, tensor[[0, 2, 3]][:, 2:])
    assert cut_tensor(tensor, {}).data_ptr() != tensor.data_ptr()


def test_a_mask_zeroes_consumer_slices_and_nothing_else() -> None:
    model, groups = residual()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mask_(model, groups, {"inner": torch.tensor([1, 5])})
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed == ["outer.weight"]
    assert not model.outer.weight[:, [0, 2, 3, 4]].any()
    assert torch.equal(model.outer.weight[:, [1, 5]], before["outer.weight"][:, [1, 5]])


def test_a_mask_for_a_while_comes_off_bit_for_bit_after_an_error() -> None:
    model, groups = residual()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def interrupted() -> None:
        with masked(model, groups, KEPT):
            assert not model.outer.weight[:, [0, 2, 3, 4]].any()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_light_check_tells_a_right_cut_from_a_wrong_one() -> None:
    model = CifarResNet(1)
    groups = trace_groups(model, torch.zeros(1, 3, 32, 32))
    kept = random_kept(groups)
    right, wrong = shared_copy(model), shared_copy(model)
    cut_(right, groups, kept)
    cut_(wrong, groups, {**kept, "conv1": (kept["conv1"] + 1) % 16})
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images = torch.randn(4, 3, 32, 32)
    assert cut_matches_mask(model, right, groups, kept, images) < 1e-5
    assert cut_matches_mask(model, wrong, groups, kept, images) > 1e-2
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert model.training


def test_a_shared_copy_is_cut_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    twin = shared_copy(model)
    assert twin[0].weight.data_ptr() == model[0].weight.data_ptr()
    cut_(twin, trace_groups(model, IMAGES), {"0": torch.tensor([3])})
    assert model[0].weight.shape == (4, 3, 1, 1)
    assert twin[0].weight.shape == (1, 3, 1, 1)


def test_a_cut_to_one_channel_keeps_the_strides_of_the_layout() -> None:
    """Such a tensor counts as contiguous both ways; if strides differed after a resume, so would rounding."""
    dense = torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last)
    masks = {0: torch.arange(6) < 5, 1: torch.arange(4) < 1}
    narrow = cut_tensor(dense, masks)
    assert (
        narrow.stride()
        == torch.empty(5, 1, 3, 3)
        .to(memory_format=torch.channels_last)
        .clone(memory_format=torch.channels_last)
        .stride()
        == (9, 1, 3, 1)
    )
    assert cut_tensor(narrow, {0: torch.arange(5) < 2}).stride() == (9, 1, 3, 1)
    pointwise = cut_tensor(torch.randn(6, 4, 1, 1).to(memory_format=torch.channels_last), {0: torch.arange(6) < 5})
    assert pointwise.stride() == torch.empty(5, 4, 1, 1, memory_format=torch.channels_last).stride()
    plain = cut_tensor(torch.randn(6, 4, 3, 3), masks)
    assert plain.stride() == (9, 9, 3, 1)
