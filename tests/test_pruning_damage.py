"""What a group's channels are worth is measured in the loss, and the knapsack that knows it does the least damage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adasap
from adasap.criteria import score
from adasap.errors import ArgumentError, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.recipe import parse_recipe
from adasap.extras import least_damage
from adasap.groups import cut_, trace_groups
from adasap.models import open_model
from adasap.pruning import Budget, Damage, MACs, Parameters, measured_damage, prune, solve_knapsack
from adasap.sharpness import recalibrate_
from adasap.training import PruneRecord, Record, ignore


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)
    ).eval()


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).mean((2, 3)), batch[1])


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 3, 9, 9, generator=generator), torch.randint(4, (16,), generator=generator)) for _ in range(2)
    ]


def scores_of(model: nn.Module, groups: Any) -> dict[str, Tensor]:
    return {g.name: torch.rand(g.num_channels, generator=torch.Generator().manual_seed(3)) for g in groups}


def test_damage_is_the_rise_of_the_loss_of_the_cut_and_recalibrated_model() -> None:
    model, data = net(), batches()
    groups = trace_groups(model, data[0][0][:1])
    scores, before = scores_of(model, groups), copy.deepcopy(model.state_dict())
    found = measured_damage(model, groups, scores, data, loss, share=0.25)
    for group in groups[:2]:
        kept = scores[group.name].argsort(descending=True)[:6]
        cut = copy.deepcopy(model)
        cut_(cut, groups, {group.name: kept.sort().values})
        recalibrate_(cut, data, forward=loss)
        with torch.no_grad():
            rise = sum(float(loss(cut, b) - loss(model, b)) for b in data) / len(data)
        assert found[group.name].rise == pytest.approx(max(rise, 1e-4), rel=1e-4)
        left = float(scores[group.name][kept].sum() / scores[group.name].sum())
        assert found[group.name].lost == pytest.approx(1 - left, rel=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_knapsack_spares_the_group_that_matters_whatever_its_scores_say() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = trace_groups(model, torch.zeros(1, 4))
    first, second = (g.name for g in groups[:2])
    budget = Budget(Parameters(model, groups), kept=0.6)
    matters = {first: Damage(9.0, 0.5), second: Damage(0.01, 0.5)}
    even = {first: torch.ones(8), second: torch.ones(8)}
    wide = solve_knapsack(groups, even, budget, damages=matters)
    other = solve_knapsack(groups, even, budget, damages={first: Damage(0.01, 0.5), second: Damage(9.0, 0.5)})
    assert wide.plan.widths()[first] > wide.plan.widths()[second]
    assert other.plan.widths()[first] < other.plan.widths()[second]
    # a score that is larger all over a group says nothing about other groups
    louder = solve_knapsack(groups, {**even, second: torch.full((8,), 100.0)}, budget, damages=matters)
    assert louder.plan.widths() == wide.plan.widths()


def test_one_cut_takes_it_with_batches_and_a_loss() -> None:
    model, data = net(), batches()
    pruned = prune(
        model, data[0][0][:1], "l2", {"macs": 0.5}, selection="least_damage", batches=data, loss=loss, renew_norms=True
    )
    groups = trace_groups(model, data[0][0][:1])
    scores = score("l2", model, groups)
    by_hand = solve_knapsack(
        groups,
        scores,
        Budget(MACs(model, groups, data[0][0][:1]), kept=0.5),
        damages=measured_damage(model, groups, scores, data, loss),
    )
    assert pruned.plan.widths() == by_hand.plan.widths()
    assert pruned.cost_after <= 0.5 * pruned.cost_before
    with pytest.raises(ArgumentError, match="measures the loss; pass loss="):
        prune(model, data[0][0][:1], "l2", {"macs": 0.5}, selection="least_damage", batches=data)
    with pytest.raises(ArgumentError, match="batches are missing for selection='least_damage'"):
        prune(model, data[0][0][:1], "l2", {"macs": 0.5}, selection="least_damage", loss=loss)


def test_inexact_groups_come_last_for_it_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    data = [(torch.randn(16, 4), torch.randint(3, (16,)))]

    def error(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    for inexact in ("last", "by_score"):
        pruned = prune(
            model,
            data[0][0][:1],
            "l2",
            {"macs": 0.7},
            selection="least_damage",
            batches=data,
            loss=error,
            allow_inexact=True,
            inexact=inexact,  # type: ignore[arg-type]
        )
        assert (pruned.plan.widths()["0"] == 8) is (inexact == "last")


def test_a_loss_that_is_no_number_is_named() -> None:
    model, data = net(), batches()
    groups = trace_groups(model, data[0][0][:1])
    with pytest.raises(ArgumentError, match="not finite"):
        measured_damage(model, groups, scores_of(model, groups), data, lambda m, b: loss(m, b) * float("nan"))
    with pytest.raises(ArgumentError, match="batches are missing"):
        measured_damage(model, groups, scores_of(model, groups), [], loss)


def compressed(tree: Any, observe: Callable[[Record], None] = ignore) -> adasap.Result:
    recipe = parse_recipe(tree)
    torch.manual_seed(0)
    return adasap.compress(open_model(recipe.model), open_task(recipe), open_data(recipe), recipe, observe=observe)


@pytest.mark.slow
def test_a_recipe_measures_before_every_event(tiny_recipe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    measured_on: list[int] = []

    def watched(model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        measured_on.append(sum(parameter.numel() for parameter in model.parameters()))
        return measured_damage(model, *args, **kwargs)

    monkeypatch.setattr(least_damage, "measured_damage", watched)
    records: list[Record] = []
    pruning = {"selection": "least_damage", "selection_options": {"batches": 2}, "events": 2, "every": 3}
    short = {"warm_up": {"epochs": 0.5}, "fine_tune": {"epochs": 0}}
    compressed(tiny_recipe(pruning={**pruning, "epochs": 1}, **short), records.append)
    events = [record for record in records if isinstance(record, PruneRecord)]
    assert len(events) == len(measured_on) == 2
    assert measured_on[1] < measured_on[0]  # on what the first cut left
    assert all(event.cost <= event.cost_limit for event in events)
    with pytest.raises(RecipeError, match="batches is 900, and an epoch has 8"):
        compressed(tiny_recipe(pruning={**pruning, "selection_options": {"batches": 900}}))
