"""Each cheaper form against its formula written out by hand, and what all forms have in common."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from adasap.errors import PlanError, RecipeError
from adasap.extras.norm_only import NormPerturbation
from adasap.extras.removal import Removal, RemovalPerturbation
from adasap.extras.stale import StalePerturbation
from adasap.groups.masking import masked
from adasap.pruning import PruningPlan, apply_plan_
from adasap.sharpness import (
    AdaptivePerturbation,
    PerturbationOptions,
    SharpnessOptions,
    StepForm,
    UniformPerturbation,
    sharpness_aware_gradients,
)
from sharpness_nets import MIDPOINT, Toy, slow_epsilon, toy_groups, toy_radii

ZERO = {name: torch.zeros_like(radius) for name, radius in toy_radii().items()}
FORMS = (
    "exact",
    "subbatch",
    "norm_only",
    "subbatch and norm_only",
    "stale",
    "stale and norm_only",
    "attenuate",
    "drop",
)


class Form:
    """A model and the form it is trained by, on one batch of twelve."""

    def __init__(self, name: str, radii=None, factor: float = 1.0) -> None:
        torch.manual_seed(3)
        self.model = Toy()
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(12, 3, 6, 6, generator=generator)
        self.labels = torch.randint(3, (12,), generator=generator)
        self.factor, radii = factor, toy_radii() if radii is None else radii
        self.directions: dict[str, torch.Tensor] = {}
        highest = max(float(r.max()) for r in radii.values())
        self.perturbation = AdaptivePerturbation(toy_groups(), radii, midpoint=MIDPOINT * bool(highest))
        if "norm_only" in name:
            self.perturbation = NormPerturbation(self.perturbation)
        if "stale" in name:
            self.perturbation = StalePerturbation(self.perturbation, self.directions)
        if name in ("attenuate", "drop"):
            self.perturbation = RemovalPerturbation(toy_groups(), radii, rho_max=highest, how=name)
        self.first_pass = self.closure(4) if "subbatch" in name else None

    def closure(self, count: int = 12, model=None):
        model = model or self.model

        def loss_and_backward():
            loss = F.cross_entropy(model(self.images[:count]), self.labels[:count])
            (loss * self.factor).backward()
            return loss

        return loss_and_backward

    def step(self, hook=None):
        return sharpness_aware_gradients(
            self.model, self.perturbation, self.closure(), first_pass=self.first_pass, on_clean_gradients=hook
        )

    def gradients(self) -> dict[str, torch.Tensor]:
        return {name: p.grad / self.factor for name, p in self.model.named_parameters() if p.grad is not None}

    def gradients_at(self, moved: nn.Module, count: int = 12) -> dict[str, torch.Tensor]:
        """Those of a model with other weights; its norm statistics move along."""
        moved.zero_grad()
        self.closure(count, moved)()
        return {name: p.grad.clone() for name, p in moved.named_parameters() if p.grad is not None}


def moved_by(model: nn.Module, epsilon: dict[str, torch.Tensor]) -> nn.Module:
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, p in moved.named_parameters():
            p.add_(epsilon.get(name, torch.zeros_like(p)))
    return moved


def epsilon_of(model: nn.Module, gradients: dict[str, torch.Tensor], options=PerturbationOptions()):  # noqa: B008
    """METHOD.md's formula, number by number, for these gradients."""
    of = copy.deepcopy(model)
    for name, p in of.named_parameters():
        p.grad = gradients.get(name)
    return slow_epsilon(of, toy_groups(), toy_radii(), options)


def assert_close(actual, expected) -> None:
    assert actual.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)


def assert_equal(actual, expected) -> None:
    assert actual.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(actual[name], expected[name])]


# ----- what each form computes


def test_subbatch_ascends_by_a_part_and_descends_by_the_whole() -> None:
    form = Form("subbatch")
    part = form.gradients_at(copy.deepcopy(form.model), 4)
    moved = moved_by(form.model, epsilon_of(form.model, part))
    expected = form.gradients_at(moved)
    first = form.closure(4, copy.deepcopy(form.model))().detach()
    step = form.step()
    assert_close(form.gradients(), expected)
    assert step.loss == pytest.approx(float(first))
    assert_close(dict(form.model.named_buffers()), dict(moved.named_buffers()))  # the whole batch's statistics, once


def test_norm_only_moves_scales_and_shifts_of_norms_and_makes_no_other_gradient() -> None:
    form, seen = Form("norm_only"), []
    norms = {"bn1.weight", "bn1.bias", "temperature"}  # a lone scale counts, a convolution's bias does not
    clean = form.gradients_at(copy.deepcopy(form.model))
    epsilon = epsilon_of(form.model, {name: clean[name] for name in norms})
    expected = form.gradients_at(moved_by(form.model, epsilon))
    form.step(lambda: seen.append(form.gradients()))
    assert seen[0].keys() == norms
    assert_close(form.gradients(), expected)
    assert all(p.requires_grad for p in form.model.parameters())


def test_norm_only_moves_nothing_else_though_all_gradients_are_there() -> None:
    form = Form("norm_only")
    form.closure()()
    offsets = form.perturbation.offsets(dict(form.model.named_parameters()))
    assert set(offsets.names) == {"bn1.weight", "bn1.bias", "temperature"}


def test_gradients_are_wanted_again_after_a_pass_that_failed() -> None:
    form = Form("norm_only")
    form.first_pass = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        form.step()
    assert all(p.requires_grad for p in form.model.parameters())


def test_stale_goes_where_the_step_before_ended() -> None:
    form = Form("stale")
    assert form.step().num_passes == 1
    first = form.gradients()
    assert_equal(first, form.gradients_at(copy.deepcopy(form.model)))  # nothing to go by: a plain step
    torch.optim.SGD(form.model.parameters(), lr=0.1).step()
    second = form.gradients_at(moved_by(form.model, epsilon_of(form.model, first)))
    form.step()
    assert_close(form.gradients(), second)
    third = form.gradients_at(moved_by(form.model, epsilon_of(form.model, form.gradients())))
    form.step()
    assert_close(form.gradients(), third)


def test_stale_keeps_what_clipping_and_penalties_do_to_gradients_away() -> None:
    form = Form("stale")
    form.step()
    kept = {name: tensor.clone() for name, tensor in form.directions.items()}
    for p in form.model.parameters():
        p.grad.mul_(0)
    assert_equal(form.directions, kept)


def test_stale_forgets_after_a_step_that_was_not_finite() -> None:
    form = Form("stale")
    form.step()
    before = {name: buffer.clone() for name, buffer in form.model.named_buffers()}
    form.factor = math.inf
    assert not form.step().finite
    assert not form.directions
    assert_equal(dict(form.model.named_buffers()), before)
    form.factor = 1.0
    form.step()
    assert_equal(form.gradients(), form.gradients_at(copy.deepcopy(form.model)))


def test_attenuated_channels_give_less_where_they_are_read() -> None:
    form, radii = Form("attenuate"), toy_radii()
    share = {name: 0.5 * radii[name] / 2.0 for name in ("conv1", "conv2")}  # `up` cannot be pruned
    moved = copy.deepcopy(form.model)
    with torch.no_grad():
        moved.conv2.weight.mul_((1 - share["conv1"]).view(1, 4, 1, 1))
        moved.up.weight.mul_((1 - share["conv2"]).repeat(2).view(6, 1, 1, 1))  # channel i owns rows i and i + 3
    expected = form.gradients_at(moved)
    form.step()
    assert_close(form.gradients(), expected)


def test_dropped_channels_are_those_that_a_cut_would_remove(monkeypatch: pytest.MonkeyPatch) -> None:
    form = Form("drop")
    draws = iter([torch.tensor([0.9, 0.0, 0.49, 0.26]), torch.tensor([0.2, 0.0, 0.2])])
    monkeypatch.setattr(torch, "rand", lambda count: next(draws))  # rates .025 .125 .5 .25 and .05 .075 .1
    with masked(form.model, toy_groups(), {"conv1": torch.tensor([0, 3]), "conv2": torch.tensor([0, 2])}):
        expected = form.gradients_at(copy.deepcopy(form.model))
    form.step()
    assert_equal(form.gradients(), expected)


def test_channels_are_dropped_as_often_as_they_are_attenuated() -> None:
    form, dropped = Form("drop"), torch.zeros(4)
    for _ in range(2000):
        offsets = form.perturbation.offsets(dict(form.model.named_parameters()))
        (moved,) = (o for n, o in zip(offsets.names, offsets.multiplied(), strict=True) if n == "conv2.weight")
        dropped += (moved[0, :, 0, 0] != 0).float()
    rates = 0.5 * toy_radii()["conv1"] / 2.0
    assert ((dropped / 2000 - rates).abs() < 4 * (rates * (1 - rates) / 2000).sqrt()).all()


# ----- what all forms have in common


@pytest.mark.parametrize("name", FORMS)
def test_radius_zero_is_plain_training_bit_for_bit(name: str) -> None:
    form, plain = Form(name, ZERO), Form("exact", ZERO)
    for _ in range(2):
        form.step()
        plain_loss = sharpness_aware_gradients(plain.model, None, plain.closure())
        assert plain_loss.num_passes == 1
        assert_equal(form.gradients(), plain.gradients())
        for each in (form, plain):
            torch.optim.SGD(each.model.parameters(), lr=0.1).step()
    assert_equal(form.model.state_dict(), plain.model.state_dict())


@pytest.mark.parametrize("name", FORMS)
def test_weights_come_back_and_statistics_are_counted_once(name: str) -> None:
    form = Form(name)
    before = {n: p.detach().clone() for n, p in form.model.named_parameters()}
    for count in range(1, 4):
        form.step()
        assert int(form.model.bn1.num_batches_tracked) == count
    assert_equal(dict(form.model.named_parameters()), before)


@pytest.mark.parametrize("name", FORMS)
def test_nothing_depends_on_the_scale_of_the_loss(name: str) -> None:
    one, scaled = Form(name), Form(name, factor=1024.0)
    for form in (one, scaled):
        torch.manual_seed(0)
        for _ in range(3):
            form.step()
    assert_equal(scaled.gradients(), one.gradients())


@pytest.mark.parametrize("name", FORMS)
def test_evidence_is_of_the_clean_gradient_or_else_of_the_only_one(name: str) -> None:
    form, seen = Form(name), []
    form.step()
    clean = form.gradients_at(copy.deepcopy(form.model), 4 if "subbatch" in name else 12)
    form.step(lambda: seen.append(form.gradients()))
    (found,) = seen
    if "stale" in name or name in ("attenuate", "drop"):
        assert_equal(found, form.gradients())
    else:
        assert_equal(found, {n: g for n, g in clean.items() if n in found})
        assert len(found) == (3 if "norm_only" in name else len(clean))


def test_directions_are_cut_as_the_parameters_are() -> None:
    form, groups = Form("stale"), toy_groups()
    form.step()
    before = {name: tensor.clone() for name, tensor in form.directions.items()}
    plan = PruningPlan.of(groups, {"conv1": [0, 2], "conv2": [1, 2]})
    apply_plan_(form.model, groups, plan, carried=[form.directions])
    rows = [1, 2, 4, 5]  # of channels 1 and 2
    assert torch.equal(form.directions["conv1.weight"], before["conv1.weight"][[0, 2]])
    assert torch.equal(form.directions["bn1.bias"], before["bn1.bias"][[0, 2]])
    assert torch.equal(form.directions["conv2.weight"], before["conv2.weight"][rows][:, [0, 2]])
    assert torch.equal(form.directions["up.weight"], before["up.weight"][rows])
    assert torch.equal(form.directions["table"], before["table"])
    assert {n: t.shape for n, t in form.directions.items()} == {n: p.shape for n, p in form.model.named_parameters()}


def test_what_does_not_fit_is_not_cut() -> None:
    form, groups = Form("stale"), toy_groups()
    before = {name: p.detach().clone() for name, p in form.model.named_parameters()}
    plan = PruningPlan.of(groups, {"conv1": [0, 2]})
    with pytest.raises(PlanError, match=r"carried: 'conv1.weight' of shape \(2, 3, 3, 3\) is no parameter"):
        apply_plan_(form.model, groups, plan, carried=[{"conv1.weight": torch.zeros(2, 3, 3, 3)}])
    assert_equal(dict(form.model.named_parameters()), before)


# ----- what is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subbatch": 0.0}, "subbatch is 0.0"),
        ({"window": 1.5}, "window is 1.5"),
        ({"every": 0}, "every is 0"),
    ],
)
def test_forms_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        StepForm(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": {"momentum": {}}}, "there is no variant of the sharpness-aware step 'momentum'; there are: gsam"),
        ({"variants": {"stale": {"share": 0.5}}}, "unknown key 'variants.stale.share'"),
        ({"variants": ["stale"]}, "give name and options of each"),
        ({"variants": {"removal": {"how": "shrink"}}}, "variants.removal.how is 'shrink'"),
        ({"variants": {"removal": {"share": 0.0}}}, "variants.removal.share is 0.0"),
        ({"variants": {"stale": {}}, "form": StepForm(subbatch=0.5)}, "save nothing"),
        ({"variants": {"removal": {}}, "form": StepForm(every=2)}, "save nothing"),
        ({"variants": {"stale": {}, "norm_only": {}}}, "name it before the others"),
        ({"variants": {"stale": {}, "removal": {}}}, "leave out other variants"),
        ({"variants": {"norm_only": {}}, "perturbation": PerturbationOptions(norms="none")}, "moves norms alone"),
    ],
)
def test_variants_that_make_no_sense_are_refused(options: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        SharpnessOptions(**options)


def test_options_of_variants_are_filled_in() -> None:
    assert SharpnessOptions(variants={"removal": {"share": 0.25}}).variants == {
        "removal": {"how": "attenuate", "share": 0.25}
    }
    assert Removal().share == 0.5


def test_micro_batches_that_are_added_up_have_no_stale_gradient_of_their_own() -> None:
    layer = nn.Linear(1, 1)
    stale = StalePerturbation(UniformPerturbation(0.5), {})
    with pytest.raises(ValueError, match="loop over the micro-batches"):
        sharpness_aware_gradients(layer, stale, lambda: 0.0, accumulate=True)
