"""Running statistics estimated anew."""

import pytest
import torch
from torch import nn

from adasap.sharpness import recalibrate_


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 3, 1))
    return layers.append(nn.BatchNorm2d(3, momentum=0.3))


def batches(count: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, 3, 3, generator=generator) * (i + 1) + i for i in range(count)]


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_statistics_are_the_mean_over_the_batches():
    model = network()
    hidden = [model[0](x).detach() for x in batches()]
    assert recalibrate_(model, batches()) == 3
    mean = torch.stack([h.mean((0, 2, 3)) for h in hidden]).mean(0)
    variance = torch.stack([h.transpose(0, 1).flatten(1).var(1) for h in hidden]).mean(0)
    torch.testing.assert_close(model[1].running_mean, mean)
    torch.testing.assert_close(model[1].running_var, variance)
    assert model[1].num_batches_tracked.item() == 3


def test_result_does_not_depend_on_the_earlier_statistics():
    models = [network(), network()]
    models[1][1].running_mean.fill_(7.0)
    models[1](batches()[0])
    for model in models:
        recalibrate_(model, batches())
    for one, other in zip(models[0].buffers(), models[1].buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_later_layers_are_normalised_and_dropout_is_off():
    """In training mode a batch's own statistics normalise it; without dropout two runs agree exactly."""
    models = [network(), network()]
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        recalibrate_(model, batches())
    assert torch.equal(models[0][4].running_mean, models[1][4].running_mean)
    hidden = [models[0][3](nn.functional.batch_norm(models[0][0](x), None, None, training=True)) for x in batches()]
    mean = torch.stack([h.mean((0, 2, 3)) for h in hidden]).mean(0)
    torch.testing.assert_close(models[0][4].running_mean, mean.detach(), rtol=1e-4, atol=1e-5)


def test_weights_modes_momenta_and_random_state_are_left_alone():
    model = network()
    model[1].eval()
    model[3].eval()
    modes, random = [m.training for m in model.modules()], torch.get_rng_state()
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    recalibrate_(model, batches())
    assert [m.training for m in model.modules()] == modes
    assert (model[1].momentum, model[4].momentum) == (0.1, 0.3)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and torch.equal(p, weights[name]) for name, p in model.named_parameters())


def test_batches_may_be_pairs_or_anything_with_a_forward():
    models = [network() for _ in range(3)]
    recalibrate_(models[0], batches())
    recalibrate_(models[1], [(x, "label") for x in batches()])
    recalibrate_(models[2], [{"x": x} for x in batches()], forward=lambda model, batch: model(batch["x"]))
    for other in models[1:]:
        assert all(torch.equal(a, b) for a, b in zip(models[0].buffers(), other.buffers(), strict=True))


@pytest.mark.parametrize("given", [[], [torch.ones(4, 2, 3, 3), torch.ones(1)]], ids=["none", "broken"])
def test_statistics_come_back_if_it_fails(given):
    model = network().eval()
    model[1].running_mean.fill_(3.0)
    before = state(model)
    with pytest.raises((ValueError, RuntimeError)):
        recalibrate_(model, given)
    after = state(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(m.training for m in model.modules())
    assert model[4].momentum == 0.3


def test_models_without_running_statistics_read_no_batches():
    assert recalibrate_(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), iter([])) == 0
    assert recalibrate_(nn.BatchNorm1d(2, track_running_stats=False), iter([])) == 0
