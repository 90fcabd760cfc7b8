"""Two gradients made into one: GSAM against its closed form, and what every perturbation that combines can rely on."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import adasap
from adasap.errors import ArgumentError, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.extras.gsam import SurrogateGapPerturbation
from adasap.extras.stale import StalePerturbation
from adasap.models import open_model
from adasap.sharpness import (
    CombiningPerturbation,
    PerturbationOptions,
    SharpnessOptions,
    StepForm,
    UniformPerturbation,
    sharpness_aware_gradients,
)
from adasap.sharpness.swap import Offsets
from adasap.training import Record, StepRecord
from sharpness_nets import Toy

Tree = dict[str, Any]
SAM = PerturbationOptions(geometry="euclidean")
CURVATURE, WEIGHT, RHO, ALPHA = torch.tensor([[1.0, 4.0]]), torch.tensor([[3.0, -1.0]]), 0.5, 0.3


class Quadratic(nn.Module):
    """L = sum a w^2 / 2, so g = a w."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(WEIGHT.clone()), scale

    def loss_and_backward(self) -> Tensor:
        loss = (CURVATURE * self.weight.square()).sum() / 2
        (loss * self.scale).backward()  # type: ignore[no-untyped-call]
        return loss.detach()


@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_gsam_on_a_quadratic_is_the_closed_form(scale: float) -> None:
    """g = (3, -4), eps = 0.1 g, g_p = a (w + eps) = (3.3, -5.6); all of it times the loss scale."""
    model = Quadratic(scale)
    gsam = SurrogateGapPerturbation(UniformPerturbation(RHO, SAM), alpha=ALPHA)
    step = sharpness_aware_gradients(model, gsam, model.loss_and_backward)
    clean, perturbed = torch.tensor([[3.0, -4.0]]).double(), torch.tensor([[3.3, -5.6]]).double()
    orthogonal = clean - (clean * perturbed).sum() / perturbed.square().sum() * perturbed
    expected = perturbed - ALPHA * orthogonal
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad.double() / scale, expected, rtol=1e-6, atol=0)
    assert not torch.allclose(expected, perturbed, rtol=1e-2)  # it matters
    assert torch.equal(model.weight, WEIGHT)
    assert step.gradient_norm == pytest.approx(scale * float(expected.norm()))
    assert step.num_passes == 2


def test_descending_by_gsam_lowers_the_gap_more_and_the_perturbed_loss_as_much() -> None:
    def after(alpha: float) -> tuple[float, float]:
        model = Quadratic()
        perturbation = SurrogateGapPerturbation(UniformPerturbation(RHO, SAM), alpha=alpha)
        sharpness_aware_gradients(model, perturbation, model.loss_and_backward)
        with torch.no_grad():
            model.weight.sub_(1e-3 * model.weight.grad)  # type: ignore[arg-type]
        step = sharpness_aware_gradients(model, perturbation, model.loss_and_backward)
        return step.gap, step.perturbed_loss

    (gap, loss), (gap_of_sam, loss_of_sam) = after(0.4), after(0.0)
    assert gap < gap_of_sam
    assert loss == pytest.approx(loss_of_sam, abs=1e-4)


def toy() -> tuple[Toy, Callable[[nn.Module], Callable[[], Tensor]]]:
    torch.manual_seed(3)
    images, labels = torch.randn(8, 3, 6, 6), torch.arange(8) % 3

    def over(model: nn.Module) -> Callable[[], Tensor]:
        def loss_and_backward() -> Tensor:
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss.detach()

        return loss_and_backward

    return Toy(), over


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_alpha_zero_is_the_step_without_it_bit_for_bit() -> None:
    (model, over), base = toy(), UniformPerturbation(0.5)
    other = copy.deepcopy(model)
    sharpness_aware_gradients(model, SurrogateGapPerturbation(base, alpha=0.0), over(model))
    sharpness_aware_gradients(other, base, over(other))
    first, second = gradients(model), gradients(other)
    assert [name for name in second if not torch.equal(first[name], second[name])] == []


class Kept(CombiningPerturbation):
    """Remembers what it is given."""

    def __init__(self) -> None:
        self.inner = UniformPerturbation(0.5)
        self.clean: dict[str, Tensor] = {}
        self.perturbed: dict[str, Tensor] = {}

    @property
    def is_zero(self) -> bool:
        return False

    def offsets(self, parameters: Mapping[str, nn.Parameter], *, consume_gradients: bool = False) -> Offsets:
        return self.inner.offsets(parameters, consume_gradients=consume_gradients)

    def combine_(self, clean: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]) -> None:
        self.clean = dict(clean)
        self.perturbed = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
        for parameter in parameters.values():
            parameter.grad = torch.ones_like(parameter)


def test_it_is_given_both_gradients_and_has_the_last_word() -> None:
    model, over = toy()
    plain, exact = copy.deepcopy(model), copy.deepcopy(model)
    over(plain)()
    sharpness_aware_gradients(exact, UniformPerturbation(0.5), over(exact))
    kept = Kept()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    sharpness_aware_gradients(model, kept, over(model), on_direction=lambda: None)
    for found, expected in ((kept.clean, gradients(plain)), (kept.perturbed, gradients(exact))):
        assert found.keys() == expected.keys()
        assert [name for name in expected if not torch.equal(found[name], expected[name])] == []
    assert all(bool((gradient == 1).all()) for gradient in gradients(model).values())
    assert all(torch.equal(before[name], p) for name, p in model.named_parameters())


def test_what_an_ascent_may_not_see_is_still_in_the_clean_gradient() -> None:
    (model, over), kept = toy(), Kept()

    def forget() -> None:
        for parameter in model.parameters():
            parameter.grad.zero_()  # type: ignore[union-attr]

    sharpness_aware_gradients(model, kept, over(model), on_direction=forget)
    assert all(bool(gradient.any()) for gradient in kept.clean.values())


def test_a_clean_gradient_that_is_not_finite_is_no_step() -> None:
    model = Quadratic()
    passes = iter([float("inf"), 1.0])

    def loss_and_backward() -> Tensor:
        loss = (CURVATURE * model.weight.square()).sum() / 2
        (loss * next(passes)).backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    gsam = SurrogateGapPerturbation(UniformPerturbation(RHO, SAM), alpha=ALPHA)
    assert not sharpness_aware_gradients(model, gsam, loss_and_backward).finite


def test_a_gradient_of_zero_stays_zero() -> None:
    layer = nn.Linear(2, 1)

    def loss_and_backward() -> Tensor:
        loss = (layer.weight * 0).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    sharpness_aware_gradients(layer, SurrogateGapPerturbation(UniformPerturbation(0.5), alpha=1.0), loss_and_backward)
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


def test_what_cannot_be_combined_is_refused() -> None:
    with pytest.raises(ArgumentError, match="StalePerturbation leaves no two gradients"):
        SurrogateGapPerturbation(StalePerturbation(UniformPerturbation(0.5), {}), alpha=0.1)
    with pytest.raises(ArgumentError, match="loop over the micro-batches"):
        sharpness_aware_gradients(nn.Linear(1, 1), Kept(), lambda: 0.0, accumulate=True)
    for options in (
        {"variants": {"stale": {}, "gsam": {}}},
        {"variants": {"norm_only": {}, "gsam": {}}},
        {"variants": {"gsam": {}}, "form": StepForm(subbatch=0.5)},
    ):
        with pytest.raises(RecipeError, match="two passes over the whole batch"):
            SharpnessOptions(**options)  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="name it last"):
        SharpnessOptions(variants={"gsam": {}, "pruned": {}})
    with pytest.raises(RecipeError, match=r"variants\.gsam\.alpha is -1"):
        SharpnessOptions(variants={"gsam": {"alpha": -1}})


@pytest.mark.slow
def test_a_run_by_gsam_goes_on_to_the_same_bits_through_its_cuts(
    tiny_recipe: Callable[..., Tree], tmp_path: Path
) -> None:
    """The events come after steps 8, 10 and 13; the run is killed after 11 and goes on from 10, where it was cut."""
    gsam = {"variants": {"gsam": {"alpha": 0.2}}}
    sections = {
        "training": {"checkpoint_every": 5},
        "fine_tune": {"epochs": 1, "sharpness": {"kind": "uniform"} | gsam},
    }
    recipe = parse_recipe(tiny_recipe(warm_up={"epochs": 1, "sharpness": gsam}, **sections))
    without = parse_recipe(tiny_recipe(warm_up={"epochs": 1}, **(sections | {"fine_tune": {"epochs": 1}})))

    def run(folder: Path, observe: Callable[[Record], None], of: Any = recipe) -> dict[str, Tensor]:
        torch.manual_seed(0)
        adasap.compress(open_model(of.model), open_task(of), open_data(of), of, folder=folder, observe=observe)
        return load_file(folder / "checkpoint.safetensors")

    def snapshot(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step == 11:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    steps: list[int] = []
    whole = run(tmp_path / "whole", snapshot)
    killed = run(tmp_path / "killed", lambda record: steps.append(getattr(record, "step", 0)))
    other = run(tmp_path / "without", lambda record: None, without)
    assert min(steps) >= 10
    assert whole.keys() == killed.keys()
    assert [name for name in whole if not torch.equal(whole[name], killed[name])] == []
    assert any(whole[n].shape != other[n].shape or not torch.equal(whole[n], other[n]) for n in whole if n in other)
