"""Mixed precision: autocast and loss scaling."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adasap.sharpness import UniformPerturbation, sharpness_aware_gradients


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator)


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("outside", [True, False], ids=["around-the-step", "inside-the-closure"])
def test_bf16_autocast_step_is_close_to_float32(outside):
    """Also with one autocast region around both passes, whose cache of cast weights must not hide epsilon."""
    x, y = batch()
    gaps = []
    for precise in (True, False):
        model = network()

        def loss_and_backward(model=model, precise=precise):
            with torch.autocast("cpu", torch.bfloat16, enabled=not precise):
                loss = F.cross_entropy(model(x).float(), y)
            loss.backward()
            return loss

        with torch.autocast("cpu", torch.bfloat16, enabled=outside and not precise):
            step = sharpness_aware_gradients(model, UniformPerturbation(1.0), loss_and_backward)
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
        gaps.append(step.gap)
    assert gaps[1] == pytest.approx(gaps[0], rel=0.1)


def scaled_pass(model, scaler, overflow_in: int = 0):
    x, y = batch()
    passes = iter(range(1, 3))

    def loss_and_backward():
        loss = F.cross_entropy(model(x), y)
        scaled = scaler.scale(loss)
        (scaled * math.inf if next(passes) == overflow_in else scaled).backward()
        return loss

    return loss_and_backward


def scaled_step(overflow_in: int = 0, scale: float = 2.0**12):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = state(model)
    step = sharpness_aware_gradients(model, UniformPerturbation(0.5), scaled_pass(model, scaler, overflow_in))
    scaler.step(optimizer)
    scaler.update()
    return model, before, step, scaler.get_scale() / scale


def test_loss_scale_changes_neither_step_nor_losses():
    small, large = scaled_step(scale=1.0), scaled_step(scale=2.0**16)
    assert same(state(small[0]), state(large[0]))
    assert small[2].loss == large[2].loss
    assert small[2].perturbed_loss == large[2].perturbed_loss
    assert large[2].gradient_norm == pytest.approx(small[2].gradient_norm * 2**16)


def test_overflow_in_the_last_pass_skips_the_step_and_lowers_the_scale_once():
    model, before, step, change = scaled_step(overflow_in=2)
    assert not step.finite
    assert same(state(model), before)
    assert change == 0.5


def test_overflow_in_the_first_pass_makes_a_plain_step():
    model, _, step, change = scaled_step(overflow_in=1)
    assert step.finite
    assert change == 1.0
    plain = network()
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9)
    F.cross_entropy(plain(batch()[0]), batch()[1]).backward()
    optimizer.step()
    for name, tensor in state(plain).items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_fp16_weights_make_a_step():
    model = network().half()
    x, y = batch()

    def loss_and_backward():
        loss = F.cross_entropy(model(x.half()).float(), y)
        (loss * 1024).backward()
        return loss

    before = state(model)
    step = sharpness_aware_gradients(model, UniformPerturbation(0.5), loss_and_backward)
    assert step.finite
    assert step.gap > 0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
