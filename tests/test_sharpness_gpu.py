"""The same on a CUDA device."""

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from adasap.sharpness import AdaptivePerturbation, PerturbationOptions, sharpness_aware_gradients
from sharpness_nets import MIDPOINT, Toy, toy_groups, toy_radii, toy_with_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(model):
    moved = copy.deepcopy(model).cuda()
    for p, original in zip(moved.parameters(), model.parameters(), strict=True):
        p.grad = original.grad.cuda()
    return moved


@pytest.mark.parametrize("scope", ["model", "group", "channel"])
@pytest.mark.parametrize("geometry", ["euclidean", "elementwise"])
@pytest.mark.parametrize("budget", [None, 0.03])
def test_epsilon_is_that_of_the_cpu_and_the_host_never_waits(scope, geometry, budget):
    model = toy_with_gradients()
    moved = on_gpu(model)
    radii = {name: radius.cuda() for name, radius in toy_radii().items()}
    options = PerturbationOptions(geometry, scope, loss_budget=budget)
    perturbation = AdaptivePerturbation(toy_groups(), radii, options, midpoint=MIDPOINT)
    perturbation.epsilon(moved)  # builds the layout
    perturbation.update(radii)
    torch.cuda.set_sync_debug_mode("error")
    try:
        actual = perturbation.epsilon(moved)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected = AdaptivePerturbation(toy_groups(), toy_radii(), options, midpoint=MIDPOINT).epsilon(model)
    for name, offset in expected.items():
        torch.testing.assert_close(actual[name].cpu(), offset, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
@pytest.mark.parametrize("budget", [None, 0.03])
def test_gradient_that_is_not_finite_moves_nothing(bad, budget):
    model = on_gpu(toy_with_gradients())
    model.conv2.weight.grad[0, 0, 0, 0] = bad
    options = PerturbationOptions(scope="channel", loss_budget=budget)
    epsilon = AdaptivePerturbation(toy_groups(), toy_radii(), options, midpoint=MIDPOINT).epsilon(model)
    assert not any(bool(offset.any()) for offset in epsilon.values())


def test_both_passes_draw_the_same_dropout_mask():
    torch.manual_seed(0)
    model = Toy(dropout=0.5).cuda()
    images, labels, masks = torch.randn(8, 3, 6, 6).cuda(), torch.randint(3, (8,)).cuda(), []
    model.drop.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))

    def loss_and_backward():
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    perturbation = AdaptivePerturbation(toy_groups(), toy_radii(), midpoint=MIDPOINT)
    assert sharpness_aware_gradients(model, perturbation, loss_and_backward).finite
    assert masks[0].any()
    assert torch.equal(masks[0], masks[1])
