"""Depth: plans that take branches out are costed, carried out, saved, loaded and chosen like any other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import adasap
from adasap.errors import ArgumentError, BudgetError, PlanError, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.list_groups import list_groups
from adasap.experiments.name_models import open_any
from adasap.experiments.recipe import parse_recipe
from adasap.export import export_model
from adasap.groups.past import Groups
from adasap.integrations import LoopCompression
from adasap.models import ModelSpec, open_model
from adasap.models.cifar_resnet import CifarResNet
from adasap.pruning import MACs, Parameters, PruningOptions, PruningPlan, Selection, apply_plan_
from adasap.pruning.depth import by_price, choose_depth
from adasap.pruning.plan import widths_after
from adasap.training import PruneRecord, Record, StepRecord

IMAGES = torch.zeros(1, 3, 16, 16)
OUT = {"layer1.1": "input", "layer2.1": "input"}


def net(seed: int = 0) -> CifarResNet:
    """Small, its norm statistics those of the images below."""
    torch.manual_seed(seed)
    model = CifarResNet(2, 4).eval()
    adasap.recalibrate_(model, images())
    return model


def images() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(16, 3, 16, 16, generator=generator) for _ in range(2)]


def batches(dense: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Images with the dense model's outputs as targets: whatever changes these is harm."""
    with torch.no_grad():
        return [(some, dense(some)) for some in images()]


def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.mse_loss(model(batch[0]), batch[1])


def harmless(model: CifarResNet, *names: str) -> CifarResNet:
    """The model with branches that add nothing, although their filters look important."""
    for name in names:
        norm = model.get_submodule(f"{name}.bn2")
        nn.init.zeros_(norm.weight)
        nn.init.normal_(model.get_submodule(f"{name}.conv1").weight, std=3.0)
    adasap.recalibrate_(model, images())
    return model


def test_branches_are_listed_with_what_goes_with_them() -> None:
    model = net()
    *_, table, sentence = list_groups(open_any(model, size=16), depth=True).parts()
    assert [row[:2] for row in table.rows] == [
        [name, name] for name in ("layer1.0", "layer1.1", "layer2.1", "layer3.1")
    ]
    assert sentence.startswith("4 residual branches can go")
    groups = adasap.trace_groups(model, IMAGES, depth=True)
    plan = PruningPlan.of(groups, {}, {"layer2.1": "input"})
    dense = [Parameters(model, groups).dense, MACs(model, groups, IMAGES).dense]
    left = apply_plan_(model, groups, plan)
    costs = (Parameters(model, left), MACs(model, left, IMAGES))
    shares = [1 - cost.dense / whole for cost, whole in zip(costs, dense, strict=True)]
    assert table.rows[2][2:] == [f"{share:.1%}" for share in shares]


def test_a_plan_with_branches_survives_json_and_adds_up() -> None:
    groups = adasap.trace_groups(net(), IMAGES, depth=True)
    plan = PruningPlan.of(groups, {"conv1": [0, 1, 2]}, OUT)
    read = PruningPlan.from_json(plan.to_json())
    assert read.removed == OUT
    assert read.widths() == plan.widths()
    assert plan.widths()["branch layer1.1"] == 0
    assert not plan.keeps_all
    assert "layer1.1: taken out, gives input" in plan.summary()
    assert "removed" not in json.loads(PruningPlan.of(groups).to_json())
    assert widths_after(groups, plan)["layer1.1.conv1"] == 0
    assert widths_after(groups, plan)["conv1"] == 3
    text = plan.to_json().replace('"layer1.1": "input"', '"layer1.1": "os.system"')
    with pytest.raises(PlanError):
        PruningPlan.from_json(text)


@pytest.mark.parametrize("cost", [Parameters, lambda m, g: MACs(m, g, IMAGES)], ids=["parameters", "macs"])
def test_the_planned_cost_is_that_of_the_cut_model(cost: Any) -> None:
    model = net()
    groups = adasap.trace_groups(model, IMAGES, depth=True)
    before = cost(model, groups)
    first = PruningPlan.of(groups, {"conv1": range(9), "layer1.1.conv1": range(3), "layer2.0.conv1": range(5)}, OUT)
    planned = before.total(first.widths())
    after = apply_plan_(model, groups, first)
    assert planned == cost(model, after).dense < before.dense
    second = PruningPlan.of(after, {"conv1": range(4)}, {"layer1.0": "input"})
    planned = before.total(first.then(second).widths())
    assert planned == cost(model, apply_plan_(model, after, second)).dense


@pytest.mark.slow
def test_two_cuts_are_one_and_the_file_has_them_both(tmp_path: Path) -> None:
    spec = ModelSpec("adasap:cifar_resnet20", {"num_classes": 4}, input_size=(3, 16, 16))
    model = open_model(spec).eval()
    groups = adasap.trace_groups(model, IMAGES, depth=True)
    after = apply_plan_(model, groups, PruningPlan.of(groups, {"layer1.0.conv1": range(5)}, {"layer1.1": "input"}))
    assert "layer1.1" not in [branch.name for branch in after.branches]
    after = apply_plan_(model, after, PruningPlan.of(after, {"conv1": range(7)}, {"layer3.2": "input"}))
    adasap.save(tmp_path / "cut.safetensors", model, groups=after)
    loaded = adasap.load(tmp_path / "cut.safetensors")
    images = torch.randn(4, 3, 16, 16)
    assert torch.equal(loaded(images), model(images))
    assert not any(name.startswith(("layer1.1.", "layer3.2.")) for name in loaded.state_dict())
    again = adasap.trace_groups(loaded, IMAGES, depth=True)
    apply_plan_(loaded, again, PruningPlan.of(again, {"layer1.0.conv1": [0, 1]}, {"layer2.1": "input"}))
    adasap.save(tmp_path / "again.safetensors", loaded)
    assert torch.equal(adasap.load(tmp_path / "again.safetensors")(images), loaded(images))


def test_optimizer_and_average_let_go_of_what_is_taken_out() -> None:
    model = net().train()
    average = AveragedModel(model)
    groups = adasap.trace_groups(model, IMAGES, depth=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    loss(model, batches(net())[0]).backward()
    optimizer.step()
    gone = [p for n, p in model.named_parameters() if n.startswith("layer1.1.")]
    stays = model.layer1[0].conv1.weight
    momentum = optimizer.state[stays]["momentum_buffer"].clone()
    carried = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    apply_plan_(
        model, groups, PruningPlan.of(groups, None, OUT), optimizer=optimizer, companions=[average], carried=[carried]
    )
    held = optimizer.param_groups[0]["params"]
    assert not any(parameter is other for parameter in gone for other in (*held, *optimizer.state))
    assert carried.keys() == dict(model.named_parameters()).keys()
    assert len(held) == len(list(model.parameters())) == len(list(average.module.parameters()))
    assert torch.equal(optimizer.state[stays]["momentum_buffer"], momentum)
    loss(model, batches(net())[0]).backward()
    optimizer.step()


def selection(model: nn.Module, groups: Groups, **options: Any) -> Selection:
    return Selection.of(PruningOptions(**options), model, groups, IMAGES)


def test_branches_that_add_nothing_go_and_those_that_matter_stay() -> None:
    model = harmless(net(), "layer1.1", "layer3.1")
    pruned = adasap.prune(model, IMAGES, "l2", {"macs": 0.75, "depth": True}, batches=batches(model), loss=loss)
    width = adasap.prune(model, IMAGES, "l2", {"macs": 0.75}, batches=batches(model), loss=loss)
    assert set(pruned.plan.removed) == {"layer1.1", "layer3.1"}
    assert pruned.cost_after <= 0.75 * pruned.cost_before
    assert pruned.mask_error < 1e-5
    assert "2 of 4 residual branches taken out" in str(pruned)
    assert "branch" not in str(width)
    assert pruned.cost_after == MACs(pruned.model, pruned.groups, IMAGES).dense
    with torch.no_grad():
        whole, deep, wide = (float(loss(m, batches(model)[0])) for m in (model, pruned.model, width.model))
    assert abs(deep - whole) < abs(wide - whole)


def test_branches_are_ordered_by_the_rise_for_what_they_save() -> None:
    model = net()
    groups = adasap.trace_groups(model, IMAGES, depth=True)
    chosen = selection(model, groups)
    rises = {"layer1.0": 1.0, "layer1.1": 0.1, "layer2.1": float("nan"), "layer3.1": 1.0}
    order = [branch.name for branch in by_price(groups, chosen, rises)]
    assert order == ["layer3.1", "layer1.1", "layer1.0", "layer2.1"], "layer3.1 has 16 times the parameters of layer1.1"


def test_a_budget_below_the_least_widths_is_met_by_depth() -> None:
    model = net()
    groups = adasap.trace_groups(model, IMAGES, depth=True)
    options: dict[str, Any] = {"min_kept": 0.9, "budget": adasap.BudgetOptions(macs=0.6, depth=True)}
    chosen = selection(model, groups, **options)
    scores = adasap.score("l2", model, groups)
    limit = 0.6 * chosen.cost.dense
    with pytest.raises(BudgetError):
        chosen.plan_without({}, groups, scores, limit)
    plan = choose_depth(model, groups, chosen, scores, limit, batches(model), loss)
    assert plan.removed
    assert chosen.cost.total(plan.widths()) <= limit
    assert len(chosen.plan(groups, scores, limit).removed) == 4, "scores do not tell which, so all of them go"
    with pytest.raises(BudgetError):
        choose_depth(model, groups, chosen, scores, 0.1 * limit, batches(model), loss)


@pytest.mark.parametrize("how", ["ranking", "knapsack", "least_damage"])
def test_every_selection_cuts_the_widths_beside(how: Any) -> None:
    model = harmless(net(), "layer2.1")
    pruned = adasap.prune(
        model, IMAGES, "l2", {"parameters": 0.5, "depth": True}, selection=how, batches=batches(model), loss=loss
    )
    assert "layer2.1" in pruned.plan.removed
    assert pruned.cost_after <= 0.5 * pruned.cost_before


def test_compensation_is_for_the_widths_beside() -> None:
    model = harmless(net(), "layer2.1")
    budget = {"macs": 0.6, "depth": True}
    given: dict[str, Any] = {
        "batches": batches(model),
        "loss": loss,
        "compensate": "least_squares",
        "renew_norms": True,
    }
    pruned = adasap.prune(model, IMAGES, "l2", budget, **given)
    assert pruned.plan.removed
    assert pruned.compensation is not None
    assert pruned.compensation.layers
    assert not any(n.startswith("layer2.1") for n in pruned.compensation.layers)


def test_depth_wants_batches_and_a_selection_that_can_try() -> None:
    model = net()
    with pytest.raises(ArgumentError, match="a budget with depth measures the loss"):
        adasap.prune(model, IMAGES, "l2", {"macs": 0.5, "depth": True}, batches=batches(model))
    with pytest.raises(ArgumentError, match="batches are missing for a budget with depth"):
        adasap.prune(net(), IMAGES, "l2", {"macs": 0.5, "depth": True}, loss=loss)
    with pytest.raises(RecipeError, match="does not go with selection 'candidates'"):
        PruningOptions(budget=adasap.BudgetOptions(macs=0.5, depth=True), selection="candidates")
    with pytest.raises(RecipeError, match="prepare 'soft_masks'"):
        PruningOptions(budget=adasap.BudgetOptions(macs=0.5, depth=True), prepare={"kind": "soft_masks"})


def test_without_depth_nothing_is_different() -> None:
    plain = adasap.prune(net(), IMAGES, "l2", {"macs": 0.5})
    off = adasap.prune(net(), IMAGES, "l2", {"macs": 0.5, "depth": False})
    assert plain.plan.to_json() == off.plan.to_json()
    assert str(plain) == str(off)


@pytest.mark.slow
def test_a_recipe_with_depth_goes_on_to_the_same_bits(tiny_recipe: Callable[..., Any], tmp_path: Path) -> None:
    """Killed between two events, after branches went; the events come after steps 8, 10 and 13."""
    recipe = parse_recipe(
        tiny_recipe(
            model={"builder": "adasap:cifar_resnet20", "options": {"num_classes": 10}},
            pruning={"budget": {"macs": 0.3, "depth": True}, "compensate": "least_squares", "criterion": "taylor"},
            training={"average_decay": 0.9},
        )
    )
    seen: list[PruneRecord] = []

    def run(folder: Path, observe: Callable[[Record], None]) -> Any:
        torch.manual_seed(0)
        model = open_model(recipe.model)
        return adasap.compress(model, open_task(recipe), open_data(recipe), recipe, folder=folder, observe=observe)

    def snapshot(record: Record) -> None:
        if isinstance(record, PruneRecord):
            seen.append(record)
        if isinstance(record, StepRecord) and record.step == 12:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    whole, resumed = run(tmp_path / "whole", snapshot), run(tmp_path / "killed", lambda record: None)
    assert sum(record.branches for record in seen) == len(whole.plan.removed) > 0
    assert all(record.mask_error < 1e-4 and record.cost <= record.cost_limit for record in seen)
    assert whole.plan.to_json() == resumed.plan.to_json()
    expected, actual = whole.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == actual.keys()
    assert [name for name in expected if not torch.equal(expected[name], actual[name])] == []


@pytest.mark.slow
def test_a_loop_of_ones_own_takes_branches_out() -> None:
    model = harmless(net(), "layer2.1")
    some = batches(model)
    pruning = PruningOptions(epochs=1, events=2, every=1, budget=adasap.BudgetOptions(macs=0.8, depth=True))
    config = adasap.Compression(pruning=pruning)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    with pytest.raises(RecipeError, match="depth tries plans by their loss"):
        LoopCompression(model, IMAGES, config, optimizer, steps_per_epoch=2, batches=some)
    loop = LoopCompression(model, IMAGES, config, optimizer, steps_per_epoch=2, batches=some, loss=loss)
    for step in range(4):

        def loss_and_backward(batch: Any = some[step % 2]) -> Tensor:
            found = loss(model, batch)
            found.backward()
            return found

        loop.gradients(loss_and_backward)
        optimizer.step()
        loop.step()
    assert "layer2.1" in loop.plan.removed
    assert loop.kept_fraction <= 0.8


@pytest.mark.slow
def test_an_exported_file_has_no_layer_of_what_is_taken_out(tmp_path: Path) -> None:
    spec = ModelSpec("adasap:cifar_resnet20", {"num_classes": 4}, input_size=(3, 16, 16))
    model = open_model(spec).eval()
    groups = adasap.trace_groups(model, IMAGES, depth=True)
    every = {name: gives for branch in groups.branches for name, gives in branch.modules.items()}
    apply_plan_(model, groups, PruningPlan.of(groups, None, every))
    file = export_model(model, IMAGES, tmp_path / "cut.onnx", to="onnx")
    nodes = [node.op_type for node in onnx.load(file.path).graph.node]
    assert nodes.count("Conv") == 19 - 2 * 7
    assert nodes.count("Add") == 2, "those of the blocks with a stride"
