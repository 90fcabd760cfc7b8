"""Products with the Hessian, eigenvalues, trace and density, against exact matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adasap.analysis import (
    Hessian,
    Objective,
    channel_blocks,
    group_blocks,
    hutchinson_trace,
    layer_blocks,
    random_signs,
    spectral_density,
    top_eigenvalues,
)
from adasap.errors import ModelError, RecipeError
from adasap.groups import trace_groups
from analysis_nets import OnceNet, exact_hessian, quadratic, small_objective, symmetric


def columns(product: Hessian) -> Tensor:
    return torch.stack([product(row) for row in torch.eye(product.size, dtype=torch.float64)])


@pytest.mark.parametrize("keep_graphs", [False, True])
def test_products_are_those_of_the_exact_hessian(keep_graphs: bool) -> None:
    objective = small_objective()
    exact, product = exact_hessian(objective), Hessian(objective, keep_graphs=keep_graphs)
    assert product.method == "double backward"
    probes = torch.randn(3, product.size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for probe in probes:
        assert torch.allclose(product(probe), exact @ probe, rtol=1e-9, atol=1e-12)
    differences = Hessian(objective, method="finite differences")
    assert torch.allclose(differences(probes[0]), exact @ probes[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_blocks_are_those_of_the_exact_hessian() -> None:
    objective = small_objective()
    exact = exact_hessian(objective)
    groups = trace_groups(objective.model, torch.zeros(1, 2, 5, 5, dtype=torch.float64))
    layers, of_groups = layer_blocks(objective), group_blocks(objective, groups)
    assert torch.cat(list(layers.values())).sort().values.tolist() == list(range(objective.size))
    assert of_groups["0"].tolist() == [*range(4 * 18), *range(4 * 18, 4 * 18 + 8)]
    assert channel_blocks(objective, groups)["0"][1].tolist() == [*range(18, 36), 73, 77]
    for block in (layers["3"], of_groups["0"], channel_blocks(objective, groups)["3"][2]):
        found = columns(Hessian(objective, coordinates=block))
        assert torch.allclose(found, exact[block][:, block], rtol=1e-8, atol=1e-11)
    found = columns(Hessian(objective, coordinates=layers["1"], method="finite differences"))
    assert torch.allclose(found, exact[layers["1"]][:, layers["1"]], rtol=1e-4, atol=1e-6)
    with pytest.raises(ModelError, match="at least one coordinate"):
        Hessian(objective, coordinates=torch.tensor([objective.size]))


def test_a_model_that_cannot_be_differentiated_twice_is_differenced() -> None:
    torch.manual_seed(0)
    objective = Objective(OnceNet(), [torch.randn(4, 3, dtype=torch.float64)], lambda model, batch: model(batch))
    product = Hessian(objective)
    assert product.method == "finite differences"
    assert "only once" in product.reason

    smooth = OnceNet()
    smooth.load_state_dict(objective.model.state_dict())
    smooth.forward = lambda x: smooth.second(smooth.first(x).sin()).square().mean()  # type: ignore[method-assign]
    exact = exact_hessian(Objective(smooth, objective.batches, lambda model, batch: smooth_loss(model, batch)))
    assert torch.allclose(columns(product), exact, rtol=1e-4, atol=1e-6)


def smooth_loss(bound: torch.nn.Module, batch: Tensor) -> Tensor:
    return bound(batch)


def test_lanczos_finds_both_ends_with_honest_residuals() -> None:
    matrix = symmetric(40)
    exact = torch.linalg.eigvalsh(matrix).flip(0)
    start = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = top_eigenvalues(lambda v: matrix @ v, start, 5, tolerance=1e-6)
    assert found.converged
    assert "all residuals within 1e-06" in found.stopped
    assert torch.allclose(found.largest, exact[:5], rtol=1e-9)
    assert found.smallest == pytest.approx(exact[-1].item(), abs=2 * found.smallest_residual + 1e-9)
    for value, vector in zip(found.largest, found.vectors, strict=True):
        assert (matrix @ vector - value * vector).norm() < 1e-5 * exact[0]
    early = top_eigenvalues(lambda v: matrix @ v, start, 3, tolerance=1e-6, max_steps=6)
    assert not early.converged
    assert early.steps == 6
    assert "limit of 6 products" in early.stopped
    for value, residual, vector in zip(early.largest, early.residuals, early.vectors, strict=True):
        assert (matrix @ vector - value * vector).norm().item() == pytest.approx(residual.item(), rel=1e-6)
        assert (exact - value).abs().min() <= residual * (1 + 1e-9)


def test_lanczos_goes_on_where_the_space_is_exhausted() -> None:
    twice = torch.diag(torch.tensor([5.0, 5.0, 1.0, -7.0]))
    found = top_eigenvalues(lambda v: twice @ v, torch.ones(4), 4)
    assert found.largest.tolist() == pytest.approx([5, 5, 1, -7], abs=1e-5)
    zero = top_eigenvalues(lambda v: 0 * v, torch.ones(3), 2)
    assert zero.largest.tolist() == [0, 0]
    one = top_eigenvalues(lambda v: 2 * v, torch.ones(1))
    assert one.largest.tolist() == [2.0]
    with pytest.raises(RecipeError, match="1 to n eigenvalues"):
        top_eigenvalues(lambda v: v, torch.ones(2), 3)


def test_full_reorthogonalisation_leaves_no_ghosts() -> None:
    matrix = torch.diag(torch.cat([torch.tensor([1000.0]), torch.linspace(0, 1, 199)]))
    start = torch.randn(200, generator=torch.Generator().manual_seed(2))
    found = top_eigenvalues(lambda v: matrix @ v, start, 3, max_steps=60, tolerance=1e-9)
    assert found.largest[0].item() == pytest.approx(1000, rel=1e-5)
    assert found.largest[1].item() < 1.01  # without it 1000 comes again


def test_trace_of_a_hessian_and_its_parts() -> None:
    objective = small_objective()
    exact, product, parts = exact_hessian(objective), Hessian(objective, keep_graphs=True), layer_blocks(objective)
    found = hutchinson_trace(product, product.size, draws=60, parts=parts, like=product.like)
    assert abs(found.value - exact.trace().item()) < 3 * found.standard_error
    off = exact - torch.diag(exact.diagonal())
    assert found.standard_error == pytest.approx((2 * off.square().sum().item() / 60) ** 0.5, rel=0.3)
    for name, positions in parts.items():
        values = found.parts[name]
        assert abs(values.mean() - exact.diagonal()[positions].sum()) < 4 * values.std() / 60**0.5
    diagonal = hutchinson_trace(lambda v: torch.arange(3.0) * v, 3, draws=2)
    assert (diagonal.value, diagonal.standard_error) == (3.0, 0.0)
    with pytest.raises(RecipeError, match="2 or more"):
        hutchinson_trace(lambda v: v, 3, draws=1)


def test_quadrature_reproduces_moments_exactly() -> None:
    matrix = symmetric(30)
    probe = random_signs(30, torch.Generator().manual_seed(0), matrix)
    found = spectral_density(lambda v: matrix @ v, [probe, 2 * probe], steps=4)
    for power in range(8):  # 2 m - 1 = 7
        moment = (found.nodes**power * found.weights).sum(1)
        expected = probe @ torch.linalg.matrix_power(matrix, power) @ probe / 30
        assert moment.tolist() == pytest.approx([expected.item()] * 2, rel=1e-8)
    grid = torch.linspace(-40, 40, 4001, dtype=torch.float64)
    assert torch.trapezoid(found.at(grid, width=0.5), grid).item() == pytest.approx(1.0, abs=1e-6)
    short = spectral_density(lambda v: 3 * v, [torch.ones(5)], steps=4)
    assert (short.nodes * short.weights).sum().item() == pytest.approx(3.0)


def test_a_quadratic_through_the_whole_chain() -> None:
    matrix = symmetric(6)
    objective = quadratic(matrix, torch.ones(6, dtype=torch.float64), torch.ones(6, dtype=torch.float64), (1.0, 2.0))
    product = Hessian(objective)
    found = top_eigenvalues(product, product.random_start(), 6)
    assert found.largest.tolist() == pytest.approx((1.5 * torch.linalg.eigvalsh(matrix)).flip(0).tolist())
