"""An analysis as a whole: what it computes, keeps, takes up again and refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from adasap.analysis import (
    AnalysisFile,
    AnalysisOptions,
    Objective,
    Subject,
    analyze,
    channel_summary,
    memory_need,
    probability_below,
    rank_correlation,
    read_analysis,
)
from adasap.analysis.instruments import INSTRUMENTS
from adasap.analysis.report.figures import analysis_figures
from adasap.analysis.report.tables import tables_of
from adasap.criteria import CRITERIA
from adasap.errors import DataError, RecipeError
from adasap.experiments.recipe import parse_options
from adasap.groups import trace_groups
from adasap.pruning import PruningPlan
from adasap.sealed import write_sealed_json
from adasap.tasks.classification.task import ClassificationTask
from analysis_nets import cross_entropy, small_batches, small_net
from damaged_json import damaged

SMALL: dict[str, Any] = {
    "worst_case": {"l2": [0.05], "adaptive_l2": [0.1, 0.2], "linf": [], "adaptive_linf": [0.01], "steps": 2},
    "average_case": {"deviations": [0.01], "draws": 2},
    "hessian": {"eigenvalues": 2, "max_products": 8, "trace_draws": 3, "density_steps": 4, "block_products": 2},
    "channels": {"most": 5},
    "landscape": {"points": 3, "plane": 3},
}


def options(**changes: Any) -> AnalysisOptions:
    return parse_options({**SMALL, **changes}, AnalysisOptions)


def subject(plan: bool = False) -> Subject:
    objective = Objective(small_net(), small_batches(), cross_entropy)
    groups = trace_groups(objective.model, torch.zeros(1, 2, 5, 5, dtype=torch.float64))
    return Subject(objective, groups, PruningPlan.of(groups, {"0": [0, 3]}) if plan else None)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    path = tmp_path_factory.mktemp("analysis") / "analysis.json"
    return path, analyze(
        {"net": subject(plan=True)}, options(), file=AnalysisFile(path, {"data": "a", "model net": "b"})
    )


def test_every_instrument_gives_json_that_is_kept(found: tuple[Path, dict[str, Any]]) -> None:
    path, content = found
    assert read_analysis(path) == content == json.loads(json.dumps(content))
    net = content["models"]["net"]
    assert set(net) == {*INSTRUMENTS, "summary"}
    assert set(net["worst_case"]) == {"l2", "adaptive l2", "adaptive l-infinity"}
    assert [r["radius"] for r in net["worst_case"]["adaptive l2"]["radii"]] == [0.1, 0.2]
    assert net["eigenvalues"]["whole model"]["method"] == "double backward"
    assert net["blocks"]["layers"]["blocks"].keys() == net["trace"]["trace"]["layers"].keys()
    rows = net["channels"]["channels"]["rows"]
    assert len(rows) == 5
    assert {row["channel"] for row in rows if row["group"] == "0" and row["goes"]} <= {1, 2}
    assert not any(row["goes"] for row in rows if row["group"] == "3")
    assert net["landscape"]["line"]["losses"][0][1] == pytest.approx(net["loss"]["loss"]["mean"])


def test_the_library_and_the_run_agree(found: tuple[Path, dict[str, Any]]) -> None:
    from adasap.analysis import worst_case_sharpness

    [direct] = worst_case_sharpness(subject().objective, [0.05], steps=2)
    kept = found[1]["models"]["net"]["worst_case"]["l2"]["radii"][0]
    assert kept["n_step"]["batches"] == direct.n_step.tolist()
    assert kept["n_step"]["low"] <= kept["n_step"]["mean"] <= kept["n_step"]["high"]


@pytest.mark.slow
def test_what_is_known_is_not_computed_again(found: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path = tmp_path / "analysis.json"
    path.write_text(found[0].read_text())
    computed: list[str] = []

    def watch(model: str, instrument: str, part: str, numbers: dict[str, Any] | None) -> None:
        if numbers is None:
            computed.append(f"{instrument}: {part}")

    identity = {"data": "a", "model net": "b"}
    again = analyze({"net": subject(plan=True)}, options(), file=AnalysisFile(path, identity), watch=watch)
    assert computed == []
    assert again == found[1]
    changed = options(
        landscape={"points": 3, "plane": 1, "directions": 1}, hessian={**SMALL["hessian"], "graph_bytes": 0}
    )
    analyze({"net": subject(plan=True)}, changed, file=AnalysisFile(path, identity), watch=watch)
    assert computed == ["landscape: line"]
    more = {"data": "a", "model other": "c"}
    analyze({"other": subject()}, options(), only=["loss"], file=AnalysisFile(path, more), watch=watch)
    assert read_analysis(path)["identity"] == {"data": "a", "model net": "b", "model other": "c"}
    assert "eigenvalues" in read_analysis(path)["models"]["net"]


def test_a_killed_analysis_keeps_what_was_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "analysis.json"

    def kill(model: str, instrument: str, part: str, numbers: dict[str, Any] | None) -> None:
        if (instrument, part) == ("worst_case", "adaptive l2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze({"net": subject()}, options(), only=["loss", "worst_case"], file=AnalysisFile(path, {}), watch=kill)
    assert {name: list(parts) for name, parts in read_analysis(path)["models"]["net"].items()} == {
        "loss": ["loss"],
        "worst_case": ["l2"],
    }


def test_other_models_data_and_files_are_refused(found: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another data, model net; give another --out"):
        AnalysisFile(found[0], {"data": "z", "model net": "z"})
    for text in ("{", '{"format": "something"}', "[]"):
        (tmp_path / "analysis.json").write_text(text)
        with pytest.raises(DataError, match="holds no analysis"):
            AnalysisFile(tmp_path / "analysis.json", {})
    with pytest.raises(RecipeError, match="did you mean 'landscape'"):
        analyze({"net": subject()}, only=["landscapes"])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"worst_case": {"step": 3}}, "did you mean 'steps'"),
        ({"worst_case": {"l2": [-1.0]}}, "worst_case: l2 is -1.0; give a number from 0"),
        ({"average_case": {"draws": 1}}, "draws is 1"),
        ({"hessian": {"eigenvalues": 50}}, "at least one product per eigenvalue"),
        ({"channels": {"kept": 0.0}}, "kept is 0.0"),
        ({"landscape": {"points": 4}}, "odd numbers"),
    ],
)
def test_options_that_cannot_work_are_named(tree: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_options(tree, AnalysisOptions)


def test_every_instrument_names_its_options() -> None:
    assert {name for name in INSTRUMENTS if not INSTRUMENTS[name].section} == {"loss"}
    assert set(AnalysisOptions().channels.criteria) <= set(CRITERIA)


def test_memory_is_counted_and_measured() -> None:
    objective = subject().objective
    need = memory_need(objective, options())
    assert need.weights == 8 * objective.size
    assert need.vectors == (8 + 4) * need.weights
    assert (need.graphs_kept, memory_need(objective, options(hessian={"graph_bytes": 0})).graphs_kept) == (2, 1)
    double = Objective(small_net(), [tuple(torch.cat([t, t]) for t in small_batches()[0])], cross_entropy)
    assert 1.3 * need.graph < memory_need(double, options()).graph < 2.1 * need.graph
    assert "at most about" in str(need)


def test_ranks() -> None:
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == -1
    assert rank_correlation([1, 2, 2, 3], [1, 2, 2, 9]) == 1
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None
    assert probability_below([1, 2], [3, 4]) == 1
    assert probability_below([1], [1]) == 0.5
    assert probability_below([], [1]) is None


def test_within_groups_and_together_can_disagree() -> None:
    rows = [
        {"group": group, "channel": i, "goes": i < 2, "damage": base + i, "importance": {"l2": -10 * base + i}}
        for group, base in (("a", 0.0), ("b", 10.0))
        for i in range(4)
    ]
    found = channel_summary(rows)
    assert found["correlations"]["damage"]["l2"]["within"] == pytest.approx(1.0)
    assert found["correlations"]["damage"]["l2"]["pooled"] < 0
    assert found["going"] == 4
    assert found["going_against_staying"]["damage"] == {
        "median_going": 5.5,
        "median_staying": 7.5,
        "probability_going_is_smaller": pytest.approx(0.75),
    }
    assert channel_summary([])["correlations"] == {}


def test_a_task_prepares_its_batches_once() -> None:
    task = ClassificationTask(mean=(0.5,) * 3, std=(0.5,) * 3)
    images = torch.randint(0, 256, (4, 3, 6, 6), dtype=torch.uint8)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 3))
    objective = Objective.of_task(net, task, [(images, torch.tensor([0, 1, 2, 0]))])
    expected = task.loss(net, ((images.float() / 255 - 0.5) / 0.5, torch.tensor([0, 1, 2, 0])))
    assert objective.losses().item() == pytest.approx(expected.item())


@pytest.mark.slow
def test_what_is_damaged_is_refused_or_does_no_harm(found: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    path, refused = tmp_path / "analysis.json", 0
    for content in damaged(found[1], 120):
        write_sealed_json(path, content)
        try:
            read = read_analysis(path)
        except DataError:
            refused += 1
        else:
            tables_of(read)
            analysis_figures(read)
    assert refused > 60
