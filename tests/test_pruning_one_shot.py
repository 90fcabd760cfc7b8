"""`prune`: one call gives what the single steps give, proves it, and leaves the model alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import adasap
from adasap.criteria import Evidence, build_criterion
from adasap.errors import BudgetError, ModelError, RecipeError, TraceError
from adasap.pruning import BudgetOptions, PruningPlan, apply_plan_, prune
from adasap.pruning.proof import require_cut

INPUTS = torch.zeros(1, 3, 16, 16)
SPEC = adasap.ModelSpec("adasap:digits_net", {"widths": [8, 16]}, input_size=(3, 16, 16))


def digits_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = adasap.open_model(SPEC)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return model


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def batches(count: int = 10) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(4, 3, 16, 16, generator=generator), torch.randint(10, (4,), generator=generator)


def same_plan(one: PruningPlan, other: PruningPlan) -> bool:
    return one.kept.keys() == other.kept.keys() and all(torch.equal(one.kept[n], other.kept[n]) for n in one.kept)


@pytest.mark.slow
def test_one_call_is_the_single_steps() -> None:
    model = digits_net()
    pruned = prune(model, INPUTS, "l2", {"macs": 0.5})
    groups = adasap.trace_groups(model, INPUTS)
    cost = adasap.MACs(model, groups, INPUTS)
    plan = adasap.select_channels(groups, adasap.score("l2", model, groups), adasap.Budget(cost, kept=0.5))
    assert same_plan(pruned.plan, plan)
    apply_plan_(model, groups, plan)
    for mine, other in zip(pruned.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, other)
    assert pruned.cost_before == cost.dense
    assert pruned.cost_after == adasap.MACs(model, (), INPUTS).dense <= 0.5 * cost.dense
    assert 0 <= pruned.mask_error < 1e-5
    kept, channels = (sum(widths.values()) for widths in (plan.widths(), plan.num_channels))
    assert str(pruned).startswith(
        f"{pruned.cost_after:,.0f} of {cost.dense:,.0f} MACs ({100 * pruned.cost_after / cost.dense:.1f} %), "
        f"{kept} of {channels} channels ({100 * kept / channels:.1f} %); masked = cut to "
    )


def test_the_model_is_left_as_it_is() -> None:
    model = digits_net().train()
    loss(model, next(batches())).backward()
    output = model(torch.randn(2, 3, 16, 16)).sum()
    state = copy.deepcopy(model.state_dict())
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    pruned = prune(model, INPUTS, "taylor", {"parameters": 0.5}, batches=batches(), loss=loss)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert all(torch.equal(a, p.grad) for a, p in zip(gradients, model.parameters(), strict=True) if p.grad is not None)
    assert len(gradients) == len(list(model.parameters()))
    assert all(module.training for module in (*model.modules(), *pruned.model.modules()))
    assert all(p.grad is None for p in pruned.model.parameters())
    output.backward()  # a graph that was alive before still runs


def test_a_pruned_model_can_be_saved_and_trained_on(tmp_path: Path) -> None:
    pruned = prune(digits_net(), INPUTS, "l2", BudgetOptions(parameters=0.5))
    path = tmp_path / "small.safetensors"
    adasap.save(path, pruned.model, spec=SPEC, plan=pruned.plan, groups=pruned.dense_groups)
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(adasap.load(path)(images), pruned.model.eval()(images))
    assert sum(p.numel() for p in pruned.model.parameters()) == pruned.cost_after
    assert adasap.widths(pruned.groups) == {**adasap.widths(pruned.dense_groups), **pruned.plan.widths()}


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["random", "taylor", "chip", "hutchinson"])
def test_a_criterion_of_every_kind_of_evidence_works(criterion: str) -> None:
    pruned = prune(digits_net(), INPUTS, criterion, {"macs": 0.6}, batches=list(batches(2)), loss=loss)
    assert pruned.cost_after <= 0.6 * pruned.cost_before


@pytest.mark.slow
def test_gradients_are_those_of_evaluation_mode_averaged_over_all_batches() -> None:
    model = digits_net()
    pruned = prune(model, INPUTS, "taylor", {"macs": 0.5}, batches=batches(3), loss=loss)
    criterion, evidence = build_criterion("taylor"), Evidence()
    twin = digits_net().eval()
    groups = adasap.trace_groups(twin, INPUTS)
    for batch in batches(3):
        twin.zero_grad()
        loss(twin, batch).backward()
        evidence.add(criterion.batch_evidence(twin, groups))  # type: ignore[attr-defined]
    budget = adasap.Budget(adasap.MACs(twin, groups, INPUTS), kept=0.5)
    scores = criterion.score(twin, groups, evidence.mean())
    assert same_plan(pruned.plan, adasap.select_channels(groups, scores, budget))
    with torch.no_grad():
        again = prune(model, INPUTS, "taylor", {"macs": 0.5}, batches=batches(3), loss=loss)
    assert same_plan(pruned.plan, again.plan)


def test_a_criterion_that_gathers_takes_as_many_batches_as_it_wants() -> None:
    stream = batches(10)
    prune(digits_net(), INPUTS, build_criterion("apoz", num_batches=3), {"macs": 0.5}, batches=stream, loss=loss)
    assert len(list(stream)) == 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "holds"),
    [
        ({"multiple_of": 4}, lambda widths, dense: all(w % 4 == 0 for w in widths.values())),
        ({"min_kept": 0.7}, lambda widths, dense: all(w >= 0.7 * dense[n] for n, w in widths.items())),
        ({"min_channels": 7}, lambda widths, dense: min(widths.values()) >= 7),
        ({"keep": ["*.conv1"]}, lambda widths, dense: not any(n.endswith("conv1") for n in widths)),
        ({"keep": "blocks.0.conv1"}, lambda widths, dense: "blocks.0.conv1" not in widths),
        ({"ranking": "uniform"}, lambda widths, dense: all(0.7 < w / dense[n] < 0.9 for n, w in widths.items())),
        ({"selection": "knapsack"}, lambda widths, dense: bool(widths)),
    ],
)
def test_options_reach_the_selection(options: dict[str, Any], holds: Any) -> None:
    model = digits_net()
    pruned = prune(model, INPUTS, "l1", {"macs": 0.7}, **options)
    plain = prune(model, INPUTS, "l1", {"macs": 0.7})
    assert holds(pruned.plan.widths(), adasap.widths(pruned.dense_groups))
    assert not same_plan(pruned.plan, plain.plan)
    assert pruned.cost_after <= 0.7 * pruned.cost_before


def test_a_compiled_model_gives_a_plain_one() -> None:
    net = digits_net()
    pruned = prune(torch.compile(net), INPUTS, "l2", {"macs": 0.5})  # type: ignore[arg-type]
    assert type(pruned.model) is type(net)


def test_the_example_follows_the_type_of_the_model() -> None:
    pruned = prune(digits_net().double(), INPUTS, "l2", {"macs": 0.5})
    assert pruned.mask_error < 1e-12
    assert {p.dtype for p in pruned.model.parameters()} == {torch.float64}


# The proof


def test_a_wrong_cut_is_refused() -> None:
    dense = digits_net()
    groups = adasap.trace_groups(dense, INPUTS)
    right = adasap.prunable(groups)[0]
    plan = PruningPlan.of(groups, {right.name: [0, 1]})
    cut = copy.deepcopy(dense)
    apply_plan_(cut, groups, PruningPlan.of(groups, {right.name: [2, 3]}))
    with pytest.raises(TraceError, match=r"differs from the masked one .* list its module in `keep`"):
        require_cut(dense, cut, groups, plan, torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.0, "load trained weights first"), (torch.nan, r"head\.weight has \d+ of \d+ entries that are NaN")],
)
def test_a_model_that_says_nothing_cannot_be_proven(value: float, message: str) -> None:
    net = digits_net()
    nn.init.constant_(net.head.weight, value)  # type: ignore[union-attr,arg-type]
    nn.init.constant_(net.head.bias, value)  # type: ignore[union-attr,arg-type]
    with pytest.raises(ModelError, match=message):
        prune(net, INPUTS, build_criterion("random"), {"macs": 0.5})


# Bad input


class Untouched(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the model was run")


@pytest.mark.parametrize(
    ("criterion", "budget", "options", "message"),
    [
        ("taylor", {"macs": 0.5}, {}, r"Taylor needs gradients: pass batches=.* and loss="),
        ("apoz", {"macs": 0.5}, {"batches": []}, r"APoZ needs batches: pass batches="),
        ("l3", {"macs": 0.5}, {}, "there are: activation_mean"),
        ("l2", {"mac": 0.5}, {}, "limits 'mac'; did you mean 'macs'"),
        ("l2", {}, {}, "give exactly one"),
        ("l2", {"macs": 0.5, "parameters": 0.5}, {}, "give exactly one"),
        ("l2", 0.5, {}, r"the budget is 0\.5; name what it limits \(.*macs"),
        ("l2", {"macs": 0.5}, {"min_kept": 2}, "min_kept is 2"),
        ("l2", {"macs": 0.5}, {"selection": "knapsack", "ranking": "uniform"}, "leave ranking out"),
    ],
)
def test_bad_input_is_refused_before_any_work(
    criterion: str, budget: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        prune(Untouched(), INPUTS, criterion, budget, **options)


@pytest.mark.parametrize(
    ("budget", "message"),
    [({"macs": 1e12}, "above the dense model's"), ({"macs": 1e-6}, "cannot reach")],
)
def test_a_budget_that_means_nothing_is_refused(budget: dict[str, float], message: str) -> None:
    with pytest.raises(BudgetError, match=message):
        prune(digits_net(), INPUTS, "l2", budget)


@pytest.mark.parametrize("given", [[], [(torch.full((2, 3, 16, 16), torch.nan), torch.tensor([0, 1]))]])
def test_batches_that_show_nothing_are_refused(given: list[Any]) -> None:
    with pytest.raises(RecipeError, match="saw no batch whose gradients are finite"):
        prune(digits_net(), INPUTS, "taylor", {"macs": 0.5}, batches=given, loss=loss)


def test_a_criterion_that_cannot_score_the_model_says_so() -> None:
    class Incomplete:
        needs = frozenset({"gradients"})

        def score(self, model: nn.Module, groups: Any, evidence: Any) -> dict[str, Tensor]:
            raise AssertionError("never asked")

    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1))
    with pytest.raises(RecipeError, match="has no batch_evidence"):
        prune(net, INPUTS, Incomplete(), {"macs": 0.5}, batches=[1], loss=loss)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="norm_scale"):
        prune(net, INPUTS, "norm_scale", {"macs": 0.5})


def test_a_search_is_left_to_recipes() -> None:
    with pytest.raises(RecipeError, match=r"`knapsack` or `least_damage`, got 'candidates'"):
        adasap.prune(nn.Linear(2, 2), torch.zeros(1, 2), "l2", {"macs": 0.5}, selection="candidates")
