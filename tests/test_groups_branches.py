"""Residual branches: which can be taken out, what stands in their places, and that nothing else changes."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.errors import PlanError
from adasap.groups import check_cut, trace_groups
from adasap.groups.cutting import cut_
from adasap.groups.past import Groups
from adasap.groups.stand_ins import Branch, Passed, left_of, silenced, take_out_
from adasap.models.cifar_resnet import CifarResNet
from groups_nets import InPlaceResidual, Net, Residual, by_name, random_kept

IMAGES = torch.zeros(2, 3, 16, 16)


def traced(model: nn.Module, images: Tensor = IMAGES, **options: object) -> Groups:
    torch.manual_seed(0)
    return trace_groups(model.eval(), images, depth=True, **options)  # type: ignore[arg-type]


def all_modules(groups: Groups) -> dict[str, str]:
    return {name: gives for branch in groups.branches for name, gives in branch.modules.items()}


class WithoutSkip(Net):
    """An addition of two layers of the same input: neither is a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        return self.left(x) + self.right(x)


class Rectified(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class AfterNegative(Net):
    """A block with a ReLU at its end, of an input that may be negative: it would not pass it on."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.block = nn.Conv2d(8, 8, 1), Rectified()

    def body(self, x: Tensor) -> Tensor:
        return self.block(self.turn(x))


class CalledTwice(Net):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Conv2d(8, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        x = x + self.block(x)
        return x + self.block(x)


class LeavesTwice(Net):
    """What the branch computes inside is read outside, too."""

    width = 14

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def body(self, x: Tensor) -> Tensor:
        inner = F.relu(self.inner(x))
        return torch.cat([x + self.outer(inner), inner], 1)


class NormAlone(Net):
    """The branch ends in a norm without scale and shift, which makes something of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8, affine=False)

    def body(self, x: Tensor) -> Tensor:
        return x + self.last(self.inner(x))


def test_blocks_of_a_resnet_pass_their_input_on_where_width_and_stride_stay() -> None:
    branches = traced(CifarResNet(2)).branches
    assert [branch.name for branch in branches] == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    assert branches[0] == Branch("layer1.0", {"layer1.0": "input"}, ("layer1.0.bn2.weight", "layer1.0.bn2.bias"))


@pytest.mark.parametrize(("net", "first"), [(Residual, "input"), (InPlaceResidual, "zeros")])
def test_a_branch_that_no_module_holds_goes_layer_by_layer(net: type[Net], first: str) -> None:
    (branch,) = traced(net()).branches
    assert branch.modules == {"inner": first, "outer": "zeros"}, "in place it would write into the skip"
    assert branch.zeroed == ("outer.weight", "outer.bias")


def test_the_branches_of_a_transformer_go_one_by_one() -> None:
    model = torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3)
    branches = traced(model).branches
    layer = "encoder.layers.encoder_layer_0"
    assert [branch.name for branch in branches] == [f"{layer}.self_attention", f"{layer}.mlp"]
    assert branches[0].modules[f"{layer}.self_attention"] == "input and none"
    assert branches[1].modules == {f"{layer}.ln_2": "input", f"{layer}.mlp": "zeros"}


@pytest.mark.parametrize("net", [WithoutSkip, CalledTwice, NormAlone])
def test_what_would_change_more_than_its_branch_is_not_offered(net: type[Net]) -> None:
    assert traced(net()).branches == ()


def test_a_block_that_rectifies_what_may_be_negative_keeps_its_relu() -> None:
    assert [branch.modules for branch in traced(AfterNegative()).branches] == [{"block.conv": "zeros"}]


def test_a_branch_whose_inside_is_read_elsewhere_stays() -> None:
    assert traced(LeavesTwice()).branches == ()


def test_branches_of_kept_modules_are_not_offered_and_without_depth_none() -> None:
    assert [b.name for b in traced(CifarResNet(2), keep=("layer1.1.conv1",)).branches] == [
        "layer1.0",
        "layer2.1",
        "layer3.1",
    ]
    assert trace_groups(CifarResNet(2), IMAGES).branches == ()


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda: CifarResNet(2), id="resnet"),
        pytest.param(Residual, id="layers"),
        pytest.param(InPlaceResidual, id="in place"),
        pytest.param(lambda: torchvision.models.VisionTransformer(16, 8, 1, 2, 8, 16, num_classes=3), id="vit"),
        pytest.param(lambda: torchvision.models.mobilenet_v2(width_mult=0.1), id="mobilenet", marks=pytest.mark.slow),
        pytest.param(lambda: torchvision.models.convnext_tiny(), id="convnext", marks=pytest.mark.slow),
    ],
)
def test_taking_branches_out_and_channels_beside_equals_masking(build: object) -> None:
    model = build()  # type: ignore[operator]
    images = torch.zeros(2, 3, 64, 64) if hasattr(model, "classifier") else IMAGES
    groups = traced(model, images)
    removed = {name: gives for branch in groups.branches[::2] for name, gives in branch.modules.items()}
    left = by_name(left_of(groups, removed))
    kept = {name: indices for name, indices in random_kept(groups).items() if name in left}
    proof = check_cut(model, groups, kept, images, removed=removed)
    assert proof.relative_error <= 1e-9, str(proof)
    assert proof.training_failure is None
    assert {branch.name for branch in groups.branches[::2]} <= proof.control.keys()
    assert all(proof.control[branch.name] > 1e-4 for branch in groups.branches[::2])


def test_a_wrong_stand_in_is_seen() -> None:
    model = CifarResNet(2)
    groups = traced(model)
    wrong = Groups(groups, groups.past, [Branch("layer2.0", {"layer2.1": "input"}, ("layer2.0.bn2.weight",))])
    assert check_cut(model, wrong, {}, IMAGES, removed={"layer2.1": "input"}).relative_error > 1e-4


def test_groups_that_only_a_branch_has_go_with_it() -> None:
    groups = traced(CifarResNet(2))
    before, left = by_name(groups), by_name(left_of(groups, {"layer1.1": "input"}))
    assert before.keys() - left.keys() == {"layer1.1.conv1"}
    stream = left["conv1"]
    assert not any(slot.name.startswith("layer1.1.") for slot in stream.slots)
    assert left_of(groups, {}) == tuple(groups)


def test_a_cut_leaves_modes_and_everything_else_in_place() -> None:
    model = CifarResNet(2).train()
    groups = traced(model)
    model.train()
    untouched = model.layer1[0].conv1.weight
    after = cut_(model, groups, {}, {"layer1.1": "input"})
    assert isinstance(model.layer1[1], Passed)
    assert model.layer1[1].training
    assert model.layer1[0].conv1.weight is untouched
    assert [g.name for g in after] == [g.name for g in left_of(groups, {"layer1.1": "input"})]
    again = trace_groups(model.eval(), IMAGES)
    assert {g.name: g.num_channels for g in again} == {g.name: g.num_channels for g in after}


def test_silence_is_over_bit_for_bit_also_after_an_error() -> None:
    model = CifarResNet(2)
    (branch, *_) = traced(model).branches
    before = model.layer1[0].bn2.weight.detach().clone()
    with silenced(model, [branch]):
        assert not model.layer1[0].bn2.weight.any()
    with pytest.raises(ZeroDivisionError), silenced(model, [branch]):
        _ = 1 / 0
    assert torch.equal(model.layer1[0].bn2.weight, before)


def test_what_the_model_does_not_have_is_refused_before_anything_changes() -> None:
    model = CifarResNet(2)
    groups = traced(model)
    names = [name for name, _ in model.named_modules()]
    with pytest.raises(PlanError, match="module 'layer9', which the model does not have"):
        cut_(model, groups, {}, {"layer1.1": "input", "layer9": "input"})
    with pytest.raises(PlanError, match="would give 'code'; known: input"):
        take_out_(model, {"layer1.1": "code"})  # type: ignore[dict-item]
    with pytest.raises(PlanError, match=r"layer1\.0\.conv1' is no branch of these groups"):
        check_cut(model, groups, {}, IMAGES, removed={"layer1.0.conv1": "input"})
    assert [name for name, _ in model.named_modules()] == names
