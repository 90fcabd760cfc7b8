"""Sharpness in balls, on average, and along directions, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from adasap.analysis import (
    Ball,
    Objective,
    average_sharpness,
    filter_normalised_direction,
    fold_batch_norms,
    loss_line,
    loss_plane,
    symmetric_grid,
    worst_case_sharpness,
)
from adasap.errors import DataError, ModelError, RecipeError
from analysis_nets import cross_entropy, quadratic, small_batches, small_net, small_objective, symmetric

W = torch.tensor([1.0, -2.0, 0.0, 0.5], dtype=torch.float64)
SLOPE = torch.tensor([0.3, 0.4, -5.0, 1.0], dtype=torch.float64)
FLAT = torch.zeros(4, 4, dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 6])
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("geometry", ["euclidean", "elementwise"])
def test_a_linear_loss_rises_by_the_radius_times_the_dual_norm(geometry: str, norm: str, steps: int) -> None:
    objective = quadratic(FLAT, SLOPE, W, scales=(1.0, 3.0))
    stretched = SLOPE if geometry == "euclidean" else SLOPE * W.abs()
    length = stretched.norm() if norm == "l2" else stretched.abs().sum()
    results = worst_case_sharpness(objective, [0.1, 0.7], geometry=geometry, norm=norm, steps=steps)  # type: ignore[arg-type]
    for radius, result in zip((0.1, 0.7), results, strict=True):
        expected = radius * length * torch.tensor([1.0, 3.0], dtype=torch.float64)
        assert torch.allclose(result.one_step, expected, rtol=1e-9)
        assert torch.allclose(result.n_step, expected, rtol=1e-9)


def on_the_circle(matrix: torch.Tensor, slope: torch.Tensor, weights: torch.Tensor, radius: float) -> float:
    angles = torch.linspace(0, 2 * math.pi, 20_001, dtype=torch.float64)
    d = radius * torch.stack([angles.cos(), angles.sin()])
    gradient = matrix @ weights + slope
    return float((d * (matrix @ d)).sum(0).div(2).add(gradient @ d).max())


@pytest.mark.parametrize("radius", [0.1, 1.0, 5.0])
def test_ascent_finds_the_maximum_of_a_convex_quadratic(radius: float) -> None:
    matrix = torch.tensor([[4.0, 1.0], [1.0, 0.5]], dtype=torch.float64)
    slope, weights = torch.tensor([-3.0, 2.0], dtype=torch.float64), torch.tensor([0.5, -0.3], dtype=torch.float64)
    best = on_the_circle(matrix, slope, weights, radius)
    [result] = worst_case_sharpness(quadratic(matrix, slope, weights), [radius], steps=30)
    assert result.one_step.item() <= result.n_step.item() <= best * (1 + 1e-6)
    assert result.n_step.item() == pytest.approx(best, rel=1e-4)
    assert radius < 1 or result.one_step.item() < 0.99 * best  # the one-step estimate is below it


def test_the_best_iterate_is_kept_where_steps_overshoot() -> None:
    bump = Objective(
        nn.Linear(1, 1, bias=False).double(), [None], lambda model, _: -(model.weight - 0.1).square().sum()
    )
    nn.init.zeros_(bump.model.weight)  # type: ignore[arg-type]
    [result] = worst_case_sharpness(bump, [4.0], steps=12)
    assert result.one_step.item() == pytest.approx(0.01 - 3.9**2)
    assert result.n_step.item() == pytest.approx(0.01, rel=0.05)


def test_no_radius_no_gradient_and_losses_that_are_not_finite() -> None:
    assert worst_case_sharpness(small_objective(), [0.0])[0].n_step.tolist() == [0.0, 0.0]
    still = quadratic(FLAT, torch.zeros(4, dtype=torch.float64), W)
    assert worst_case_sharpness(still, [1.0])[0].n_step.item() == 0.0
    layer = nn.Linear(1, 1, bias=False)
    cliff = Objective(
        layer, [None], lambda model, _: (1.0 / (model.weight.detach().abs() < 5)).sum() + model.weight.sum()
    )
    [result] = worst_case_sharpness(cliff, [10.0], steps=4)
    assert result.not_finite >= 1
    assert 0 < result.n_step.item() < 6
    assert result.to_json()["one_step"]["mean"] is None
    with pytest.raises(RecipeError, match="radius is -1"):
        Ball(-1.0)
    with pytest.raises(RecipeError, match="1 step or more"):
        worst_case_sharpness(cliff, [1.0], steps=0)


def test_average_case_is_half_the_trace_on_a_quadratic() -> None:
    matrix = symmetric(4)
    objective = quadratic(matrix, -matrix @ W, W)  # no gradient at w
    [small, large] = average_sharpness(objective, [0.1, 0.2], draws=600, seed=3)
    assert abs(small.mean - 0.005 * matrix.trace().item()) < 4 * small.standard_error
    assert small.standard_error < 0.1 * 0.005 * matrix.norm().item()
    linear = average_sharpness(quadratic(FLAT, SLOPE, W), [0.1, 0.2], draws=5)
    assert torch.allclose(2 * linear[0].rises, linear[1].rises)  # the same noise
    stretched = average_sharpness(quadratic(matrix, SLOPE, W), [0.1], geometry="elementwise", draws=600)[0]
    expected = 0.005 * (matrix.diagonal() * W.square()).sum().item()
    assert abs(stretched.mean - expected) < 4 * stretched.standard_error
    assert large.rises.shape == (600, 1)


def test_measuring_leaves_the_model_as_it_was() -> None:
    objective = small_objective()
    net = objective.model.train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    worst_case_sharpness(objective, [0.1], geometry="elementwise", norm="linf", steps=2)
    average_sharpness(objective, [0.1], draws=2)
    loss_line(objective, filter_normalised_direction(objective), [0.5])
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_directions_are_as_long_as_filters_and_lines_cross_the_loss() -> None:
    objective = small_objective()
    first, second = (filter_normalised_direction(objective, seed=seed) for seed in (0, 1))
    for name, weight in objective.parameters.items():
        expected = weight.flatten(1).norm(dim=1) if weight.ndim > 1 else torch.zeros(())
        found = first[name].flatten(1).norm(dim=1) if weight.ndim > 1 else first[name].abs().max()
        assert torch.allclose(found, expected.to(found))
    grid = symmetric_grid(0.5, 3)
    plane, line = loss_plane(objective, first, second, grid), loss_line(objective, first, grid)
    assert plane[1] == pytest.approx(line)
    assert line[1] == pytest.approx(objective.losses().mean().item())
    assert plane[0][2] == pytest.approx(_at(objective, first, 0.5, second, -0.5))


def _at(objective: Objective, first: dict, a: float, second: dict, b: float) -> float:
    return objective.losses({name: a * first[name] + b * second[name] for name in first}).mean().item()


def test_folding_removes_the_scale_that_the_function_does_not_depend_on() -> None:
    net, inputs = small_net().eval(), small_batches(1)[0][0]
    scaled = small_net().eval()
    with torch.no_grad():  # the same function
        scaled[0].weight.mul_(10.0)
        scaled[1].running_mean.mul_(10.0)
        scaled[1].running_var.mul_(100.0).add_(99 * scaled[1].eps)
    assert torch.allclose(net(inputs), scaled(inputs), rtol=1e-6)
    folded = [fold_batch_norms(one, inputs[:1]) for one in (net, scaled)]
    assert folded[0][1] == ("1", "4")
    assert torch.allclose(folded[0][0](inputs), net(inputs))
    rises = [
        worst_case_sharpness(Objective(one, small_batches(), cross_entropy), [0.05])[0].one_step.mean().item()
        for one in (net, scaled, folded[0][0], folded[1][0])
    ]
    assert abs(rises[0] - rises[1]) > 0.05 * rises[0]
    assert rises[2] == pytest.approx(rises[3], rel=1e-5)


def test_a_norm_that_reads_what_others_read_stays() -> None:
    class Branched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.fc = nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.fc((self.norm(y) + y).mean((2, 3)))

    folded, names = fold_batch_norms(Branched(), torch.zeros(1, 2, 3, 3))
    assert names == ()
    assert isinstance(folded.norm, nn.BatchNorm2d)


def test_an_objective_says_what_it_needs() -> None:
    with pytest.raises(DataError, match="at least one batch"):
        Objective(small_net(), [], cross_entropy)
    with pytest.raises(ModelError, match="requires a gradient"):
        Objective(small_net().requires_grad_(False), small_batches(), cross_entropy)
