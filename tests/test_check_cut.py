"""Masked = cut on whole models, and the proof that the proof would notice."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from adasap.errors import PlanError
from adasap.groups import ChannelGroup, CutProof, check_cut, prunable, trace_groups
from adasap.groups.check import _controls
from adasap.groups.cutting import cut_
from adasap.models import cifar_resnet
from groups_nets import CUTTABLE, IMAGES, Net, random_kept


def proven(model: nn.Module, images: Tensor, num_prunable: int) -> CutProof:
    """The proof of a random cut of every group that can be cut."""
    groups = trace_groups(model, images)
    kept = random_kept(groups, seed=1)
    assert len(prunable(groups)) == len(kept) == num_prunable
    proof = check_cut(model, groups, kept, images)
    assert proof.control.keys() == kept.keys()
    return proof


@pytest.mark.parametrize(
    ("name", "size", "num_prunable"),
    [
        ("resnet18", 32, 12),
        pytest.param("mobilenet_v2", 32, 25, marks=pytest.mark.slow),
        pytest.param("resnext50_32x4d", 32, 21, marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 64, 40, marks=pytest.mark.slow),
        pytest.param("squeezenet1_1", 64, 25, marks=pytest.mark.slow),
    ],
)
def test_cutting_a_torchvision_model_equals_masking_it(name: str, size: int, num_prunable: int) -> None:
    proof = proven(torchvision.models.get_model(name), torch.zeros(2, 3, size, size), num_prunable)
    assert proof.holds, str(proof)


@pytest.mark.slow
def test_cutting_a_densenet_equals_masking_it() -> None:
    """Twelve layers, of which every one reads all before it in its block."""
    model = torchvision.models.DenseNet(growth_rate=8, block_config=(2, 4, 4, 2), num_init_features=16)
    proof = proven(model, torch.zeros(2, 3, 32, 32), 2 * 12 + 1 + 3)
    assert proof.holds, str(proof)


@pytest.mark.parametrize(
    ("builder", "num_prunable"),
    [
        ("cifar_resnet20", 12),
        pytest.param("cifar_resnet56", 30, marks=pytest.mark.slow),
    ],
)
def test_cutting_a_cifar_resnet_equals_masking_it(builder: str, num_prunable: int) -> None:
    proof = proven(getattr(cifar_resnet, builder)(), torch.zeros(2, 3, 32, 32), num_prunable)
    assert proof.holds, str(proof)


def edited(groups: tuple[ChannelGroup, ...], name: str, edit) -> tuple[ChannelGroup, ...]:
    """The groups with the slots of one of them changed."""
    return tuple(replace(g, slots=edit(g.slots)) if g.name == name else g for g in groups)


def test_consumers_in_another_order_are_caught() -> None:
    def backwards(slots):
        return tuple(
            replace(slot, positions=slot.positions.flip(0)) if slot.role == "consumer" else slot for slot in slots
        )

    model = CUTTABLE["Residual"]()
    groups = trace_groups(model, IMAGES)
    kept = {"inner": torch.tensor([0, 1, 3])}
    assert check_cut(model, groups, kept, IMAGES).holds
    wrong = check_cut(model, edited(groups, "inner", backwards), kept, IMAGES)
    assert wrong.relative_error > 1e-3
    assert not wrong.holds
    assert "does NOT hold" in str(wrong)


def test_a_norm_in_another_order_is_caught() -> None:
    def rolled(slots):
        return tuple(
            replace(slot, positions=slot.positions.roll(1, 0)) if slot.role == "statistic" else slot for slot in slots
        )

    model = Net()
    groups = trace_groups(model, IMAGES)
    kept = {"stem": torch.tensor([0, 1, 5])}
    assert check_cut(model, groups, kept, IMAGES).holds
    assert check_cut(model, edited(groups, "stem", rolled), kept, IMAGES).relative_error > 1e-3


@pytest.mark.parametrize("role", ["producer", "consumer"])
def test_a_forgotten_slot_is_caught(role: str) -> None:
    model = CUTTABLE["Residual"]()
    groups = trace_groups(model, IMAGES)
    without = edited(groups, "inner", lambda slots: tuple(slot for slot in slots if slot.role != role))
    proof = check_cut(model, without, {"inner": torch.tensor([0, 2])}, IMAGES)
    assert proof.relative_error == float("inf")
    assert not proof.holds


def test_a_layer_that_reads_nothing_of_the_group_is_not_proven() -> None:
    class Ignored(Net):
        def __init__(self) -> None:
            super().__init__()
            self.side = nn.Conv2d(8, 6, 1)
            self.back = nn.Conv2d(6, 8, 1)

        def body(self, x: Tensor) -> Tensor:
            return x + 0.0 * self.back(self.side(x))

    model = Ignored()
    groups = trace_groups(model, IMAGES)
    proof = check_cut(model, groups, random_kept(groups), IMAGES)
    assert proof.relative_error <= 1e-9
    assert proof.unproven == ("side",)
    assert not proof.holds
    assert "not proven: side" in str(proof)


def test_a_forward_that_only_training_mode_breaks_is_caught() -> None:
    class Scaled(Net):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("noise", torch.ones(8, 1, 1))

        def body(self, x: Tensor) -> Tensor:
            return x + self.noise if self.training else x

    model = Scaled()
    groups = trace_groups(model, IMAGES)
    proof = check_cut(model, groups, random_kept(groups), IMAGES)
    assert proof.relative_error <= 1e-9
    assert "forward fails" in str(proof)
    assert not proof.holds


def test_branches_hidden_behind_zero_scales_are_seen() -> None:
    model = CUTTABLE["Residual"]()
    nn.init.zeros_(model.norm.weight)
    nn.init.zeros_(model.outer.weight)
    groups = trace_groups(model, IMAGES)
    assert check_cut(model, groups, random_kept(groups), IMAGES).holds


def test_the_check_leaves_the_model_and_the_random_state_alone() -> None:
    model = CUTTABLE["Residual"]()
    groups = trace_groups(model, IMAGES)
    before, random_state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()
    check_cut(model, groups, random_kept(groups), IMAGES)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert model.training
    assert model.stem.weight.dtype == torch.float32


def test_the_same_seed_gives_the_same_proof() -> None:
    model = CUTTABLE["Residual"]()
    groups = trace_groups(model, IMAGES)
    kept = random_kept(groups)
    first, second = (check_cut(model, groups, kept, IMAGES, seed=3) for _ in range(2))
    assert first == second
    assert first.control != check_cut(model, groups, kept, IMAGES, seed=4).control


def test_a_frozen_group_cannot_be_checked_away() -> None:
    model = Net()
    groups = trace_groups(model, IMAGES)
    with pytest.raises(PlanError, match="output of the model"):
        check_cut(model, groups, {"head": torch.tensor([0])}, IMAGES)


class Forgetful(nn.Sequential):
    """Its second forward and every later one give something else than its first."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * (1.0 if self.calls == 1 else 3.0)


def test_a_forward_that_writes_on_its_model_does_not_change_the_controls() -> None:
    def layers() -> list[nn.Module]:
        torch.manual_seed(0)
        return [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)]

    images, found = torch.randn(2, 4), []
    groups = trace_groups(nn.Sequential(*layers()), images)
    kept = {group.name: torch.arange(3) for group in prunable(groups)}
    for kind in (nn.Sequential, Forgetful):
        dense = kind(*layers())
        cut = copy.deepcopy(dense)
        cut_(cut, groups, kept)
        found.append(_controls(dense, cut, groups, kept, lambda model: float(model(images).detach().abs().sum())))
    assert found[0] == found[1]
    assert len(set(found[0].values())) == len(kept) == 2
