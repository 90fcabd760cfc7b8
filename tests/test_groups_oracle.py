"""Torch-Pruning as the oracle: the same coupled channels, the same cut, the same output."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from adasap.groups import cut_, prunable, trace_groups
from adasap.groups.cutting import named_tensors
from groups_nets import Residual

IMAGES = torch.randn(2, 3, 64, 64)


def small_densenet() -> nn.Module:
    return torchvision.models.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10)


def small_squeezenet() -> nn.Module:
    return torchvision.models.squeezenet1_1(num_classes=10)


def cut_by_the_peer(model: nn.Module, name: str, rows: list[int]) -> nn.Module:
    """A copy of the model without these rows of one layer, and without what the peer couples to them."""
    import torch_pruning

    other = copy.deepcopy(model)
    graph = torch_pruning.DependencyGraph().build_dependency(other, example_inputs=IMAGES)
    layer = other.get_submodule(name)
    remove = (
        torch_pruning.prune_linear_out_channels
        if isinstance(layer, nn.Linear)
        else torch_pruning.prune_conv_out_channels
    )
    graph.get_pruning_group(layer, remove, idxs=rows).prune()
    return other


@pytest.mark.filterwarnings("ignore")  # of the peer
@pytest.mark.parametrize(
    ("build", "num_prunable", "every"),
    [
        (Residual, 2, 1),
        pytest.param(torchvision.models.resnet18, 12, 2, marks=pytest.mark.slow),
        (small_densenet, 10, 1),
        pytest.param(torchvision.models.mobilenet_v2, 25, 3, marks=pytest.mark.slow),
        pytest.param(small_squeezenet, 25, 3, marks=pytest.mark.slow),
    ],
)
def test_the_peer_cuts_the_same_numbers(build: Callable[[], nn.Module], num_prunable: int, every: int) -> None:
    torch.manual_seed(0)
    model = build().eval()
    groups = trace_groups(model, IMAGES[:1])
    assert len(prunable(groups)) == num_prunable
    for group in prunable(groups)[::every]:
        stays = torch.arange(group.num_channels) % 3 != 1
        ours = copy.deepcopy(model)
        cut_(ours, groups, {group.name: stays.nonzero().flatten()})
        theirs = cut_by_the_peer(model, group.name, group.slots[0].positions[~stays].flatten().tolist())
        assert_equal(ours, theirs, group.name)


def assert_equal(ours: nn.Module, theirs: nn.Module, what: str) -> None:
    left, right = named_tensors(ours), named_tensors(theirs)
    assert left.keys() == right.keys()
    differ = [name for name in left if not torch.equal(left[name], right[name])]
    assert not differ, (what, differ)
    assert torch.equal(output(ours), output(theirs)), what


def output(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)
