"""One step: two passes, everything back in its place."""

import copy
import gc
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adasap.groups import cut_, trace_groups
from adasap.sharpness import (
    AdaptivePerturbation,
    PerturbationOptions,
    UniformPerturbation,
    sharpness_aware_gradients,
)
from sharpness_nets import MIDPOINT, Toy, toy_groups, toy_radii

ZERO = {name: torch.zeros_like(radius) for name, radius in toy_radii().items()}
SAM = PerturbationOptions(geometry="euclidean")


def toy_batch(seed: int = 0, size: int = 8):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 6, 6, generator=generator)
    return images, torch.randint(3, (size,), generator=generator)


def pass_over(model, batch, scale: float = 1.0):
    """A closure of forward and backward."""

    def loss_and_backward():
        loss = F.cross_entropy(model(batch[0]), batch[1])
        (loss * scale).backward()
        return loss

    return loss_and_backward


def seeded_toy(dropout: float = 0.0) -> Toy:
    torch.manual_seed(3)
    return Toy(dropout)


def adaptive() -> AdaptivePerturbation:
    return AdaptivePerturbation(toy_groups(), toy_radii(), midpoint=MIDPOINT)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_equal(actual, expected):
    assert actual.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(actual[name], expected[name])]


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


# ----- what the step computes


def test_step_on_a_quadratic_matches_the_closed_form():
    """L = sum a w^2 / 2: g = a w, so the final gradient is a (w + eps)."""
    curvature, weight, rho = torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, -1.0]]), 0.5
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = weight.clone()

    def loss_and_backward():
        loss = (curvature * model.weight.square()).sum() / 2
        loss.backward()
        return loss

    step = sharpness_aware_gradients(model, UniformPerturbation(rho, SAM), loss_and_backward)
    moved = weight + rho * torch.tensor([[3.0, -4.0]]) / 5
    torch.testing.assert_close(model.weight.grad, curvature * moved)
    assert torch.equal(model.weight, weight)
    assert step.loss == pytest.approx(6.5)
    assert step.perturbed_loss == pytest.approx(float((curvature * moved.square()).sum() / 2))
    assert step.gap == step.perturbed_loss - step.loss
    assert step.gap > 0
    assert step.gradient_norm == pytest.approx(float((curvature * moved).norm()))
    assert step.finite
    assert step.num_passes == 2


def test_final_gradient_is_that_of_a_model_moved_by_epsilon():
    model, batch = seeded_toy(), toy_batch()
    moved = copy.deepcopy(model)
    pass_over(model, batch)()
    epsilon = adaptive().epsilon(model)
    with torch.no_grad():
        for name, p in moved.named_parameters():
            p.add_(epsilon[name])
    pass_over(moved, batch)()
    sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    assert_equal(gradients(model), gradients(moved))


def test_earlier_gradients_are_cleared_and_weights_come_back_exactly():
    model, batch = seeded_toy(), toy_batch()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    first = gradients(model)
    sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    assert_equal(gradients(model), first)
    assert_equal(dict(model.named_parameters()), before)


def test_hook_sees_the_clean_gradient_once():
    model, batch = seeded_toy(), toy_batch()
    clean = copy.deepcopy(model)
    pass_over(clean, batch)()
    seen = []
    sharpness_aware_gradients(
        model, adaptive(), pass_over(model, batch), on_clean_gradients=lambda: seen.append(gradients(model))
    )
    assert len(seen) == 1
    assert_equal(seen[0], gradients(clean))


@pytest.mark.parametrize("perturbation", [None, UniformPerturbation(0.0)])
def test_hook_of_a_plain_step_sees_the_only_gradient(perturbation):
    model, batch, seen = seeded_toy(), toy_batch(), []
    step = sharpness_aware_gradients(
        model, perturbation, pass_over(model, batch), on_clean_gradients=lambda: seen.append(gradients(model))
    )
    assert_equal(seen[0], gradients(model))
    assert step.num_passes == 1
    assert step.gap == 0
    assert step.loss == step.perturbed_loss


def test_loss_may_be_a_python_float():
    model, batch = seeded_toy(), toy_batch()
    step = sharpness_aware_gradients(model, adaptive(), lambda: pass_over(model, batch)().item())
    other = sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    assert step.loss == other.loss
    assert step.perturbed_loss == other.perturbed_loss


# ----- a zero radius is plain training


def plain_training(model, optimizer, steps):
    for seed in range(steps):
        optimizer.zero_grad()
        pass_over(model, toy_batch(seed))()
        optimizer.step()


def train(model, optimizer, steps, perturbation):
    for seed in range(steps):
        step = sharpness_aware_gradients(model, perturbation, pass_over(model, toy_batch(seed)))
        assert step.num_passes == 1
        optimizer.step()


@pytest.mark.parametrize(
    "perturbation",
    [None, UniformPerturbation(0.0), AdaptivePerturbation(toy_groups(), ZERO)],
    ids=["none", "uniform", "adaptive"],
)
def test_zero_radius_is_plain_training_bit_for_bit(perturbation):
    """Weights, momentum, norm statistics and random state, over several steps."""
    states = []
    for run in (plain_training, train):
        model = seeded_toy(dropout=0.5)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-2)
        torch.manual_seed(11)
        run(model, optimizer, 4, *([perturbation] if run is train else []))
        momentum = {str(i): s["momentum_buffer"] for i, s in optimizer.state_dict()["state"].items()}
        states.append(snapshot(model) | momentum | {"random": torch.get_rng_state()})
    assert_equal(states[1], states[0])


OPTIMIZERS = [
    "SGD",
    "Adam",
    "AdamW",
    "NAdam",
    "RAdam",
    "Adamax",
    "RMSprop",
    "Adagrad",
    "Adadelta",
    "ASGD",
    "Rprop",
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_steps_as_usual(name):
    models = [seeded_toy(), seeded_toy()]
    for run, model in zip((plain_training, train), models, strict=True):
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.01)
        run(model, optimizer, 1, *([UniformPerturbation(0.0)] if run is train else []))
    assert_equal(snapshot(models[1]), snapshot(models[0]))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_any_optimizer_is_fed_the_perturbed_gradient_only(name):
    model, by_hand = seeded_toy(), seeded_toy()
    batch = toy_batch()
    sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    getattr(torch.optim, name)(model.parameters(), lr=0.01).step()
    pass_over(by_hand, batch)()
    offsets = adaptive().epsilon(by_hand)
    weights = {name: p.detach().clone() for name, p in by_hand.named_parameters()}
    with torch.no_grad():
        for key, p in by_hand.named_parameters():
            p.add_(offsets[key])
    by_hand.zero_grad()
    pass_over(by_hand, batch)()
    with torch.no_grad():
        for key, p in by_hand.named_parameters():
            p.copy_(weights[key])
    getattr(torch.optim, name)(by_hand.parameters(), lr=0.01).step()
    assert_equal(dict(model.named_parameters()), dict(by_hand.named_parameters()))


def test_clipping_and_weight_decay_act_on_the_final_gradient_only():
    model, batch, decay, limit, rate = seeded_toy(), toy_batch(), 0.1, 1e-3, 0.5
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, weight_decay=decay)
    step = sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    final = gradients(model)
    assert nn.utils.clip_grad_norm_(model.parameters(), limit).item() == pytest.approx(step.gradient_norm)
    optimizer.step()
    for name, p in model.named_parameters():
        clipped = final[name] * (limit / step.gradient_norm)
        torch.testing.assert_close(p.data, before[name] - rate * (clipped + decay * before[name]))


# ----- norm statistics and random numbers


def test_norm_statistics_move_once_and_as_in_a_clean_pass():
    model, batch = seeded_toy(), toy_batch()
    clean = copy.deepcopy(model)
    clean(batch[0])
    sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    assert_equal(dict(model.named_buffers()), dict(clean.named_buffers()))
    assert model.bn1.num_batches_tracked.item() == 1


def test_norm_layers_in_evaluation_mode_stay_as_they_are():
    model = seeded_toy()
    model.bn1.eval()
    before = {name: b.clone() for name, b in model.named_buffers()}
    sharpness_aware_gradients(model, adaptive(), pass_over(model, toy_batch()))
    assert_equal(dict(model.named_buffers()), before)
    assert not model.bn1.training


def test_both_passes_draw_the_same_dropout_mask():
    model, batch = seeded_toy(dropout=0.5), toy_batch()
    masks = []
    model.drop.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    assert masks[0].any()
    assert torch.equal(masks[0], masks[1])


def test_random_state_ends_where_one_pass_and_the_hook_leave_it():
    model, batch = seeded_toy(dropout=0.5), toy_batch()
    torch.manual_seed(5)
    copy.deepcopy(model)(batch[0])
    torch.rand(3)
    expected = torch.get_rng_state()
    torch.manual_seed(5)
    sharpness_aware_gradients(model, adaptive(), pass_over(model, batch), on_clean_gradients=lambda: torch.rand(3))
    assert torch.equal(torch.get_rng_state(), expected)


# ----- parameters that take no part


def test_frozen_parameters_stay_and_get_no_gradient():
    model, batch = seeded_toy(), toy_batch()
    model.conv1.weight.requires_grad_(False)
    inside = []

    def loss_and_backward():
        inside.append(model.conv1.weight.detach().clone())
        return pass_over(model, batch)()

    sharpness_aware_gradients(model, adaptive(), loss_and_backward)
    assert torch.equal(inside[0], inside[1])
    assert model.conv1.weight.grad is None


def test_parameters_that_the_loss_does_not_reach_stay():
    model, batch = seeded_toy(), toy_batch()
    model.unused = nn.Linear(2, 2)
    before = model.unused.weight.detach().clone()
    step = sharpness_aware_gradients(model, adaptive(), pass_over(model, batch))
    assert step.finite
    assert model.unused.weight.grad is None
    assert torch.equal(model.unused.weight, before)


def test_shared_parameters_are_restored_exactly():
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    model.append(model[0])
    before, x = model[0].weight.detach().clone(), torch.randn(5, 4)

    def loss_and_backward():
        loss = model(x).square().mean()
        loss.backward()
        return loss

    step = sharpness_aware_gradients(model, UniformPerturbation(0.5), loss_and_backward)
    assert step.gap > 0
    assert torch.equal(model[2].weight, before)


# ----- accumulation


@pytest.mark.parametrize("perturbation", [adaptive(), None], ids=["adaptive", "plain"])
def test_accumulation_by_micro_batches_is_the_sum_of_their_steps(perturbation):
    batches = [toy_batch(seed) for seed in range(3)]
    model, alone = seeded_toy(), seeded_toy()
    total, clean, seen = {}, [], []
    for batch in batches:
        sharpness_aware_gradients(
            alone,
            perturbation,
            pass_over(alone, batch),
            on_clean_gradients=lambda: clean.append(gradients(alone)),
        )
        for name, gradient in gradients(alone).items():
            total[name] = total[name] + gradient if name in total else gradient
    for batch in batches:
        sharpness_aware_gradients(
            model,
            perturbation,
            pass_over(model, batch),
            accumulate=True,
            on_clean_gradients=lambda: seen.append(gradients(model)),
        )
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, total[name])
    for expected, actual in zip(clean, seen, strict=True):
        assert_equal(actual, expected)  # each micro-batch's own gradient, not the running sum
    assert_equal(dict(model.named_buffers()), dict(alone.named_buffers()))


def test_plain_accumulation_is_bit_for_bit_that_of_torch():
    models = [seeded_toy(), seeded_toy()]
    for seed in range(3):
        pass_over(models[0], toy_batch(seed))()
        hook = (lambda: None) if seed % 2 else None
        sharpness_aware_gradients(
            models[1], None, pass_over(models[1], toy_batch(seed)), accumulate=True, on_clean_gradients=hook
        )
    assert_equal(gradients(models[1]), gradients(models[0]))


def test_closure_over_micro_batches_is_the_big_batch():
    images, labels = toy_batch(size=12)
    model, whole = seeded_toy(), seeded_toy()
    model.bn1.eval()
    whole.bn1.eval()

    def in_three():
        losses = []
        for part in range(3):
            rows = slice(4 * part, 4 * part + 4)
            losses.append(F.cross_entropy(model(images[rows]), labels[rows]) / 3)
            losses[-1].backward()
        return torch.stack(losses).sum()

    steps = [
        sharpness_aware_gradients(model, adaptive(), in_three),
        sharpness_aware_gradients(whole, adaptive(), pass_over(whole, (images, labels))),
    ]
    assert steps[0].perturbed_loss == pytest.approx(steps[1].perturbed_loss, rel=1e-5)
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)


# ----- things that go wrong


def failing(model, batch, in_pass: int):
    """A closure that draws random numbers, leaves gradients, then raises."""
    passes = iter(range(1, 3))

    def loss_and_backward():
        loss = pass_over(model, batch)()
        if next(passes) == in_pass:
            raise KeyError("broken batch")
        return loss

    return loss_and_backward


@pytest.mark.parametrize("in_pass", [1, 2])
def test_everything_is_restored_when_a_pass_raises(in_pass):
    model = seeded_toy(dropout=0.5)
    before, modes = snapshot(model), [m.training for m in model.modules()]
    with pytest.raises(KeyError, match="broken batch"):
        sharpness_aware_gradients(model, adaptive(), failing(model, toy_batch(), in_pass))
    assert_equal(snapshot(model), before)
    assert [m.training for m in model.modules()] == modes
    assert all(p.requires_grad for p in model.parameters())


def test_everything_is_restored_when_the_hook_raises():
    model, before = seeded_toy(), snapshot(seeded_toy())

    def hook():
        raise KeyError("broken hook")

    with pytest.raises(KeyError, match="broken hook"):
        sharpness_aware_gradients(model, adaptive(), pass_over(model, toy_batch()), on_clean_gradients=hook)
    assert_equal(snapshot(model), before)


def test_accumulated_gradients_survive_a_first_pass_that_raises():
    model, batch = seeded_toy(), toy_batch()
    pass_over(model, batch)()
    before = gradients(model)
    with pytest.raises(KeyError):
        sharpness_aware_gradients(model, adaptive(), failing(model, batch, 1), accumulate=True)
    assert_equal(gradients(model), before)


def overflowing(model, batch, in_pass: int, loss_too: bool = False):
    """A closure whose gradient overflows in one pass, as a scaled fp16 loss does."""
    passes = iter(range(1, 3))

    def loss_and_backward():
        overflow = next(passes) == in_pass
        loss = F.cross_entropy(model(batch[0]), batch[1])
        (loss * math.inf if overflow else loss).backward()
        return loss * math.nan if overflow and loss_too else loss

    return loss_and_backward


def test_overflow_in_pass_one_makes_the_last_pass_at_the_clean_weights():
    model, batch = seeded_toy(), toy_batch()
    plain = copy.deepcopy(model)
    pass_over(plain, batch)()
    step = sharpness_aware_gradients(model, adaptive(), overflowing(model, batch, 1))
    assert step.finite
    assert step.num_passes == 2
    assert step.gap == 0
    assert_equal(gradients(model), gradients(plain))
    assert_equal(snapshot(model), snapshot(plain))


@pytest.mark.parametrize("perturbation", [adaptive(), None], ids=["adaptive", "plain"])
def test_overflow_of_the_final_gradient_restores_weights_and_statistics(perturbation):
    model, batch = seeded_toy(), toy_batch()
    before = snapshot(model)
    last = 2 if perturbation else 1
    step = sharpness_aware_gradients(model, perturbation, overflowing(model, batch, last))
    assert not step.finite
    assert not math.isfinite(step.gradient_norm)
    assert_equal(snapshot(model), before)


def test_statistics_of_a_pass_whose_loss_is_not_finite_are_not_kept():
    model, batch = seeded_toy(), toy_batch()
    before = snapshot(model)
    step = sharpness_aware_gradients(model, adaptive(), overflowing(model, batch, 1, loss_too=True))
    assert step.finite
    assert_equal(snapshot(model), before)


# ----- models that change between steps


def test_parameters_and_norms_set_between_steps_are_those_that_move():
    model, batch, perturbation = seeded_toy(), toy_batch(), adaptive()
    sharpness_aware_gradients(model, perturbation, pass_over(model, batch))
    old, old_norm = model.conv1.weight, model.bn1
    model.conv1.weight, model.bn1 = nn.Parameter(2 * old.detach()), copy.deepcopy(old_norm)
    before, old_before = snapshot(model), old.detach().clone()
    seen, statistics = [], []

    def loss_and_backward():
        seen.append(model.conv1.weight.detach().clone())
        loss = pass_over(model, batch)()
        statistics.append(model.bn1.running_mean.clone())
        return loss

    sharpness_aware_gradients(model, perturbation, loss_and_backward)
    assert torch.equal(seen[0], before["conv1.weight"])
    assert not torch.equal(seen[1], seen[0])
    assert torch.equal(model.conv1.weight, seen[0])
    assert torch.equal(old, old_before)
    assert torch.equal(model.bn1.running_mean, statistics[0])


def test_a_cut_between_steps_is_noticed():
    model, x = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1)), torch.randn(4, 2)
    groups = trace_groups(model, x)
    perturbation = UniformPerturbation(0.5, PerturbationOptions(scope="channel"), groups)

    def loss_and_backward():
        loss = model(x).square().sum()
        loss.backward()
        return loss

    sharpness_aware_gradients(model, perturbation, loss_and_backward)
    new_groups = cut_(model, groups, {"0": torch.tensor([0, 2])})
    kept = snapshot(model)
    with pytest.raises(ValueError, match="after a cut, use the groups"):
        sharpness_aware_gradients(model, perturbation, loss_and_backward)
    assert_equal(snapshot(model), kept)
    anew = UniformPerturbation(0.5, PerturbationOptions(scope="channel"), new_groups)
    assert sharpness_aware_gradients(model, anew, loss_and_backward).gap > 0


# ----- compiled models and memory


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_forward_sees_the_moved_weights():
    model, batch = seeded_toy(), toy_batch()
    by_hand = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager")
    for _ in range(2):  # the second time the compiled graph is reused
        step = sharpness_aware_gradients(compiled, adaptive(), pass_over(compiled, batch))
        eager = sharpness_aware_gradients(by_hand, adaptive(), pass_over(by_hand, batch))
        assert step.loss == pytest.approx(eager.loss, rel=1e-5)
        assert step.perturbed_loss == pytest.approx(eager.perturbed_loss, rel=1e-4)
        for name, gradient in gradients(by_hand).items():
            torch.testing.assert_close(model.get_parameter(name).grad, gradient, rtol=1e-3, atol=1e-5)
        for name, buffer in by_hand.named_buffers():
            torch.testing.assert_close(model.get_buffer(name), buffer)
        assert_equal(dict(model.named_parameters()), dict(by_hand.named_parameters()))


def live_bytes() -> int:
    """Bytes of all tensors that Python can reach, gradients included."""
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, nn.Parameter):  # without the fake tensors of a compiler
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and tensor.layout is torch.strided:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@pytest.mark.slow
def test_extra_memory_during_the_passes_is_one_copy_of_the_weights():
    model = nn.Sequential(nn.Linear(1024, 1024), nn.BatchNorm1d(1024), nn.ReLU(), nn.Linear(1024, 1024))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    x, measured = torch.randn(4, 1024), []

    def loss_and_backward():
        loss = model(x).square().mean()
        loss.backward()
        measured.append(live_bytes())
        return loss

    sharpness_aware_gradients(model, None, loss_and_backward)
    for options in (SAM, PerturbationOptions()):
        sharpness_aware_gradients(model, UniformPerturbation(0.5, options), loss_and_backward)
    plain, *others = measured
    for first, second in zip(others[0::2], others[1::2], strict=True):
        assert first - plain < 0.03 * weights  # vectors over the rows, 28 bytes each; norm and random states
        assert weights <= second - plain < 1.03 * weights
