"""Random divisions of a budget, recalibrated and scored on training batches, the best of which is taken."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor, nn

import adasap
from adasap.errors import BudgetError, RecipeError
from adasap.experiments.compress import open_data, open_task
from adasap.experiments.progress import ProgressObserver
from adasap.experiments.recipe import parse_recipe
from adasap.extras.candidate_search import CandidateScorer, Verdict, find_best
from adasap.extras.candidates import Candidates, draw_candidate
from adasap.groups import ChannelGroup, Slot
from adasap.models import open_model
from adasap.pruning import Budget, Parameters, PruningOptions, PruningPlan, Selection, apply_plan_
from adasap.sharpness import recalibrate_
from adasap.training import CandidateRecord, PhaseRecord, PruneRecord, Record, Runtime, RuntimeOptions, ignore
from adasap.training.checkpoint import read_checkpoint
from adasap.training.options import TrainingOptions
from adasap.training.run_schedule import Event
from adasap.training.seed import derived_seed
from adasap.training.start import open_state
from criteria_nets import each, plain_net

Tree = dict[str, Any]
TinyRecipe = Callable[..., Tree]


class Wide(nn.Module):
    """Three groups of 100 channels, each worth as many parameters as the next."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.ParameterList(torch.zeros(100, 4) for _ in range(3))


def wide_net() -> tuple[Wide, tuple[ChannelGroup, ...]]:
    names = [f"rows.{index}" for index in range(3)]
    return Wide(), tuple(ChannelGroup(name, 100, (Slot(name, 0, "producer", each(100)),)) for name in names)


def scores_of(groups: tuple[ChannelGroup, ...]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {group.name: torch.rand(group.num_channels, generator=generator) for group in groups}


@pytest.mark.parametrize("seed", range(5))
def test_groups_lose_channels_at_random_rates_and_the_lowest_first(seed: int) -> None:
    net, groups = wide_net()
    scores = scores_of(groups)
    budget = Budget(Parameters(net, groups), kept=0.8)
    plan = draw_candidate(groups, scores, budget, seed=seed)
    again = draw_candidate(groups, scores, budget, seed=seed)
    assert sum(plan.widths().values()) == 240  # the budget to the last channel
    rates = torch.rand(3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    gone = torch.tensor([100.0 - width for width in plan.widths().values()], dtype=torch.float64)
    torch.testing.assert_close(gone, 60 * rates / rates.sum(), rtol=0, atol=1.5)
    for name, kept in plan.kept.items():
        assert torch.equal(kept, again.kept[name])
        assert torch.equal(kept, scores[name].argsort()[100 - len(kept) :].sort().values)


def test_other_seeds_divide_otherwise_within_floors_and_steps() -> None:
    net, groups = wide_net()
    budget = Budget(Parameters(net, groups), kept=0.4)
    plans = [
        draw_candidate(groups, scores_of(groups), budget, seed=seed, multiple_of=4, floors={"rows.1": 60})
        for seed in range(8)
    ]
    widths = {tuple(plan.widths().values()) for plan in plans}
    assert len(widths) > 4
    assert all(a % 4 == b % 4 == c % 4 == 0 and b >= 60 for a, b, c in widths)
    assert all(120 - 4 < sum(each_of) <= 120 for each_of in widths)
    with pytest.raises(BudgetError, match="raise the budget"):
        draw_candidate(
            groups, scores_of(groups), budget, seed=0, floors=dict.fromkeys(("rows.0", "rows.1", "rows.2"), 60)
        )


# The verdict


class Labels(adasap.ClassificationTask):
    """Classification of images that are floats already."""

    def prepare(self, batch: Any, device: torch.device) -> Any:
        return batch


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(8, 3, 6, 6, generator=generator), torch.arange(8) % 3) for _ in range(count)]


def test_a_verdict_is_of_the_cut_and_recalibrated_model() -> None:
    net, groups = plain_net()
    plan = PruningPlan.of(groups, {"conv1": [0, 2, 3, 5], "conv2": [1, 2, 3]})
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    task = Labels(mean=(0.0,) * 3, std=(1.0,) * 3)
    four = batches(4)
    scorer = CandidateScorer(task, Runtime(RuntimeOptions(device="cpu", precision="float32")), four[:2], four[2:])
    score, loss = scorer.verdict(net, groups, plan)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert net.training
    cut, cut_groups = plain_net()
    apply_plan_(cut, cut_groups, plan)
    recalibrate_(cut, four[:2])
    cut.eval()
    logits = torch.cat([cut(images) for images, _ in four[2:]])
    labels = torch.cat([label for _, label in four[2:]])
    assert score == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)


def test_verdicts_are_ranked_by_what_the_recipe_says() -> None:
    nan = float("nan")
    verdicts = [Verdict(0.4, 1.0), Verdict(0.5, 2.0), Verdict(0.5, 1.5), Verdict(nan, nan)]
    assert max(verdicts, key=lambda verdict: verdict.rank("score")) == Verdict(0.5, 1.5)
    assert max(verdicts, key=lambda verdict: verdict.rank("loss")) == Verdict(0.4, 1.0)


def test_the_earliest_of_equal_candidates_is_taken_and_what_is_no_number_never_is() -> None:
    """Verdicts that are known already are not asked for again."""
    net, groups = plain_net(first=20, second=20)
    method = Candidates(count=4, with_ranking=False)
    options = PruningOptions(selection="candidates")
    selection = Selection.of(options, net, groups, torch.zeros(1, 3, 6, 6))
    runtime = Runtime(RuntimeOptions(device="cpu", precision="float32"))
    state = open_state(net, groups, TrainingOptions(), runtime, None)
    nan = Verdict(float("nan"), float("nan"))
    state.tried = [nan, Verdict(0.25, 1.0), Verdict(0.25, 1.0), nan]
    event = Event(1, 0, limit=0.5 * selection.cost.dense)
    scores = {group.name: torch.rand(group.num_channels) for group in groups}
    scorer = CandidateScorer(Labels(mean=(0.0,) * 3, std=(1.0,) * 3), runtime, (), ())

    def forbidden(*_: Any) -> None:
        raise AssertionError("nothing is left to try")

    best = find_best(
        method, selection, state, scores, event, scorer, seed=7, num_events=1, observe=forbidden, save=forbidden
    )
    drawn = [
        method.draw(selection, groups, scores, event.limit, seed=derived_seed(7, "candidate", 1, number)).to_json()
        for number in (1, 2, 3, 4)
    ]
    assert len(set(drawn)) == 4
    assert drawn.index(best.to_json()) == 1


def test_the_progress_bar_says_which_candidate_is_tried() -> None:
    with ProgressObserver(Console(file=io.StringIO()), "tiny") as progress:
        progress(PhaseRecord(step=3, phase="pruning", stop=9, num_steps=12))
        progress(CandidateRecord(3, 1, 1, 2, 5, 10.0, 10.0, "MACs", 0.5, 1.0, True, 0.1))
        assert progress._progress.tasks[0].fields["detail"] == "candidate 2 of 5"


# In a run


def searched(count: int, **more: Any) -> Tree:
    candidates = {"count": count, "calibration_batches": 1, "scoring_batches": 2, **more}
    return {"selection": "candidates", "schedule": "one_shot", "selection_options": candidates}


def compressed(tree: Tree, folder: Path | None = None, observe: Callable[[Record], None] = ignore) -> adasap.Result:
    recipe = parse_recipe(tree)
    torch.manual_seed(0)
    return adasap.compress(
        open_model(recipe.model), open_task(recipe), open_data(recipe), recipe, folder=folder, observe=observe
    )


@pytest.mark.slow
@pytest.mark.parametrize("by", ["score", "loss"])
def test_the_best_candidate_is_taken(tiny_recipe: TinyRecipe, by: str) -> None:
    records: list[Record] = []
    short = {"warm_up": {"epochs": 0.5}, "fine_tune": {"epochs": 0}}
    compressed(tiny_recipe(pruning=searched(6, by=by) | {"epochs": 0}, **short), observe=records.append)
    tried = [record for record in records if isinstance(record, CandidateRecord)]
    (event,) = (record for record in records if isinstance(record, PruneRecord))
    assert [record.candidate for record in tried] == [1, 2, 3, 4, 5, 6]
    assert all(0.8 * record.cost_limit < record.cost <= record.cost_limit for record in tried)
    assert len({record.cost for record in tried}) > 2
    ranks = [Verdict(record.score, record.loss).rank(by) for record in tried]  # type: ignore[arg-type]
    assert [record.best for record in tried] == [rank > max(ranks[:i], default=(-9e9,)) for i, rank in enumerate(ranks)]
    assert event.cost == tried[ranks.index(max(ranks))].cost


@pytest.mark.slow
def test_without_competition_it_is_the_ranking(tiny_recipe: TinyRecipe) -> None:
    short = {"warm_up": {"epochs": 0.25}, "fine_tune": {"epochs": 0}}
    ranked = compressed(tiny_recipe(pruning={"schedule": "one_shot", "epochs": 0}, **short)).plan
    same = compressed(tiny_recipe(pruning=searched(1) | {"epochs": 0}, **short)).plan
    other = compressed(tiny_recipe(pruning=searched(1, with_ranking=False) | {"epochs": 0}, **short)).plan
    assert same.to_json() == ranked.to_json() != other.to_json()


@pytest.mark.slow
def test_every_event_searches_anew(tiny_recipe: TinyRecipe) -> None:
    records: list[Record] = []
    several = searched(2) | {"schedule": "cubic", "events": 3}
    compressed(tiny_recipe(pruning=several, fine_tune={"epochs": 0}), observe=records.append)
    tried = [(record.event, record.candidate) for record in records if isinstance(record, CandidateRecord)]
    assert tried == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was(tiny_recipe: TinyRecipe, tmp_path: Path) -> None:
    tree = tiny_recipe(pruning=searched(14) | {"criterion": "taylor"})

    def snapshot(record: Record) -> None:
        if isinstance(record, CandidateRecord) and record.candidate == 12:
            shutil.copytree(tmp_path / "whole", tmp_path / "killed")

    compressed(tree, tmp_path / "whole", snapshot)
    assert len(read_checkpoint(tmp_path / "killed" / "checkpoint.safetensors")[1]["tried"]) == 10
    later: list[Record] = []
    compressed(tree, tmp_path / "killed", later.append)
    assert [record.candidate for record in later if isinstance(record, CandidateRecord)] == [11, 12, 13, 14]
    whole = load_file(tmp_path / "whole" / "checkpoint.safetensors")
    resumed = load_file(tmp_path / "killed" / "checkpoint.safetensors")
    assert whole.keys() == resumed.keys()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []

    def candidates(folder: Path) -> list[Tree]:
        lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
        return [{**line, "seconds": 0} for line in lines if line["kind"] == "candidate"]

    assert candidates(tmp_path / "whole") == candidates(tmp_path / "killed")


def test_options_are_checked(tiny_recipe: TinyRecipe) -> None:
    with pytest.raises(RecipeError, match="give at least 1 of each"):
        Candidates(count=0)
    with pytest.raises(RecipeError, match=r"draws what each group loses, so pruning\.ranking 'uniform' has no part"):
        PruningOptions(selection="candidates", ranking="uniform")
    with pytest.raises(RecipeError, match=r"unknown key 'pruning.selection_options.number'"):
        parse_recipe(tiny_recipe(pruning=searched(1, number=3)))
    with pytest.raises(RecipeError, match=r"more than the 8 of an epoch; lower them or training\.batch_size"):
        compressed(tiny_recipe(pruning=searched(1, scoring_batches=8)))
