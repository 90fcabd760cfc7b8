"""A budget of loss: the rise is sigma to first order, whatever the radii, the shape and the widths; a factor of the
start goes through cuts and resumes."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from adasap.errors import ArgumentError, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import dump_recipe, parse_recipe
from adasap.extras.norm_only import NormPerturbation
from adasap.extras.stale import StalePerturbation
from adasap.groups import trace_groups
from adasap.models import open_model
from adasap.pipeline import compress
from adasap.sharpness import (
    AdaptivePerturbation,
    LossBudget,
    Perturbation,
    PerturbationOptions,
    SharpnessOptions,
    Strength,
    UniformPerturbation,
    adaptive_radius,
    sharpness_aware_gradients,
)
from adasap.training import Record, StepRecord, Timetable
from adasap.training.perturbation_schedule import Perturber
from sharpness_nets import MIDPOINT, Toy, slow_epsilon, toy_groups, toy_radii, toy_with_gradients

Tree = dict[str, Any]
SHAPES = list(
    itertools.product(
        ("model", "group", "channel"), ("ellipsoid", "linear"), ("euclidean", "elementwise"), (True, False)
    )
)
FREE = 1e6
"""A `max_factor` that is never met."""


def strong(sigma: float, **budget: Any) -> LossBudget:
    return LossBudget(sigma, **{"max_factor": FREE, **budget})


def quadratic(model: nn.Module) -> tuple[Callable[[], Tensor], dict[str, Tensor]]:
    """sum a (w - t)^2 / 2 over all weights, and a by name."""
    torch.manual_seed(3)
    steep = {name: torch.rand_like(p) + 0.5 for name, p in model.named_parameters()}
    target = {name: torch.randn_like(p) for name, p in model.named_parameters()}

    def loss_and_backward() -> Tensor:
        terms = [(steep[n] * (p - target[n]).square()).sum() / 2 for n, p in model.named_parameters()]
        loss = torch.stack(terms).sum()
        loss.backward()
        return loss

    return loss_and_backward, steep


# ----- closed forms


@pytest.mark.parametrize("adaptive", [True, False], ids=["adaptive", "uniform"])
@pytest.mark.parametrize(("scope", "weighting", "geometry", "rescale"), SHAPES)
def test_the_rise_on_a_quadratic_is_sigma_and_its_curvature(
    scope: Any, weighting: Any, geometry: Any, rescale: bool, adaptive: bool
) -> None:
    """The offsets are those of the radii times one number, by which <g, eps> is sigma."""
    sigma, model = 0.03, toy_with_gradients().double()
    shape = {"scope": scope, "weighting": weighting, "geometry": geometry, "rescale": rescale, "norms": "midpoint"}
    options = PerturbationOptions(**shape, loss_budget=strong(sigma))
    if adaptive:
        perturbation: Any = AdaptivePerturbation(toy_groups(), toy_radii(), options, midpoint=MIDPOINT)
    else:
        perturbation = UniformPerturbation(0.7, options, toy_groups())
    loss_and_backward, steep = quadratic(model)
    model.zero_grad()
    loss_and_backward()
    slow = slow_epsilon(model, toy_groups(), toy_radii() if adaptive else 0.7, PerturbationOptions(**shape))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    factor = sigma / sum(float((gradients[name] * offset).sum()) for name, offset in slow.items())
    epsilon = perturbation.epsilon(model)
    for name, offset in slow.items():
        torch.testing.assert_close(epsilon[name], factor * offset, rtol=1e-5, atol=1e-8)
    bend = sum(float((steep[name] * offset.square()).sum()) for name, offset in epsilon.items()) / 2
    step = sharpness_aware_gradients(model, perturbation, loss_and_backward)
    assert step.linear_rise == pytest.approx(sigma, rel=1e-6)
    assert step.radius_factor == pytest.approx(factor, rel=1e-5)
    assert step.gap == pytest.approx(sigma + bend, rel=1e-5)


def test_the_radius_itself_drops_out_until_the_largest_factor_is_met() -> None:
    model = toy_with_gradients()
    options = PerturbationOptions(loss_budget=0.05)
    few, many = (UniformPerturbation(rho, options).epsilon(model) for rho in (0.5, 4.0))
    for name in few:
        torch.testing.assert_close(few[name], many[name])
    small = UniformPerturbation(1e-4, options)  # max_factor is 1: the radii that are given are the largest ones
    given = UniformPerturbation(1e-4).epsilon(model)
    assert all(torch.equal(offset, given[name]) for name, offset in small.epsilon(model).items())
    twice = UniformPerturbation(1e-4, PerturbationOptions(loss_budget=LossBudget(0.05, max_factor=2.0)))
    for name, offset in twice.epsilon(model).items():
        torch.testing.assert_close(offset, 2 * given[name])


@pytest.mark.parametrize("when", ["step", "start"])
def test_zero_radii_and_zero_gradients_are_plain_steps(when: Any) -> None:
    options = PerturbationOptions(loss_budget=LossBudget(0.1, when=when, batches=1))
    plain, nothing, flat = toy_with_gradients(), toy_with_gradients(), toy_with_gradients()
    expected = sharpness_aware_gradients(plain, None, quadratic(plain)[0])
    still = sharpness_aware_gradients(nothing, UniformPerturbation(0.0, options), quadratic(nothing)[0])
    assert still == expected
    assert all(torch.equal(p.grad, q.grad) for p, q in zip(plain.parameters(), nothing.parameters(), strict=True))

    def nowhere() -> Tensor:
        loss = sum(0.0 * p.sum() for p in flat.parameters())
        loss.backward()
        return loss

    perturbation = UniformPerturbation(0.5, options)
    for _ in range(3):
        step = sharpness_aware_gradients(flat, perturbation, nowhere)
        assert (step.gap, step.linear_rise, step.finite) == (0.0, 0.0, True)


def test_a_gradient_that_is_not_finite_moves_nothing_and_is_left_out_of_the_average() -> None:
    model = toy_with_gradients()
    perturbation = UniformPerturbation(0.5, PerturbationOptions(loss_budget=LossBudget(0.1, when="start", batches=2)))
    good, _ = quadratic(model)
    passes = iter(range(100))

    def bad() -> Tensor:
        loss = good()
        if next(passes) == 0:
            model.fc.weight.grad.fill_(math.inf)
        return loss

    step = sharpness_aware_gradients(model, perturbation, bad)
    assert math.isnan(step.linear_rise)
    assert (step.gap, step.finite, perturbation.strength.state()["count"]) == (0.0, True, 0)
    for _ in range(2):
        sharpness_aware_gradients(model, perturbation, good)
    assert not perturbation.strength.is_measuring


# ----- what the rise does not depend on


class Scaled(nn.Module):
    """Convolution, norm whose constant is next to nothing, convolution; no shifts in the middle."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, bias=False)
        self.norm = nn.BatchNorm2d(width, eps=1e-30)
        self.norm.register_parameter("bias", None)  # a shift has a length of its own, also in the elementwise geometry
        self.last = nn.Conv2d(width, 3, 2, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.norm(self.conv(images)).relu()).mean((2, 3))


def rise_of(net: nn.Module, perturbation: Perturbation) -> tuple[float, float, float | None]:
    torch.manual_seed(5)
    images, labels = torch.randn(16, 3, 6, 6, dtype=torch.float64), torch.arange(16) % 3

    def loss_and_backward() -> Tensor:
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        return loss

    step = sharpness_aware_gradients(net, perturbation, loss_and_backward)
    return step.loss, step.gap, step.radius_factor


def adaptive(net: nn.Module, options: PerturbationOptions) -> AdaptivePerturbation:
    """Radii by the number of the channel, which no rescaling changes."""
    groups = trace_groups(net, torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    scores = {g.name: torch.arange(g.num_channels).double() % 4 for g in groups if not g.is_output}
    return AdaptivePerturbation(groups, adaptive_radius(scores, rho_min=0.1, rho_max=1.0), options)


@pytest.mark.parametrize("make", [adaptive, lambda net, options: UniformPerturbation(0.4, options)])
def test_rescaling_a_layer_and_its_norm_leaves_the_rise(make: Callable[..., Perturbation]) -> None:
    torch.manual_seed(0)
    net = Scaled().double()
    nn.init.uniform_(net.norm.weight, 0.5, 2.0)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.conv.weight.mul_(7.0)  # undone by the norm
        other.norm.weight.mul_(3.0)  # undone by the next layer
        other.last.weight.div_(3.0)
    options = PerturbationOptions(eta=0.0, loss_budget=strong(0.1))
    first, second = (rise_of(model, make(model, options)) for model in (net, other))
    assert first == pytest.approx(second, rel=1e-6)
    euclidean = PerturbationOptions(geometry="euclidean", loss_budget=strong(0.1))
    first, second = (rise_of(model, make(model, euclidean)) for model in (net, other))
    assert first[1] != pytest.approx(second[1], rel=1e-2)


@pytest.mark.parametrize("make", [adaptive, lambda net, options: UniformPerturbation(0.4, options)])
def test_twice_the_width_leaves_the_rise_where_a_radius_would_halve_its_square(
    make: Callable[..., Perturbation],
) -> None:
    torch.manual_seed(0)
    net, wide = Scaled().double(), Scaled(8).double()
    nn.init.uniform_(net.norm.weight, 0.5, 2.0)
    with torch.no_grad():
        wide.conv.weight.copy_(torch.cat([net.conv.weight] * 2))
        wide.norm.weight.copy_(torch.cat([net.norm.weight] * 2))
        wide.last.weight.copy_(torch.cat([net.last.weight] * 2, 1) / 2)
    options = PerturbationOptions(eta=0.0, loss_budget=strong(0.1))
    (loss, gap, factor), (same_loss, same_gap, other) = (rise_of(model, make(model, options)) for model in (net, wide))
    assert (loss, gap) == pytest.approx((same_loss, same_gap), rel=1e-6)
    assert other == pytest.approx(math.sqrt(2) * factor, rel=1e-5)
    fixed = PerturbationOptions(eta=0.0)
    (_, gap, _), (_, less, _) = (rise_of(model, make(model, fixed)) for model in (net, wide))
    assert less < 0.9 * gap


# ----- the scale of the loss


@pytest.mark.parametrize(
    "make", [UniformPerturbation, lambda rho, o: StalePerturbation(UniformPerturbation(rho, o), {})]
)
@pytest.mark.parametrize("when", ["step", "start"])
def test_the_scale_of_the_loss_is_taken_out(when: Any, make: Callable[..., Any]) -> None:
    """Also where it changes from step to step, as a scaler's does."""
    seen = []
    for scales in ((1.0, 1.0, 1.0, 1.0), (2.0**16, 2.0**16, 2.0**15, 2.0**10)):
        model = toy_with_gradients()
        perturbation = make(0.5, PerturbationOptions(loss_budget=LossBudget(0.1, when=when, batches=2)))
        torch.manual_seed(3)
        target = {name: torch.randn_like(p) for name, p in model.named_parameters()}
        for scale in scales:

            def scaled(scale: float = scale, model: Toy = model, target: Tree = target) -> Tensor:
                loss = torch.stack([(p - target[n]).square().sum() for n, p in model.named_parameters()]).sum()
                (loss * scale).backward()
                return loss

            step = sharpness_aware_gradients(model, perturbation, scaled, loss_scale=scale)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.1 * parameter.grad / scale
            seen.append((step.perturbed_loss, step.linear_rise, step.radius_factor))
    assert seen[:4] == seen[4:]
    assert 0 < seen[3][2] < 1
    with pytest.raises(ArgumentError, match="loss_scale is 0"):
        sharpness_aware_gradients(model, perturbation, scaled, loss_scale=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_the_budget(dtype: torch.dtype) -> None:
    model = toy_with_gradients().to(dtype)
    loss_and_backward, _ = quadratic(model)
    step = sharpness_aware_gradients(
        model, UniformPerturbation(2.0, PerturbationOptions(loss_budget=0.5)), loss_and_backward
    )
    assert step.linear_rise == pytest.approx(0.5, rel=1e-3)
    assert 0 < step.gap < 2


# ----- a factor of the start


def test_a_factor_of_the_start_is_sigma_over_the_mean_rise_and_stays() -> None:
    model = toy_with_gradients()
    loss_and_backward, _ = quadratic(model)
    perturbation = UniformPerturbation(
        0.5, PerturbationOptions(loss_budget=LossBudget(0.05, when="start", batches=3)), toy_groups()
    )
    steps = []
    for _ in range(6):
        steps.append(sharpness_aware_gradients(model, perturbation, loss_and_backward))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.2 * parameter.grad
    measured = [step.linear_rise / step.radius_factor for step in steps]
    assert [step.linear_rise for step in steps[:3]] == pytest.approx([0.05] * 3, rel=1e-5)
    assert [step.radius_factor for step in steps[3:]] == pytest.approx([3 * 0.05 / sum(measured[:3])] * 3, rel=1e-6)
    assert steps[-1].linear_rise < 0.9 * steps[3].linear_rise  # the gradient has become smaller, the radius has not
    kept = Strength(perturbation.options.budget)
    kept.load(perturbation.strength.state())
    after = UniformPerturbation(0.5, perturbation.options, toy_groups(), strength=kept)
    assert sharpness_aware_gradients(model, after, loss_and_backward).radius_factor == steps[-1].radius_factor
    with pytest.raises(ArgumentError, match="leave out strength"):
        UniformPerturbation(0.5, PerturbationOptions(loss_budget=0.05), strength=kept)


def test_the_factor_can_follow_the_number_of_weights() -> None:
    options = PerturbationOptions(loss_budget=LossBudget(0.05, when="start", batches=1, follow_size=True))
    model = toy_with_gradients()
    first = UniformPerturbation(0.5, options)
    factor = sharpness_aware_gradients(model, first, quadratic(model)[0]).radius_factor
    numel = sum(p.numel() for p in model.parameters())
    norms = NormPerturbation(UniformPerturbation(0.5, options, strength=first.strength))
    moved = sum(model.get_parameter(name).numel() for name in norms.moves(dict(model.named_parameters())))
    later = sharpness_aware_gradients(model, norms, quadratic(model)[0]).radius_factor
    assert later == pytest.approx(factor * math.sqrt(moved / numel), rel=1e-6)


# ----- options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (0.0, "loss_budget.sigma is 0.0; give a number above 0"),
        ("much", "perturbation.loss_budget"),
        ({"sigma": 0.1, "when": "never"}, "perturbation.loss_budget"),
        ({"sigma": 0.1, "max_factor": -1.0}, "loss_budget.max_factor is -1.0"),
        ({"sigma": 0.1, "batches": 0}, "loss_budget.batches is 0"),
        ({"sigma": 0.1, "follow_size": True}, "give when: start"),
        ({"sigma": 0.1, "sigmas": 0.1}, "did you mean 'sigma'"),
        ({"when": "start"}, "loss_budget.sigma"),
    ],
)
def test_budgets_that_cannot_be_are_refused(tiny_recipe: Callable[..., Tree], given: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(tiny_recipe(warm_up={"sharpness": {"perturbation": {"loss_budget": given}}}))


def test_a_number_is_short_for_a_budget(tiny_recipe: Callable[..., Tree]) -> None:
    short, long = (
        parse_recipe(tiny_recipe(fine_tune={"sharpness": {"perturbation": {"loss_budget": given}}}))
        for given in (0.1, {"sigma": 0.1, "when": "step"})
    )
    assert dump_recipe(short) == dump_recipe(long)
    assert short.fine_tune.sharpness.perturbation.budget == LossBudget(0.1)
    euclidean = {"geometry": "euclidean", "loss_budget": {"sigma": 0.1, "when": "start", "follow_size": True}}
    with pytest.raises(RecipeError, match="give geometry: elementwise"):
        parse_recipe(tiny_recipe(fine_tune={"sharpness": {"perturbation": euclidean}}))
    with pytest.raises(RecipeError, match="no ascent that a loss_budget could limit"):
        SharpnessOptions(variants={"removal": {}}, perturbation=PerturbationOptions(loss_budget=0.1))


# ----- in a run


def sharp(sigma: float, **options: Any) -> Tree:
    budget = {"sigma": sigma, "when": options.pop("when", "step"), **options.pop("budget", {})}
    return {"perturbation": {"loss_budget": budget}, **options}


LAST_TENTH: Tree = {
    "warm_up": {"epochs": 1, "sharpness": sharp(0.02)},
    "fine_tune": {"epochs": 5, "sharpness": {"kind": "uniform", **sharp(0.1, form={"window": 0.1})}},
}
"""Adaptive through warm-up and pruning, plain, and sharpness-aware again in the last tenth."""


def test_the_last_tenth_costs_what_it_says(tiny_recipe: Callable[..., Tree]) -> None:
    recipe = parse_recipe(tiny_recipe(**LAST_TENTH))
    assert Timetable(8, 16, 56, 0, ()).plain_steps(recipe) == 2 * 16 + 36 + 2 * 4


def run(tree: Tree, folder: Path | None, *, stop_at: int | None = None) -> tuple[dict[str, Tensor], list[StepRecord]]:
    """The weights that a run ends with, and its steps."""
    recipe, steps = parse_recipe(tree), list[StepRecord]()

    def watch(record: Record) -> None:
        if isinstance(record, StepRecord):
            steps.append(record)
            if record.step == stop_at:
                raise KeyboardInterrupt

    torch.manual_seed(0)
    data = open_data(recipe)
    data = dataclasses.replace(data, suites=data.suites[:1])
    result = compress(open_model(recipe.model), open_task(recipe), data, recipe, folder=folder, observe=watch)
    return result.model.state_dict(), steps


@pytest.mark.slow
def test_each_phase_has_its_own_budget_in_each_form(tiny_recipe: Callable[..., Tree]) -> None:
    tree = tiny_recipe(
        warm_up={"epochs": 1, "sharpness": sharp(0.02, form={"every": 2})},
        pruning_sharpness=sharp(0.05, form={"subbatch": 0.5}),
        fine_tune={"epochs": 1, "sharpness": {"kind": "uniform", "rho": 5.0, **sharp(0.1, form={"window": 0.25})}},
    )
    _, steps = run(tree, None)
    rises = {
        phase: {s.step - 1: s.linear_rise for s in steps if s.phase == phase} for phase in {s.phase for s in steps}
    }
    due = {"warm-up": (range(0, 8, 2), 0.02), "pruning": (range(8, 16), 0.05), "fine-tuning": (range(22, 24), 0.1)}
    for phase, (when, sigma) in due.items():
        assert [step for step, rise in rises[phase].items() if rise is not None] == list(when)
        assert [rises[phase][step] for step in when] == pytest.approx([sigma] * len(when), rel=1e-5)
    assert all((s.radius_factor is None) == (s.linear_rise is None) for s in steps)


@pytest.mark.slow
def test_a_factor_of_the_start_goes_through_cuts_and_a_killed_run(
    tiny_recipe: Callable[..., Tree], tmp_path: Path
) -> None:
    """Stopped while it is measured, and after the cuts, while the next phase measures its own."""
    start: Tree = {"when": "start", "budget": {"batches": 7, "max_factor": 5.0}}
    tree = tiny_recipe(
        warm_up={"epochs": 1, "sharpness": sharp(0.02, **start)},
        fine_tune={"epochs": 1, "sharpness": {"kind": "uniform", **sharp(0.1, **start)}},
        training={"batch_size": 32, "checkpoint_every": 3, "optimizer": {"learning_rate": 0.02}},
    )
    whole, steps = run(tree, None)
    factors = [step.radius_factor for step in steps]
    assert len(set(factors[:7])) == 7
    assert len(set(factors[7:16])) == 1  # three cuts among them
    assert len(set(factors[16:23])) == 7
    for stop in (5, 20):
        with pytest.raises(KeyboardInterrupt):
            run(tree, tmp_path, stop_at=stop)
    resumed, last = run(tree, tmp_path)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []
    assert [step.radius_factor for step in last] == factors[-len(last) :]


@pytest.mark.parametrize(
    "variants", [{"stale": {}}, {"norm_only": {}}, {"gsam": {}}, {"pruned": {"fractions": [0.25]}}]
)
def test_variants_keep_the_budget(variants: Tree) -> None:
    torch.manual_seed(0)
    net = Scaled().double()
    groups = trace_groups(net, torch.zeros(1, 3, 6, 6, dtype=torch.float64))
    options = SharpnessOptions(variants=variants, perturbation=PerturbationOptions(loss_budget=strong(0.1)))
    perturber, images = Perturber(options), torch.randn(16, 3, 6, 6, dtype=torch.float64)

    def loss_and_backward() -> Tensor:
        loss = F.cross_entropy(net(images), torch.arange(16) % 3)
        loss.backward()
        return loss

    for step in range(2):
        seen = sharpness_aware_gradients(net, perturber.at(step, net, groups), loss_and_backward)
    assert seen.linear_rise == pytest.approx(0.1, rel=1e-6)


def test_a_mapping_is_told_what_takes_its_place() -> None:
    with pytest.raises(ArgumentError, match=r"give a number or adasap\.LossBudget"):
        PerturbationOptions(loss_budget={"sigma": 0.1})  # type: ignore[arg-type]
