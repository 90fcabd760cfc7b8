"""The three steps, end to end on digits."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import adasap
from adasap.criteria import CRITERIA
from adasap.criteria.hutchinson import Hutchinson
from adasap.errors import AdasapWarning, BudgetError, CheckpointError, RecipeError, TrainingError
from adasap.evaluation import CLEAN, CellResult, evaluate_cell
from adasap.experiments.compress import FinishedRun, _begin_folder, open_data, open_task, run_recipe
from adasap.experiments.recipe import Recipe, parse_recipe, recipe_tree
from adasap.groups import ChannelGroup, trace_groups
from adasap.io import dump_yaml
from adasap.models import open_model
from adasap.pruning import Budget, MACs, ranking_classes, select_channels
from adasap.training import CompressionRun, PruneRecord, Record, StepRecord, as_dict, first_plan, ignore

Tree = dict[str, Any]
TinyRecipe = Callable[..., Tree]


def compress(tree: Tree, folder: Path | None = None, records: list[Record] | None = None) -> adasap.Result:
    recipe = parse_recipe(tree)
    torch.manual_seed(0)
    model = open_model(recipe.model)
    observe = (lambda record: None) if records is None else records.append
    return adasap.compress(model, open_task(recipe), open_data(recipe), recipe, folder=folder, observe=observe)


def run(tree: Tree, folder: Path) -> FinishedRun:
    return run_recipe(parse_recipe(tree), folder, Console(quiet=True))


@dataclasses.dataclass(frozen=True)
class Whole:
    """A run of the tiny recipe from its start to its end, which many tests look at; nobody writes into it."""

    result: adasap.Result
    records: list[Record]
    folder: Path

    def copied(self, folder: Path) -> Path:
        """Its folder, to go on in."""
        return shutil.copytree(self.folder, folder)


@pytest.fixture(scope="module")
def whole(tiny_recipe: TinyRecipe, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder, records = tmp_path_factory.mktemp("whole"), list[Record]()
    return Whole(compress(tiny_recipe(), folder, records), records, folder)


@pytest.fixture(scope="module")
def finished(tiny_recipe: TinyRecipe, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """The same as the command line makes it, with profile, model file and page."""
    return run(tiny_recipe(), tmp_path_factory.mktemp("finished"))


@pytest.mark.slow
def test_budget_is_met_by_the_model_that_comes_out(tiny_recipe: TinyRecipe, whole: Whole) -> None:
    result = whole.result
    example = torch.zeros(1, 3, 32, 32)
    dense = open_model(parse_recipe(tiny_recipe()).model)
    limit = 0.5 * MACs(dense, trace_groups(dense, example), example).dense
    left = MACs(result.model, trace_groups(result.model, example), example).dense
    assert 0.4 * limit < left <= limit
    assert list(result.stages) == ["dense", "warmed up", "pruned", "recalibrated", "fine-tuned"]
    assert not result.model.training


@pytest.mark.slow
def test_every_cut_of_a_run_equals_the_masked_model(whole: Whole) -> None:
    events = [record for record in whole.records if isinstance(record, PruneRecord)]
    assert [event.event for event in events] == [1, 2, 3]
    assert all(event.mask_error < 1e-5 for event in events)
    assert all(event.cost <= event.cost_limit for event in events)


@pytest.mark.slow
def test_steps_cost_two_passes_when_sharpness_aware_and_one_when_plain(tiny_recipe: TinyRecipe, whole: Whole) -> None:
    plain = {"sharpness": {"kind": "plain"}}
    aware = whole.result
    assert aware.counters.passes == 2 * aware.counters.step == 2 * 24
    records: list[Record] = []
    half = compress(tiny_recipe(fine_tune=plain), records=records)
    assert half.counters.passes == 2 * 16 + 8
    gaps = [record.gap for record in records if isinstance(record, StepRecord)]
    assert all(gap is not None and gap > 0 for gap in gaps[:16])
    assert gaps[16:] == [None] * 8


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["l2", "taylor"])
def test_a_cut_that_leaves_a_layer_next_to_nothing_is_told_before_it_starts(
    tiny_recipe: TinyRecipe, criterion: str
) -> None:
    def opened(**pruning: Any) -> CompressionRun:
        """On a network in which one of 16 channels of a layer is far larger than the others."""
        tree = tiny_recipe(pruning=pruning | {"criterion": criterion})
        recipe = parse_recipe(tree)
        torch.manual_seed(0)
        model = open_model(recipe.model)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if name.startswith(("blocks.2.conv1", "blocks.2.bn1")):
                    weight[1:] *= 1e-4
                elif name == "blocks.2.conv2.weight":
                    weight[:, 1:] = 0  # a norm in between takes the factor back
        return CompressionRun(model, open_task(recipe), open_data(recipe), recipe, folder=None, observe=ignore)

    def told(**pruning: Any) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            first_plan(opened(**pruning))
        return [str(one.message) for one in found if one.category is AdasapWarning]

    [message] = told()
    assert "less than 10% of the channels of blocks.2.conv1 (1 of 16)" in message
    assert "pruning.ranking: uniform" in message
    assert told(ranking="uniform") == told(min_kept=0.2) == []


WITH_PLAIN_STEPS = ("fpgm", "fisher", "chip", "hutchinson")  # one for each kind of evidence
PLAIN = {"epochs": 1, "sharpness": {"kind": "plain"}}


@pytest.mark.slow
@pytest.mark.parametrize("ranking", ["uniform", "isomorphic"])
def test_every_ranking_compresses_to_the_budget(tiny_recipe: TinyRecipe, ranking: str) -> None:
    records: list[Record] = []
    plan = compress(tiny_recipe(pruning={"criterion": "taylor", "ranking": ranking}), records=records).plan
    events = [record for record in records if isinstance(record, PruneRecord)]
    assert all(0.7 * event.cost_limit < event.cost <= event.cost_limit for event in events)
    kept = {name: width / plan.num_channels[name] for name, width in plan.widths().items()}
    if ranking == "uniform":  # so many cuts end where one does
        assert max(kept.values()) - min(kept.values()) <= 1 / 4
        model = open_model(parse_recipe(tiny_recipe()).model)
        groups = trace_groups(model, torch.zeros(1, 3, 32, 32))
        budget = Budget(MACs(model, groups, torch.zeros(1, 3, 32, 32)), kept=0.5)
        equal = {group.name: torch.ones(group.num_channels) for group in groups}
        alone = ranking_classes("uniform", model, groups)
        assert plan.widths() == select_channels(groups, equal, budget, classes=alone).widths()
    else:
        inner = [f"blocks.{block}.conv1" for block in range(3)]
        common = sum(plan.widths()[name] for name in inner) / sum(plan.num_channels[name] for name in inner)
        assert abs(common - kept["blocks.2.conv2"]) <= 1 / 16 + 1 / 28


@pytest.mark.slow
@pytest.mark.parametrize(
    ("criterion", "steps"),
    [(name, "plain" if name in WITH_PLAIN_STEPS else "adaptive") for name in sorted(CRITERIA) if name != "l2"],
)
def test_every_criterion_compresses(tiny_recipe: TinyRecipe, criterion: str, steps: str) -> None:
    phases = {"warm_up": PLAIN, "fine_tune": PLAIN} if steps == "plain" else {}
    records: list[Record] = []
    result = compress(tiny_recipe(pruning={"criterion": criterion}, **phases), records=records)
    events = [record for record in records if isinstance(record, PruneRecord)]
    assert [event.removed > 0 for event in events] == [True] * 3
    assert all(event.cost <= event.cost_limit for event in events)
    assert result.counters.passes == result.counters.step * (1 if steps == "plain" else 2)


@pytest.mark.slow
def test_a_run_leaves_everything_in_its_folder(finished: FinishedRun) -> None:
    folder = finished.folder
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "recipe.yaml",
        "environment.json",
        "records.jsonl",
        "checkpoint.safetensors",
        "model.safetensors",
        "result.json",
        "summary.md",
        "report.html",
        "report.json",
        "report.csv",
        "tensorboard",
    }
    summary = json.loads((folder / "result.json").read_text())
    assert summary["scores"]["fine-tuned"]["clean"] == finished.result.stages["fine-tuned"]["clean"].mean
    assert summary["profiles"]["compressed"]["macs"] < summary["profiles"]["dense"]["macs"]
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert sum(line["kind"] == "step" for line in lines) == 24


@pytest.mark.slow
def test_the_saved_model_answers_as_the_trained_one(finished: FinishedRun) -> None:
    images = torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    loaded = adasap.load(finished.folder / "model.safetensors").to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        assert torch.equal(loaded(images), finished.result.model(images))


@pytest.mark.slow
def test_two_runs_with_one_seed_are_equal_and_with_another_are_not(tiny_recipe: TinyRecipe, whole: Whole) -> None:
    def weights(result: adasap.Result) -> torch.Tensor:
        return torch.cat([p.flatten() for p in result.model.parameters()])

    first = weights(whole.result)
    assert torch.equal(first, weights(compress(tiny_recipe())))
    other = weights(compress(tiny_recipe(seed=1)))
    assert first.shape != other.shape or not torch.equal(first, other)


@pytest.mark.slow
def test_moving_average_is_what_leaves(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    """With a decay near 0 the average is the last weights, and what it is in between is the rule's own arithmetic."""
    plain, tree = {"sharpness": {"kind": "plain"}}, {"epochs": 0, "schedule": "one_shot", "budget": {"macs": 1.0}}
    sections = {"warm_up": {"epochs": 0.25, **plain}, "pruning": {**tree, "recalibration_batches": 0}}

    def final(decay: float | None, steps: int) -> torch.Tensor:
        changed = {**sections, "warm_up": {"epochs": steps / 8, **plain}, "fine_tune": {"epochs": 0, **plain}}
        training = {"batch_size": 32, "schedule": {"name": "constant"}}
        training |= {} if decay is None else {"average_decay": decay}
        return next(compress(tiny_recipe(**changed, training=training)).model.parameters()).detach()

    first, second = final(None, 1), final(None, 2)
    torch.testing.assert_close(final(0.7, 2), 0.7 * first + 0.3 * second)


@pytest.mark.slow
def test_distillation_changes_the_result(tiny_recipe: TinyRecipe, whole: Whole) -> None:
    recipe = parse_recipe(tiny_recipe(task={"distillation": 0.5}))
    torch.manual_seed(0)
    model, teacher = open_model(recipe.model), open_model(recipe.model)
    records: list[Record] = []
    adasap.compress(model, open_task(recipe, teacher), open_data(recipe), recipe, observe=records.append)
    losses = [[r.loss for r in kept if isinstance(r, StepRecord)] for kept in (records, whole.records)]
    assert losses[0][0] != losses[1][0]


# Bad input


def test_impossible_budget_is_refused_before_training(tiny_recipe: TinyRecipe) -> None:
    records: list[Record] = []
    with pytest.raises(BudgetError, match=r"raise the budget or lower"):
        compress(tiny_recipe(pruning={"budget": {"macs": 1e-6}}), records=records)
    assert not [record for record in records if isinstance(record, StepRecord)]


def test_a_gradient_criterion_without_a_step_before_the_first_event_is_refused(tiny_recipe: TinyRecipe) -> None:
    with pytest.raises(RecipeError, match=r"warm_up.epochs above 0"):
        compress(tiny_recipe(warm_up={"epochs": 0}, pruning={"criterion": "taylor"}))


def test_nan_from_the_first_batch_stops_with_step_and_learning_rate(tiny_recipe: TinyRecipe) -> None:
    recipe = parse_recipe(tiny_recipe(training={"max_skipped": 3, "batch_size": 32}))
    model = open_model(recipe.model)
    with torch.no_grad():
        list(model.parameters())[-1].fill_(float("nan"))  # the classifier's bias
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(TrainingError, match=r"3 steps in a row \(step 3, loss nan, learning rate 0\.0197\)"):
        adasap.compress(model, open_task(recipe), open_data(recipe), recipe)
    after = list(model.parameters())
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, after, strict=True))


def test_a_model_that_a_criterion_cannot_look_at_is_refused_before_training(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(*_: Any) -> None:
        raise RuntimeError("derivative for such_an_operator is not implemented")

    monkeypatch.setattr(Hutchinson, "gather", gather)
    records: list[Record] = []
    with pytest.raises(RecipeError, match=r"'hutchinson' cannot look at this model: .*such as taylor or l2"):
        compress(tiny_recipe(pruning={"criterion": "hutchinson"}), records=records)
    assert not [record for record in records if isinstance(record, StepRecord)]


@pytest.mark.slow
def test_a_criterion_of_batches_needs_no_step_before_the_first_event(tiny_recipe: TinyRecipe) -> None:
    result = compress(tiny_recipe(warm_up={"epochs": 0}, pruning={"criterion": "apoz"}))
    assert result.plan.widths() != result.plan.num_channels


@pytest.mark.slow
def test_a_folder_of_another_recipe_is_not_overwritten(tiny_recipe: TinyRecipe, whole: Whole, tmp_path: Path) -> None:
    folder = whole.copied(tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(CheckpointError, match="another recipe"):
        compress(tiny_recipe(seed=3), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


Change = Callable[[Tree], None]

CHANGES: dict[str, Change] = {
    "training.clip_norm": lambda tree: tree["training"].update(clip_norm=1.0),
    "precision": lambda tree: tree["training"].update(runtime={"precision": "bf16"}),
    "fine_tune.sharpness.rho": lambda tree: tree["fine_tune"]["sharpness"].update(rho=0.4),
    "task": lambda tree: tree.update(task={"label_smoothing": 0.1}),
    "augmentation": lambda tree: tree["data"].update(augmentation={"horizontal_flip": True}),
    "labels": lambda tree: tree["data"].update(train={"kind": "digits", "first": 1, "count": 256}),
    "seed": lambda tree: tree.update(seed=3),
}
"""What a refusal names -> a change of the recipe that changes the numbers."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:bf16 is emulated")
@pytest.mark.parametrize("named", list(CHANGES))
def test_a_run_does_not_go_on_under_options_that_change_its_numbers(
    tiny_recipe: TinyRecipe, whole: Whole, tmp_path: Path, named: str
) -> None:
    folder = whole.copied(tmp_path / "run")
    tree = copy.deepcopy(tiny_recipe())
    CHANGES[named](tree)
    with pytest.raises(
        CheckpointError, match=rf"another recipe, model or data: {re.escape(named)} \(.* there, .* here\); give"
    ):
        compress(tree, folder)


@pytest.mark.slow
def test_a_run_goes_on_under_options_that_do_not(tiny_recipe: TinyRecipe, whole: Whole, tmp_path: Path) -> None:
    changed = tiny_recipe(training={"num_workers": 1, "checkpoint_every": 7, "max_skipped": 4})
    again = compress(changed, whole.copied(tmp_path / "run"))
    assert all(map(torch.equal, whole.result.model.state_dict().values(), again.model.state_dict().values()))


@pytest.mark.slow
def test_one_bad_batch_does_not_spoil_the_evidence(tiny_recipe: TinyRecipe) -> None:
    recipe = parse_recipe(tiny_recipe(pruning={"criterion": "taylor"}))

    class OneBadBatch(adasap.ClassificationTask):
        calls = 0

        def loss(self, model: torch.nn.Module, batch: Any) -> torch.Tensor:
            OneBadBatch.calls += 1
            return super().loss(model, batch) * (float("nan") if OneBadBatch.calls == 5 else 1.0)

    task = OneBadBatch(mean=recipe.model.mean, std=recipe.model.std)
    result = adasap.compress(open_model(recipe.model), task, open_data(recipe), recipe)
    assert result.counters.events == 3


@pytest.mark.slow
def test_recalibration_makes_the_statistics_those_of_the_first_batches(tiny_recipe: TinyRecipe, whole: Whole) -> None:
    stages = {0: compress(tiny_recipe(pruning={"recalibration_batches": 0})).stages, 2: whole.result.stages}
    losses = {
        (batches, stage): found[stage]["clean"].metrics[CLEAN]["loss"]
        for batches, found in stages.items()
        for stage in ("pruned", "recalibrated")
    }
    assert losses[0, "pruned"] == losses[0, "recalibrated"]
    assert losses[2, "pruned"] != losses[2, "recalibrated"]


def test_a_stage_that_changes_nothing_is_not_evaluated_again(
    tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated: list[CellResult] = []

    def counted(*given: Any) -> CellResult:
        evaluated.append(evaluate_cell(*given))
        return evaluated[-1]

    monkeypatch.setattr("adasap.evaluation.runner.evaluate_cell", counted)
    nothing_cut = {"epochs": 0, "budget": {"macs": 1.0}, "schedule": "one_shot", "recalibration_batches": 0}
    result = compress(tiny_recipe(warm_up={"epochs": 0}, pruning=nothing_cut))
    stages = list(result.stages.values())
    assert len(evaluated) == 2 * sum(len(suite.cells) for suite in stages[0].values())  # dense and fine-tuned
    assert all(torch.equal(stage["clean"].per_image(), stages[0]["clean"].per_image()) for stage in stages[:-1])
    assert stages[-1]["clean"].metrics != stages[0]["clean"].metrics


@pytest.mark.slow
def test_clipping_bounds_every_update(tiny_recipe: TinyRecipe) -> None:
    def longest_update(**training: Any) -> float:
        rate = 0.02
        options = {"optimizer": {"learning_rate": rate, "weight_decay": 0.0, "options": {"momentum": 0.0}}}
        tree = tiny_recipe(
            training={**options, "schedule": {"name": "constant"}, **training},
            warm_up={"epochs": 0.125, "sharpness": {"kind": "plain"}},
            pruning={"epochs": 0, "schedule": "one_shot", "budget": {"macs": 1.0}, "recalibration_batches": 0},
            fine_tune={"epochs": 0},
        )
        recipe = parse_recipe(tree)
        model = open_model(recipe.model)
        before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
        adasap.compress(model, open_task(recipe), open_data(recipe), recipe)
        after = torch.cat([p.detach().flatten() for p in model.parameters()])
        return float((after - before).norm()) / rate

    assert longest_update(clip_norm=0.25) == pytest.approx(0.25, rel=1e-3)
    assert longest_update() > 0.3


@pytest.mark.slow
def test_a_wrong_group_stops_the_run(tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Groups that forget one consumer: what the light proof after every event is there for."""

    def one_slot_shifted(*arguments: Any, **options: Any) -> tuple[ChannelGroup, ...]:
        groups = trace_groups(*arguments, **options)
        first = next(g for g in groups if not g.frozen)
        slots = list(first.slots)
        place = next(i for i, slot in enumerate(slots) if slot.role == "consumer")
        slots[place] = dataclasses.replace(slots[place], positions=slots[place].positions.roll(1, 0))
        wrong = dataclasses.replace(first, slots=tuple(slots))
        return tuple(wrong if g is first else g for g in groups)

    monkeypatch.setattr("adasap.training.run.trace_groups", one_slot_shifted)
    with pytest.raises(TrainingError, match="differs from the masked one"):
        compress(tiny_recipe(pruning={"budget": {"macs": 0.3}}))


def test_a_diverged_run_is_not_blamed_on_the_cut(tiny_recipe: TinyRecipe) -> None:
    with pytest.raises(TrainingError, match=r"training has diverged: .* after step \d+ \(learning rate"):
        compress(tiny_recipe(training={"optimizer": {"learning_rate": 1e6}, "max_skipped": 1000}))


@pytest.mark.parametrize(
    ("name", "message"), [("Adafactor", "cannot be cut with its channels"), ("SparseAdam", "cannot step in this loop")]
)
def test_an_optimizer_that_cannot_follow_a_cut_is_refused_before_training(
    tiny_recipe: TinyRecipe, name: str, message: str
) -> None:
    records: list[Record] = []
    optimizer = {"name": name, "learning_rate": 0.01, "weight_decay": 0.0}
    with pytest.raises(RecipeError, match=message):
        compress(tiny_recipe(training={"optimizer": optimizer}), records=records)
    assert records == []


@pytest.mark.slow
def test_a_knapsack_meets_the_budget_of_a_run(tiny_recipe: TinyRecipe) -> None:
    records: list[Record] = []
    result = compress(tiny_recipe(pruning={"selection": "knapsack", "criterion": "taylor"}), records=records)
    events = [record for record in records if isinstance(record, PruneRecord)]
    assert all(0.9 * event.cost_limit < event.cost <= event.cost_limit for event in events)
    assert result.plan.widths() != compress(tiny_recipe(pruning={"criterion": "taylor"})).plan.widths()
    with pytest.raises(RecipeError, match="has no part in it"):
        parse_recipe(tiny_recipe(pruning={"selection": "knapsack", "ranking": "uniform"}))


def test_a_budget_above_the_dense_model_is_refused(tiny_recipe: TinyRecipe) -> None:
    with pytest.raises(BudgetError, match="above the dense model's"):
        compress(tiny_recipe(pruning={"budget": {"macs": 1e12}}))


def test_records_of_a_bad_batch_are_json(tmp_path: Path) -> None:
    record = StepRecord(1, "warm-up", float("nan"), None, 0.1, float("inf"), False, 2, 0.1)
    assert as_dict(record)["loss"] is None
    json.loads(json.dumps(as_dict(record), allow_nan=False))


@pytest.mark.slow
@pytest.mark.parametrize("criterion", ["taylor", "activation_mean"])
def test_a_preview_trains_nothing(tiny_recipe: TinyRecipe, criterion: str) -> None:
    found = adasap.preview(tiny_recipe(pruning={"criterion": criterion}))
    assert "48 plain steps" in str(found)
    assert "output of the model" in str(found.table)


@pytest.mark.slow
def test_plain_steps_of_a_run_are_what_it_then_takes(tiny_recipe: TinyRecipe, whole: Whole) -> None:
    recipe: Recipe = parse_recipe(tiny_recipe())
    opened = CompressionRun(
        open_model(recipe.model), open_task(recipe), open_data(recipe), recipe, folder=None, observe=lambda r: None
    )
    assert opened.timetable.plain_steps(recipe) == whole.result.counters.passes


def test_a_folder_of_an_earlier_version_lacks_keys_that_came_later(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    recipe = parse_recipe(tiny_recipe())
    _begin_folder(tmp_path, recipe)
    (tmp_path / "checkpoint.safetensors").touch()
    stored = recipe_tree(recipe)
    del stored["data"]["train"]["skip_broken"], stored["training"]["clip_norm"]
    (tmp_path / "recipe.yaml").write_text(dump_yaml(stored))
    _begin_folder(tmp_path, recipe)
    tree = tiny_recipe()
    tree["data"]["train"]["skip_broken"] = True
    with pytest.raises(RecipeError, match=r"another recipe: data\.train\.skip_broken \(False there, True here\); give"):
        _begin_folder(tmp_path, parse_recipe(tree))
    del stored["seed"], stored["model"]
    (tmp_path / "recipe.yaml").write_text(dump_yaml(stored))
    with pytest.raises(RecipeError, match=r"model\.builder \(absent there, "):
        _begin_folder(tmp_path, recipe)


def test_the_dense_model_is_not_kept_on_the_device(tiny_recipe: TinyRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, moved = parse_recipe(tiny_recipe()), []
    run = CompressionRun(
        open_model(recipe.model), open_task(recipe), open_data(recipe), recipe, folder=None, observe=lambda r: None
    )
    monkeypatch.setattr(run.dense_model, "to", lambda place: moved.append(place) or run.dense_model)
    run.evaluate("dense", run.dense_model)
    run.evaluate("warmed up")
    assert moved == [run.runtime.device, "cpu"]
