"""The quick walk over modules and parameters is torch's."""

import pytest
import torch
from torch import nn

from adasap.groups.parameters import members, named_parameters
from adasap.models.cifar_resnet import cifar_resnet20


def tied() -> nn.Module:
    """A module used twice, a parameter used twice, absent ones, and an empty module."""
    shared = nn.Linear(2, 2)
    model = nn.ModuleDict(
        {"a": nn.Sequential(shared, nn.ReLU(), shared), "b": nn.Linear(2, 2, bias=False), "c": shared}
    )
    model["b"].weight = shared.weight
    model.register_module("nothing", None)
    model.register_parameter("nobody", None)
    model.own = nn.Parameter(torch.zeros(()))
    return model


@pytest.mark.parametrize("build", [tied, cifar_resnet20, nn.Identity])
def test_names_order_and_sharing_are_those_of_torch(build):
    model = build()
    found = members(model)
    assert [module for _, module in found] == list(model.modules())
    assert [prefix.removesuffix(".") for prefix, _ in found] == [name for name, _ in model.named_modules()]
    assert [(n, id(p)) for n, p in named_parameters(found).items()] == [(n, id(p)) for n, p in model.named_parameters()]
