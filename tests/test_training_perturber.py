"""The controls of the radius rule, the pruned point, and which steps are sharpness-aware."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adasap.errors import PlanError, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.extras.pruned_point import Pruned, PrunedPoint
from adasap.groups import ChannelGroup, cut_, prunable, trace_groups
from adasap.models import open_model
from adasap.models.digits import digits_net
from adasap.pipeline import compress
from adasap.sharpness import (
    AdaptivePerturbation,
    Moment,
    SharpnessOptions,
    UniformPerturbation,
    sharpness_aware_gradients,
)
from adasap.training import Record, StepRecord, Timetable
from adasap.training.perturbation_schedule import Perturber

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return digits_net(widths=(4, 6, 8))


@pytest.fixture(scope="module")
def groups(net: nn.Module) -> tuple[ChannelGroup, ...]:
    return trace_groups(net, torch.zeros(1, 3, 32, 32))


def radii_of(
    net: nn.Module, groups: tuple[ChannelGroup, ...], *, seed: int = 0, **options: Any
) -> dict[str, torch.Tensor]:
    return made(SharpnessOptions(rho_min=0.1, rho_max=0.9, **options), net, groups, seed=seed)


def made(
    options: SharpnessOptions, net: nn.Module, groups: tuple[ChannelGroup, ...], *, seed: int = 0
) -> dict[str, torch.Tensor]:
    perturbation = Perturber(options, seed=seed).at(0, net, groups)
    assert isinstance(perturbation, AdaptivePerturbation)
    owners = [group for group in groups if not group.is_output]
    parts = perturbation._owned.split([group.num_channels for group in owners])
    return {group.name: part for group, part in zip(owners, parts, strict=True)}


def test_shuffled_radii_are_the_ranked_ones_in_another_order(net: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    ranked, shuffled = radii_of(net, groups), radii_of(net, groups, arrangement="shuffled")
    again, other = (radii_of(net, groups, arrangement="shuffled", seed=seed) for seed in (0, 1))
    moved = 0
    for name, radius in ranked.items():
        assert sorted(radius.tolist()) == sorted(shuffled[name].tolist())
        assert shuffled[name].tolist() == again[name].tolist()
        moved += shuffled[name].tolist() != radius.tolist()
    assert moved >= len(ranked) - 1
    assert any(shuffled[name].tolist() != other[name].tolist() for name in ranked)


def test_the_order_of_shuffled_radii_does_not_follow_the_weights(groups: tuple[ChannelGroup, ...]) -> None:
    torch.manual_seed(1)
    net = digits_net(widths=(4, 6, 8))
    before = radii_of(net, groups, arrangement="shuffled")
    ranked = radii_of(net, groups)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter))
    after, ranked_after = radii_of(net, groups, arrangement="shuffled"), radii_of(net, groups)
    for name in before:
        places = [ranked[name].tolist().index(value) for value in before[name].tolist()]
        assert after[name].tolist() == ranked_after[name][places].tolist()


def test_even_radii_have_the_same_root_mean_square(net: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    ranked, even = radii_of(net, groups), radii_of(net, groups, arrangement="even")
    every = np.concatenate([radius.numpy() for radius in ranked.values()])
    for name, radius in even.items():
        assert radius.shape == ranked[name].shape
        assert radius.tolist() == pytest.approx([np.sqrt((every**2).mean())] * len(radius))


def test_refreshed_radii_are_arranged_too(groups: tuple[ChannelGroup, ...]) -> None:
    torch.manual_seed(2)
    net = digits_net(widths=(4, 6, 8))
    perturber = Perturber(SharpnessOptions(arrangement="shuffled"))
    first = perturber.at(0, net, groups)
    assert isinstance(first, AdaptivePerturbation)
    before = first._owned.clone()
    net.conv.weight.data[0] *= 3
    assert perturber.at(1, net, groups) is first
    fresh = made(SharpnessOptions(arrangement="shuffled"), net, groups)
    assert torch.equal(first._owned, torch.cat([fresh[g.name] for g in groups if not g.is_output]))
    assert not torch.equal(first._owned, before)


def test_at_the_pruned_point_the_gradient_is_the_cut_models(net: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    net = copy.deepcopy(net).double().eval()
    kept = {g.name: torch.arange(1, g.num_channels) for g in prunable(groups)}
    images, labels = torch.randn(5, 3, 32, 32, dtype=torch.float64), torch.arange(5)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}

    def loss_of(model: nn.Module) -> torch.Tensor:
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        return loss

    point = PrunedPoint(UniformPerturbation(0.0), groups, kept)
    step = sharpness_aware_gradients(net, point, lambda: loss_of(net))
    cut = copy.deepcopy(net)
    cut_(cut, groups, kept)
    cut.zero_grad()
    assert step.perturbed_loss == pytest.approx(loss_of(cut).item(), rel=1e-12)
    assert step.perturbed_loss != pytest.approx(step.loss, rel=1e-6)
    assert net.head.bias.grad.tolist() == pytest.approx(cut.head.bias.grad.tolist(), rel=1e-9)
    torch.testing.assert_close(net.head.weight.grad[:, kept[last_of(groups)]], cut.head.weight.grad)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())


def last_of(groups: tuple[ChannelGroup, ...]) -> str:
    return next(g.name for g in groups if any(slot.name == "head.weight" for slot in g.with_role("consumer")))


def test_the_pruned_point_comes_after_the_ascent(net: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    net = copy.deepcopy(net)
    nn.functional.cross_entropy(net(torch.randn(4, 3, 32, 32)), torch.arange(4)).backward()
    named = dict(net.named_parameters())
    base, name = UniformPerturbation(0.5), last_of(groups)
    kept = {name: torch.tensor([0, 2])}
    plain = base.epsilon(net)
    offsets = PrunedPoint(base, groups, kept).offsets(named)
    moved = dict(zip(offsets.names, offsets.multiplied(), strict=True))
    gone = [channel for channel in range(8) if channel not in (0, 2)]
    assert (net.head.weight + moved["head.weight"])[:, gone].abs().sum() == 0
    assert torch.equal(moved["head.weight"][:, [0, 2]], plain["head.weight"][:, [0, 2]])
    assert torch.equal(moved["conv.weight"], plain["conv.weight"])


def test_the_least_channels_go_and_the_share_is_drawn_by_step(net: nn.Module, groups: tuple[ChannelGroup, ...]) -> None:
    sharpness = SharpnessOptions(kind="uniform", rho=0.0, variants={"pruned": {"fractions": [0.25, 0.5]}})
    perturber, (pruned,) = Perturber(sharpness), sharpness.varied
    assert isinstance(pruned, Pruned)
    widths = set()
    for step in range(20):
        kept = pruned.kept(Moment(step, net, groups, sharpness, {}, perturber._draws))
        for name, scores in perturber._score.score(net, prunable(groups), None).items():
            assert set(scores.argsort()[-len(kept[name]) :].tolist()) == set(kept[name].tolist())
        widths.add(len(kept[last_of(groups)]))
    assert widths == {6, 4}
    assert isinstance(perturber.at(0, net, groups), PrunedPoint)
    with pytest.raises(PlanError, match="cannot lose channels"):
        PrunedPoint(UniformPerturbation(0.0), groups, {g.name: torch.tensor([0]) for g in groups})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variants": {"pruned": {"fractions": [1.0]}}}, "fractions of channels between 0 and 1"),
        ({"variants": {"pruned": {}}, "kind": "plain"}, "no perturbation that could be cheaper or varied"),
        ({"variants": {"pruned": {}}, "kind": "uniform", "radius_score": "taylor"}, "needs gradients"),
        ({"variants": {"stale": {}, "pruned": {}}}, "needs the gradient at w first"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        SharpnessOptions(**options)


PHASES = {
    "warm_up": {"epochs": 1, "sharpness": {"arrangement": "shuffled"}},
    "pruning_sharpness": {"kind": "plain"},
    "fine_tune": {
        "epochs": 1,
        "sharpness": {"kind": "uniform", "rho": 0.0, "variants": {"pruned": {"fractions": [0.3, 0.6]}}},
    },
}


def run(tree: Tree, folder: Path | None, watch: Callable[[Record], None]) -> tuple[dict[str, torch.Tensor], int]:
    recipe = parse_recipe(tree)
    torch.manual_seed(0)
    data = open_data(recipe)
    data = dataclasses.replace(data, suites=data.suites[:1])
    result = compress(open_model(recipe.model), open_task(recipe), data, recipe, folder=folder, observe=watch)
    return result.model.state_dict(), result.counters.passes


@pytest.mark.slow
def test_each_step_has_its_own_perturbation_and_resumes(tiny_recipe: Callable[..., Tree], tmp_path: Path) -> None:
    tree, passes = tiny_recipe(**PHASES), {"warm-up": set(), "pruning": set(), "fine-tuning": set()}

    def note(record: Record) -> None:
        if isinstance(record, StepRecord):
            passes[record.phase].add(record.passes)

    def stop(record: Record) -> None:
        if isinstance(record, StepRecord) and record.step in (7, 21):
            raise KeyboardInterrupt

    whole, counted = run(tree, None, note)
    assert passes == {"warm-up": {2}, "pruning": {1}, "fine-tuning": {2}}
    assert counted == 8 * 2 + 8 * 1 + 8 * 2
    with pytest.raises(KeyboardInterrupt):
        run(tree, tmp_path, stop)
    resumed, _ = run(tree, tmp_path, note)
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


def test_the_timetable_counts_each_steps_passes(tiny_recipe: Callable[..., Tree]) -> None:
    times = Timetable(8, 20, 50, 0, ())
    assert times.plain_steps(parse_recipe(tiny_recipe(**PHASES))) == 8 * 2 + 12 + 30 * 2
    assert times.plain_steps(parse_recipe(tiny_recipe())) == 50 * 2
