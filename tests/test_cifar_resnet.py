"""The CIFAR ResNets are the published ones: sizes, names, shortcuts, weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adasap.models import cifar_resnet
from adasap.models.cifar_resnet import PaddedShortcut


@pytest.mark.parametrize(
    ("depth", "num_parameters"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962)],
)
def test_sizes_are_the_published_ones(depth: int, num_parameters: int) -> None:
    model = getattr(cifar_resnet, f"cifar_resnet{depth}")()
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    layers = [m for m in model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(layers) == depth


def test_the_shortcut_takes_every_second_pixel_and_pads_both_sides() -> None:
    images = torch.randn(2, 4, 6, 6)
    out = PaddedShortcut(2, before=1, after=3)(images)
    assert out.shape == (2, 8, 3, 3)
    assert torch.equal(out[:, 1:5], images[:, :, ::2, ::2])
    assert not out[:, :1].any()
    assert not out[:, 5:].any()


def test_new_channels_stand_evenly_around_the_old_ones() -> None:
    model = cifar_resnet.cifar_resnet20()
    counts = [(s.before, s.after) for s in model.modules() if isinstance(s, PaddedShortcut)]
    assert counts == [(8, 8), (16, 16)]


def test_the_number_of_classes_is_free() -> None:
    assert cifar_resnet.cifar_resnet20(num_classes=7)(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.shared_data
@pytest.mark.parametrize(("depth", "file"), [(20, "resnet20_cifar10"), (56, "resnet56_cifar10")])
def test_published_weights_load_by_name(shared_data: Path, depth: int, file: str) -> None:
    model = getattr(cifar_resnet, f"cifar_resnet{depth}")()
    tensors = load_file(shared_data / "weights" / f"{file}.safetensors")
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)
