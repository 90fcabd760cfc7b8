"""Whole paths of the library over a narrow strided 1x1 convolution, channels last; started by test_convolutions.

MALLOC_CHECK_=3 ends the process where the heap is written past its end. `python tests/convolution_paths.py PATH`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional

import adasap


def narrow() -> nn.Module:
    """Two blocks whose shortcuts have 4 and 6 inputs."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 1, 2), nn.ReLU(), nn.Conv2d(6, 8, 1, 2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).to(
        memory_format=torch.channels_last
    )


def batch() -> tuple[Tensor, Tensor]:
    """Sixteen images in that layout, and labels."""
    torch.manual_seed(1)
    return torch.randn(16, 3, 32, 32).to(memory_format=torch.channels_last), torch.arange(16) % 5


def sharpness_aware() -> None:
    """Gradients of a step with radius 0 are those of plain training without oneDNN."""
    model, (images, labels) = narrow(), batch()

    def loss_and_backward() -> Tensor:
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    groups = adasap.trace_groups(model, images)
    radii = {group.name: torch.full((group.num_channels,), 1e-12) for group in groups}
    for _ in range(50):
        model.zero_grad()
        adasap.sharpness_aware_gradients(model, adasap.AdaptivePerturbation(groups, radii), loss_and_backward)
    with torch.backends.mkldnn.flags(enabled=False):
        wanted = torch.autograd.grad(functional.cross_entropy(model(images), labels), list(model.parameters()))
    for parameter, gradient in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-6)


def prune() -> None:
    """A criterion of gradients, one cut, and training of what is left."""
    model, (images, labels) = narrow(), batch()

    def loss(net: nn.Module, given: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(net(given[0]), given[1])

    for criterion in ("taylor", "fisher", "hutchinson"):
        pruned = adasap.prune(model, images, criterion, {"macs": 0.6}, batches=[(images, labels)] * 8, loss=loss)
        for _ in range(20):
            loss(pruned.model.train(), (images, labels)).backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    {"sharpness_aware": sharpness_aware, "prune": prune}[sys.argv[1]]()
    print("right")
