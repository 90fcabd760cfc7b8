"""What every perturbation must do, by itself and in a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor, nn

from adasap.groups import ChannelGroup, trace_groups
from adasap.sharpness import sharpness_aware_gradients
from adasap.sharpness.layout import KINDS
from adasap.sharpness.perturbation import Perturbation, SinglePassPerturbation

MakePerturbation = Callable[[nn.Module, Sequence[ChannelGroup]], Perturbation]


def small_net() -> tuple[nn.Module, Sequence[ChannelGroup]]:
    """Two convolutions with norms and a classifier of 6 x 6 pixels, and their groups; the same at every call."""
    state = torch.get_rng_state()
    torch.manual_seed(0)
    net = _layers()
    for parameter in net.parameters():  # no zeros and ones: a mistake must show
        nn.init.normal_(parameter, std=0.5)
    torch.set_rng_state(state)
    return net, _groups()


@cache
def _groups() -> Sequence[ChannelGroup]:
    """Those of `small_net`."""
    return trace_groups(_layers(), torch.zeros(1, 3, 6, 6))


def _layers() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    )


def loss_of(net: nn.Module, scale: float = 1.0, *, seed: int = 1) -> Callable[[], Tensor]:
    """A pass over one batch; its loss is scaled for `backward` alone."""
    images = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))

    def loss_and_backward() -> Tensor:
        loss = nn.functional.cross_entropy(net(images), torch.tensor([0, 1, 2, 0]))
        (loss * scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    return loss_and_backward


def first_pass(net: nn.Module, perturbation: Perturbation, scale: float = 1.0) -> None:
    """What comes before the offsets of a step: its first pass, or where there is none, a step before it."""
    if isinstance(perturbation, SinglePassPerturbation):
        sharpness_aware_gradients(net, perturbation, loss_of(net, scale))
    net.zero_grad()
    if not isinstance(perturbation, SinglePassPerturbation):
        loss_of(net, scale)()


def offsets_of(net: nn.Module, perturbation: Perturbation) -> dict[str, Tensor]:
    """Parameter name -> offset, after `first_pass`."""
    parameters = dict(net.named_parameters())
    if isinstance(perturbation, SinglePassPerturbation):
        perturbation.load_gradients_(parameters)
    found = perturbation.offsets(parameters)
    return {name: offset.clone() for name, offset in zip(found.names, found.multiplied(), strict=True)}


class PerturbationContract:
    """Asks for the fixture `make`, which is called with a model and its groups and gives a fresh perturbation."""

    def test_offsets_are_finite_and_shaped_as_their_parameters(self, make: MakePerturbation) -> None:
        net, groups = small_net()
        perturbation, parameters = make(net, groups), dict(net.named_parameters())
        first_pass(net, perturbation)
        found = offsets_of(net, perturbation)
        assert found.keys() <= parameters.keys()
        for name, offset in found.items():
            assert (offset.shape, offset.dtype) == (parameters[name].shape, parameters[name].dtype), name
            assert offset.isfinite().all(), f"the offset of {name} is not finite"

    def test_only_what_it_says_is_moved(self, make: MakePerturbation) -> None:
        net, groups = small_net()
        perturbation = make(net, groups)
        moved = perturbation.moves(dict(net.named_parameters()))
        first_pass(net, perturbation)
        assert moved is None or offsets_of(net, perturbation).keys() <= set(moved), f"it says that it moves {moved}"

    def test_if_it_is_zero_nothing_moves(self, make: MakePerturbation) -> None:
        net, groups = small_net()
        perturbation = make(net, groups)
        first_pass(net, perturbation)
        is_zero, found = perturbation.is_zero, offsets_of(net, perturbation)
        assert not is_zero or not any(offset.any() for offset in found.values())

    def test_offsets_do_not_depend_on_the_scale_of_the_loss(self, make: MakePerturbation) -> None:
        found = []
        for scale in (1.0, 1024.0):
            net, groups = small_net()
            perturbation = make(net, groups)
            first_pass(net, perturbation, scale)
            found.append(offsets_of(net, perturbation))
        plain, scaled = found
        for name, offset in plain.items():
            torch.testing.assert_close(scaled[name], offset, rtol=1e-4, atol=1e-6, msg=f"{name} follows the loss scale")

    def test_weights_are_left_where_they_were(self, make: MakePerturbation) -> None:
        net, groups = small_net()
        perturbation = make(net, groups)
        before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
        for _ in range(2):  # one that remembers a step is plain at first
            step = sharpness_aware_gradients(net, perturbation, loss_of(net))
            assert step.finite
            for name, weight in net.named_parameters():
                assert torch.equal(weight, before[name]), f"{name} did not come back bit for bit"
                assert weight.grad is not None
                assert weight.grad.isfinite().all(), f"the gradient of {name} is not finite"

    def test_the_same_step_gives_the_same_bits(self, make: MakePerturbation) -> None:
        gradients = []
        for _ in range(2):
            net, groups = small_net()
            perturbation = make(net, groups)
            for _ in range(2):
                sharpness_aware_gradients(net, perturbation, loss_of(net))
            gradients.append([weight.grad for weight in net.parameters()])
        assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True) if a is not None and b is not None)

    def test_a_gradient_that_is_not_finite_is_no_step(self, make: MakePerturbation) -> None:
        net, groups = small_net()
        perturbation = make(net, groups)
        before = [weight.detach().clone() for weight in net.parameters()]
        sharpness_aware_gradients(net, perturbation, loss_of(net))
        assert not sharpness_aware_gradients(net, perturbation, loss_of(net, float("inf"))).finite
        assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before, strict=True)), "the weights moved"
        assert sharpness_aware_gradients(net, perturbation, loss_of(net)).finite, "it does not recover"

    def test_shares_are_parts_of_one(self, make: MakePerturbation) -> None:
        net, groups = small_net()
        perturbation = make(net, groups)
        first_pass(net, perturbation)
        offsets_of(net, perturbation)
        shares = perturbation.shares()
        assert set(shares) == set(KINDS)
        assert all(share >= 0 for share in shares.values())
        assert sum(shares.values()) <= 1 + 1e-5
