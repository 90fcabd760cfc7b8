"""Data parallelism over two processes on one machine."""

import copy
import gc
import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from adasap.extras.gsam import SurrogateGapPerturbation
from adasap.sharpness import LossBudget, PerturbationOptions, UniformPerturbation, sharpness_aware_gradients

pytestmark = pytest.mark.slow
RHO = 0.5


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def shard(rank: int):
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)


def pass_over(model, rank, factor=1.0):
    x, y = shard(rank)

    def loss_and_backward():
        loss = F.cross_entropy(model(x), y)
        (loss * factor).backward()
        return loss

    return loss_and_backward


def clean_gradients(rank: int) -> list[torch.Tensor]:
    model = network()
    pass_over(model, rank)()
    return [p.grad for p in model.parameters()]


def gradients_at_moved_weights(rank: int, ascent: list[torch.Tensor]) -> list[torch.Tensor]:
    model = network()
    for p, gradient in zip(model.parameters(), ascent, strict=True):
        p.grad = gradient.clone()
    epsilon = UniformPerturbation(RHO).epsilon(model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(epsilon[name])
            p.grad = None
    pass_over(model, rank)()
    return [p.grad for p in model.parameters()]


def rise_along(gradients: list[torch.Tensor]) -> torch.Tensor:
    """rho ||T g|| in the elementwise geometry."""
    named = zip(network().named_parameters(), gradients, strict=True)
    stretched = [g if name.endswith("bias") else (p.detach().abs() + 0.01) * g for (name, p), g in named]
    return RHO * torch.cat([tensor.flatten() for tensor in stretched]).norm()


def mean(lists: list[list[torch.Tensor]]) -> list[torch.Tensor]:
    return [torch.stack(tensors).mean(0) for tensors in zip(*lists, strict=True)]


def check(rank: int, views: bool) -> None:
    clean = [clean_gradients(r) for r in range(2)]
    local = mean([gradients_at_moved_weights(r, clean[r]) for r in range(2)])
    joint = mean([gradients_at_moved_weights(r, mean(clean)) for r in range(2)])

    def step(perturbation=None, **options):
        model = DistributedDataParallel(network(), gradient_as_bucket_view=views)
        before = copy.deepcopy(list(model.parameters()))
        result = sharpness_aware_gradients(
            model,
            perturbation or UniformPerturbation(RHO),
            pass_over(model, rank, options.pop("factor", 1.0)),
            **options,
        )
        assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
        return model, [p.grad for p in model.parameters()], result

    g, g_p = mean(clean), joint
    along = sum((a * b).sum() for a, b in zip(g, g_p, strict=True)) / sum(b.square().sum() for b in g_p)
    combined = [b - 0.3 * (a - along * b) for a, b in zip(g, g_p, strict=True)]
    gsam = SurrogateGapPerturbation(UniformPerturbation(RHO), alpha=0.3)
    for actual, wanted in zip(step(gsam)[1], combined, strict=True):
        torch.testing.assert_close(actual, wanted)

    for expected, options in ((local, {}), (joint, {"sync_perturbation": True})):
        for actual, wanted in zip(step(**options)[1], expected, strict=True):
            torch.testing.assert_close(actual, wanted)

    # a budget of the start: both ranks end with the factor of their mean rise; until then each has its own
    budget = LossBudget(0.01, when="start", batches=2)
    start = UniformPerturbation(RHO, PerturbationOptions(loss_budget=budget))
    rises = [float(rise_along(gradients)) for gradients in clean]
    own = [step(start, **options)[2] for options in ({}, {"sync_perturbation": True}, {})]
    assert [s.linear_rise for s in own[:2]] == pytest.approx([0.01, 0.01])
    assert own[0].radius_factor == pytest.approx(0.01 / rises[rank])
    averaged = own[1].radius_factor
    assert own[2].radius_factor == pytest.approx(0.01 / ((sum(rises) / 2 + 0.01 / averaged) / 2))
    for factor in (averaged, own[2].radius_factor):
        everywhere = [torch.zeros((), dtype=torch.float64) for _ in range(2)]
        dist.all_gather(everywhere, torch.tensor(factor, dtype=torch.float64))
        assert torch.equal(*everywhere)
    start = UniformPerturbation(RHO, PerturbationOptions(loss_budget=budget))
    step(start, factor=float("inf") if rank else 1.0)  # which neither counts
    assert start.strength.state()["count"] == 0

    # one rank overflows: both make both passes, both see that the reduced gradient is not finite
    assert not step(factor=float("inf") if rank else 1.0)[2].finite

    # two micro-batches, each with its own epsilon, reduced once
    model = DistributedDataParallel(network(), gradient_as_bucket_view=views)
    with model.no_sync():
        sharpness_aware_gradients(model, UniformPerturbation(RHO), pass_over(model, rank), accumulate=True)
    sharpness_aware_gradients(model, UniformPerturbation(RHO), pass_over(model, rank), accumulate=True)
    for p, wanted in zip(model.parameters(), local, strict=True):
        torch.testing.assert_close(p.grad, 2 * wanted)

    # a layer that has a bucket of its own: its gradient is all of that memory
    wide = DistributedDataParallel(torch.nn.Linear(600, 600, bias=False), gradient_as_bucket_view=views)
    before, x = wide.module.weight.detach().clone(), torch.randn(4, 600)

    def of_wide() -> torch.Tensor:
        loss = wide(x).square().mean()
        loss.backward()
        return loss

    for _ in range(2):  # the views are there from the second backward on
        sharpness_aware_gradients(wide, UniformPerturbation(RHO), of_wide, sync_perturbation=True)
        assert torch.equal(wide.module.weight, before)

    with pytest.raises(ValueError, match="cannot show the hook"):
        sharpness_aware_gradients(model, None, pass_over(model, rank), accumulate=True, on_clean_gradients=lambda: None)


def worker(rank: int, port: int, views: bool) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        check(rank, views)
        gc.collect()
        dist.barrier()  # no rank leaves while another one's threads still talk to it
    finally:
        dist.destroy_process_group()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("views", [False, True], ids=["own-gradients", "bucket-views"])
def test_two_ranks_perturb_apart_or_together_and_agree(views):
    mp.spawn(worker, args=(free_port(), views), nprocs=2)
