"""Sweeps: the file, the cells, what happens to those that fail, and the numbers of the tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from scipy import stats

import adasap
from adasap.errors import ArgumentError, DataError, RecipeError
from adasap.experiments.sweep import (
    Cell,
    Outcome,
    Sweep,
    expand,
    read_results,
    read_sweep,
    run_cells,
    take_over,
)
from adasap.experiments.sweep.cells import WEIGHTS, plain_costs, shortest_first
from adasap.experiments.sweep.keeping import keep_results, results_file
from adasap.experiments.sweep.results import first_common_seed
from adasap.experiments.sweep.running import FAILURE, seconds_of
from adasap.experiments.sweep.schema import load_results
from adasap.experiments.sweep.table import differences_table, means_table, primary_line, sweep_text
from adasap.sealed import sealed_json, write_sealed_json
from damaged_json import damaged

Tree = dict[str, Any]
ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))


@pytest.fixture
def written(tiny_recipe: Callable[..., Tree], tmp_path: Path) -> Callable[..., Path]:
    """A sweep file beside the recipes `tiny.yaml` and `dense.yaml`; keyword arguments replace its keys."""
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_recipe()))
    (tmp_path / "dense.yaml").write_text(yaml.safe_dump(tiny_recipe(name="tiny_dense")))

    def write(**keys: Any) -> Path:
        tree = {
            "name": "trial",
            "recipe": "tiny.yaml",
            "dense": "dense.yaml",
            "seeds": 3,
            "runs": {"a": {}, "b": {"set": {"fine_tune.sharpness.rho": 0.1}}, "c": {"set": {"fine_tune.epochs": 2}}},
            "baselines": ["b"],
            "primary": {"run": "a", "baseline": "b", "suite": "corrupted"},
        } | keys
        (tmp_path / "sweep.yaml").write_text(
            yaml.safe_dump({k: v for k, v in tree.items() if v is not None}, sort_keys=False)
        )
        return tmp_path / "sweep.yaml"

    return write


def opened(path: Path) -> tuple[Sweep, list[Cell]]:
    sweep = read_sweep(path)
    return sweep, expand(sweep, path.parent)


SCORES = {"a": (0.90, 0.92, 0.95), "b": (0.88, 0.91, 0.91), "c": (0.80, 0.70, 0.75)}


def finish(cell: Cell, out: Path) -> None:
    """Leaves in a cell's folder what a finished run leaves, with the scores above."""
    folder = cell.folder(out)
    folder.mkdir(parents=True, exist_ok=True)
    score = 0.5 if cell.is_dense else SCORES[cell.run.partition("/")[0]][cell.seed]
    stages = {stage: {"clean": 0.99, "corrupted": score} for stage in ("dense", "fine-tuned")}
    cells = {"fog/1": [score - 0.1, score], "fog/2": [score, score], "frost/1": [1.0, 0.0]}
    suites = {"clean": {"scores": {"clean": "10"}, "cells": {}}, "corrupted": {"scores": cells, "cells": {}}}
    size = {"dense": {"parameters": 1000, "macs": 8000}, "compressed": {"parameters": 400, "macs": 2000}}
    counters = {"passes": 48, "skipped": 0, "training_seconds": 1.25}
    result = {
        "scores": stages,
        "stages": dict.fromkeys(stages, suites),
        "profiles": size,
        "counters": counters,
        "seconds": 2.5,
        "environment": {"python": "3"},
    }
    (folder / "result.json").write_text(sealed_json(result))
    (folder / WEIGHTS).write_text("")


# The file


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_is_valid(path: Path) -> None:
    sweep, cells = opened(path)
    assert sweep.name == path.stem
    assert len(sweep.all_seeds) >= 3
    names = [(cell.recipe.name, cell.seed) for cell in cells]
    assert len(set(names)) == len(names)  # no run is another one under a second name
    budgets = {str(cell.recipe.pruning.budget) for cell in cells if cell.run != "dense"}
    assert len(budgets) == 1 or "pruning.budget" in path.read_text()  # a `set` of a whole section drops what it held


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seed": 3}, "unknown key 'seed'; did you mean 'seeds'"),
        ({"runs": {"a": {"sets": {}}}}, "unknown key 'runs.a.sets'; did you mean 'set'"),
        ({"runs": {}}, "name at least one run"),
        ({"runs": {"a/b": {}}}, "'a/b' names a sweep, run or label"),
        ({"seeds": 0}, "seeds is 0; give a number from 1 to 2,000"),
        ({"seeds": [1, 1]}, "list of different ones"),
        ({"baselines": ["d"]}, "baselines: no run is named 'd'; there are: a, b, c"),
        ({"primary": {"run": "a", "baseline": "A"}}, "primary: no run is named 'A'; did you mean 'a'"),
        ({"primary": {"run": "a", "baseline": "a"}}, "compares 'a' with itself"),
        ({"primary": {"run": "a", "baseline": "b", "suite": "fog"}}, "primary.suite is 'fog'"),
        ({"recipe": None}, "run 'a' has no recipe"),
        ({"recipe": "none.yaml"}, "run 'a': .*none.yaml does not exist"),
        ({"set": {"pruning.evnets": 3}}, "run 'a': unknown key 'pruning.evnets'; did you mean 'events'"),
        ({"cluster": {"cpus": 0}}, "cluster: cpus is 0.0; give a number above 0"),
        ({"runs": {"a": {}, "dense": {}}, "baselines": [], "primary": None}, "a run is named `dense`"),
        ({"seeds": 10**9}, "seeds is 1,000,000,000; give a number from 1 to 2,000"),
        ({"seeds": True}, "seeds: Input should be a valid integer, or: Input should be a valid array; given: True"),
        ({"seeds": [0, -1]}, "seeds is -1"),
        ({"seeds": "3"}, "seeds: Input should be a valid integer"),
        (
            {"grid": {f"axis{a}": {str(label): {} for label in range(10)} for a in range(10)}},
            "make 90,000,000,000 cells",
        ),
        ({"runs": {"a": False}}, "runs.a: Input should be an object; given: False"),
        ({"runs": {"x" * 300: {}}}, "names a sweep, run or label"),
        ({"cluster": {"cpus": "inf"}}, "cluster.cpus: Input should be a valid number; given: 'inf'"),
        ({"cluster": {"retries": 10**9}}, "cluster: retries is 1,000,000,000"),
        ({"set": {"seed": True}}, "run 'a': seed: Input should be a valid integer; given: True"),
        ({"set": {"." * 5000: 1}}, "keys are nested 20 deep at most"),
    ],
)
def test_a_wrong_file_is_refused_before_any_run(written: Callable[..., Path], keys: Tree, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        opened(written(**keys))


@pytest.mark.parametrize("labels", [("16", "0x10"), ("1", "1.0"), ("0.4", "'0.4'"), ("a", "'a'")])
def test_two_writings_of_one_label_are_refused(written: Callable[..., Path], labels: tuple[str, str]) -> None:
    path = written(grid={"x": {"label": {}, "other": {}}}, primary=None)
    path.write_text(path.read_text().replace("label:", f"{labels[0]}:").replace("other:", f"{labels[1]}:"))
    with pytest.raises(RecipeError, match=r"two of the labels|is given twice"):
        opened(path)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist; give the path of a sweep"):
        read_sweep(tmp_path / "none.yaml")


def test_the_file_of_the_sweeps_page_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), flags=re.DOTALL)
    path = tmp_path / "sweep.yaml"
    path.write_text(text.replace("../digits", str(ROOT / "recipes" / "digits")))
    sweep, cells = opened(path)
    assert len(cells) == 3 * (1 + 3 * 4)
    assert {cell.recipe.pruning.budget.macs for cell in cells} == {1.0, 0.4, 0.2}
    assert len(sweep.pairs()) == 4 * 3


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_no_sweep_trains_on_what_it_is_tested_on(path: Path) -> None:
    for cell in opened(path)[1]:
        for extra in getattr(cell.recipe.data.augmentation, "extra", ()):  # boxes have their own augmentation
            assert extra.name == "AugMix"
            transform: Any = extra.build()
            space = transform._AUGMENTATION_SPACE if transform.all_ops else transform._PARTIAL_AUGMENTATION_SPACE
            assert len(space) == 9
            assert not {"Brightness", "Contrast", "Color", "Sharpness"} & set(space)


# The cells


def test_a_cell_is_a_recipe_with_its_changes_and_seed(written: Callable[..., Path], tmp_path: Path) -> None:
    grid = {"kept": {0.4: {"pruning.budget": {"macs": 0.4}}, 0.2: {"pruning.budget": {"macs": 0.2}}}}
    keys = {"grid": grid, "set": {"training.batch_size": 16}, "primary": None, "seeds": [4, 7]}
    sweep, cells = opened(written(**keys))
    assert [cell.title for cell in cells[:4]] == ["dense, seed 4", "a/0.4, seed 4", "b/0.4, seed 4", "c/0.4, seed 4"]
    assert len(cells) == 2 * (1 + 3 * 2)
    last = cells[-2]
    assert (last.run, last.seed, last.recipe.seed) == ("b/0.2", 7, 7)
    assert last.recipe.pruning.budget.macs == 0.2
    assert last.recipe.fine_tune.sharpness.rho == 0.1
    assert last.recipe.training.batch_size == 16
    assert last.dense is cells[7]
    assert last.recipe_in(tmp_path).model.weights == str(cells[7].folder(tmp_path) / WEIGHTS)
    assert sweep.pairs() == [("a/0.4", "b/0.4"), ("c/0.4", "b/0.4"), ("a/0.2", "b/0.2"), ("c/0.2", "b/0.2")]


def test_sweeps_share_what_they_have_in_common_and_no_more(written: Callable[..., Path], tmp_path: Path) -> None:
    one = {cell.title: cell.folder(tmp_path) for cell in opened(written())[1]}
    runs = {"same": {}, "other": {"set": {"fine_tune.sharpness.rho": 0.2}}}
    two = {
        cell.title: cell.folder(tmp_path)
        for cell in opened(written(name="two", runs=runs, baselines=[], primary=None))[1]
    }
    assert two["same, seed 1"] == one["a, seed 1"]
    assert two["other, seed 1"] not in one.values()
    other_dense = tmp_path / "dense.yaml"
    other_dense.write_text(other_dense.read_text().replace("learning_rate: 0.02", "learning_rate: 0.03"))
    three = {cell.title: cell.folder(tmp_path) for cell in opened(written())[1]}
    assert not set(three.values()) & set(one.values())  # other weights to start from are another cell


# Running


def states(outcomes: list[Outcome]) -> dict[str, str]:
    return {outcome.cell.title: outcome.state for outcome in outcomes}


def test_finished_cells_are_skipped_and_failures_kept_apart(written: Callable[..., Path], tmp_path: Path) -> None:
    sweep, cells = opened(written())
    made: list[str] = []

    def run(cell: Cell, out: Path) -> None:
        made.append(cell.title)
        if cell.title == "b, seed 1":
            raise ZeroDivisionError("by purpose")
        finish(cell, out)

    first = states(list(run_cells(cells, tmp_path, run)))
    assert first == {cell.title: "failed" if cell.title == "b, seed 1" else "finished" for cell in cells}
    failed = next(cell for cell in cells if cell.title == "b, seed 1")
    failure = json.loads((failed.folder(tmp_path) / FAILURE).read_text())
    assert failure["error"] == "ZeroDivisionError: by purpose"
    assert "in run" in failure["traceback"]
    results = read_results(sweep, cells, tmp_path)
    assert [(row["run"], row["seed"]) for row in results["failed"]] == [("b", 1)]
    assert [row["seeds"] for row in results["comparisons"]] == [2, 2, 2, 2]
    assert "- b, seed 1: ZeroDivisionError: by purpose" in sweep_text(results)
    assert "Not run: b (seeds 1)." in sweep_text(results)

    made.clear()
    second = states(list(run_cells(cells, tmp_path, run)))
    assert made == ["b, seed 1"]
    assert {title for title, state in second.items() if state == "found"} == {c.title for c in cells if c is not failed}


def test_without_its_dense_model_a_cell_does_not_begin(written: Callable[..., Path], tmp_path: Path) -> None:
    _, cells = opened(written())

    def run(cell: Cell, out: Path) -> None:
        if cell.title == "dense, seed 0":
            raise OSError("no space")
        finish(cell, out)

    outcomes = list(run_cells(cells, tmp_path, run))
    errors = {outcome.cell.title: outcome.error for outcome in outcomes}
    assert errors == {
        cell.title: "" if cell.seed else "OSError: no space" if cell.is_dense else "its dense model failed"
        for cell in cells
    }
    again = list(run_cells(cells, tmp_path, finish))
    assert {outcome.state for outcome in again if outcome.cell.seed == 0} == {"finished"}
    assert not list(tmp_path.rglob(FAILURE))


def test_an_interrupt_passes_through(written: Callable[..., Path], tmp_path: Path) -> None:
    _, cells = opened(written())

    def run(cell: Cell, out: Path) -> None:
        if cell.run == "b":
            raise KeyboardInterrupt
        finish(cell, out)

    outcomes = run_cells(cells, tmp_path, run)
    assert [next(outcomes).state for _ in range(2)] == ["finished", "finished"]
    with pytest.raises(KeyboardInterrupt):
        next(outcomes)


# Going on elsewhere

FIRST = 4  # cells: dense, and a, b and c of seed 0


def committed(written: Callable[..., Path], tmp_path: Path) -> tuple[Path, Path]:
    """A sweep and the results file of its first seed, as another machine left it."""
    path, results = written(), tmp_path / "results" / "trial.json"
    sweep, cells = opened(path)
    elsewhere = tmp_path / "elsewhere"
    list(keep_results(run_cells(cells[:FIRST], elsewhere, finish), sweep, cells, elsewhere, results=results))
    return path, results


def test_cells_of_a_results_file_are_taken_over(written: Callable[..., Path], tmp_path: Path) -> None:
    path, results = committed(written, tmp_path)
    made: list[str] = []

    def run(cell: Cell, out: Path) -> None:
        made.append(cell.title)
        finish(cell, out)
        result = json.loads((cell.folder(out) / "result.json").read_text())
        del result["sha256"]
        (cell.folder(out) / "result.json").write_text(sealed_json(result | {"environment": {"python": "4"}}))

    here, (sweep, cells) = tmp_path / "here", opened(path)
    taken = take_over(results, sweep, cells)
    outcomes = keep_results(run_cells(cells, here, run, taken=taken), sweep, cells, here, taken, results)
    stated = {outcome.cell.title: outcome.state for outcome in outcomes}
    found = read_results(sweep, cells, here, taken)
    assert sorted(made) == sorted(f"{name}, seed {seed}" for name in ("dense", "a", "b", "c") for seed in (1, 2))
    assert [stated[f"{run}, seed 0"] for run in ("dense", "a", "b", "c")] == ["not needed", *3 * ["taken over"]]
    whole = tmp_path / "whole"
    list(run_cells(cells, whole, finish))
    expected = read_results(sweep, cells, whole)
    assert found["comparisons"] == expected["comparisons"]
    assert means_table(found).rows == means_table(expected).rows
    assert found["environments"] == [{"python": "3"}, {"python": "4"}]
    cell = found["runs"]["a"]["cells"]["0"]
    assert (cell["environment"], cell["seconds"]) == (0, 2.5)
    assert cell["corruptions"] == {"corrupted": {"fog": pytest.approx(0.875), "frost": 0.5}}  # 0.90 in three of four
    assert load_results(results) == found
    assert len(results.read_bytes()) < 30_000
    made.clear()
    adasap.sweep(path, run=run, out=tmp_path / "again", results=results)
    assert made == []


def test_a_results_file_beside_the_sweep_is_found(written: Callable[..., Path], tmp_path: Path) -> None:
    path, results = committed(written, tmp_path)
    assert results_file(path) is None
    results.rename(path.with_suffix(".json"))
    assert results_file(path) == path.with_suffix(".json")
    with pytest.raises(DataError, match=r"is a folder; give a results file, such as .*sweep.json"):
        results_file(path, tmp_path)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("tiny.yaml", "rho: 0.5", "rho: 0.7", "'a' with fine_tune.sharpness.rho 0.5, and the sweep says 0.7"),
        ("dense.yaml", "batch_size: 32", "batch_size: 16", "'dense' with training.batch_size 32, and .* 16"),
        ("sweep.yaml", "  c:", "  d:", "holds 'c', seed 0, which the sweep has not"),
        ("sweep.yaml", "name: trial", "name: other", "is of the sweep 'trial', and this one is 'other'"),
    ],
)
def test_results_of_another_recipe_are_refused(
    written: Callable[..., Path], tmp_path: Path, file: str, old: str, new: str, message: str
) -> None:
    path, results = committed(written, tmp_path)
    before = results.read_bytes()
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    with pytest.raises(DataError, match=f"{message}.*; give another results file"):
        adasap.sweep(path, run=finish, out=tmp_path / "here", results=results)
    assert results.read_bytes() == before


def test_a_key_that_was_added_since_makes_no_other_recipe(written: Callable[..., Path], tmp_path: Path) -> None:
    path, results = committed(written, tmp_path)
    content = load_results(results)
    assert content["recipes"]["a"]["pruning"].pop("every") == 2
    assert content["recipes"]["a"]["training"].pop("max_skipped") == 10  # its default
    write_sealed_json(results, content)
    with pytest.raises(DataError, match=r"with pruning\.every 30, and the sweep says 2"):
        take_over(results, *opened(path))
    content["recipes"]["a"]["pruning"]["every"] = 2
    write_sealed_json(results, content)
    assert len(take_over(results, *opened(path))) == 3


def test_a_killed_sweep_leaves_what_is_finished(written: Callable[..., Path], tmp_path: Path) -> None:
    path, results = written(), tmp_path / "trial.json"

    def run(cell: Cell, out: Path) -> None:
        if cell.title == "b, seed 1":
            raise KeyboardInterrupt
        finish(cell, out)

    with pytest.raises(KeyboardInterrupt):
        adasap.sweep(path, run=run, out=tmp_path / "here", results=results)
    runs = load_results(results)["runs"]
    assert {name: list(found["cells"]) for name, found in runs.items()} == {"a": ["0", "1"], "b": ["0"], "c": []}


def test_the_shortest_cells_come_first(written: Callable[..., Path]) -> None:
    plain = {"warm_up.sharpness": {"kind": "plain"}, "fine_tune.sharpness": {"kind": "plain"}}
    runs = {"long": {"set": {"fine_tune.epochs": 4}}, "adasap": {}, "plain": {"set": plain}}
    keys = {"runs": runs, "seeds": 2, "baselines": [], "primary": None}
    cells = opened(written(**keys))[1]
    assert plain_costs(cells) == {"dense": 6 * 256, "long": 12 * 256, "adasap": 6 * 256, "plain": 3 * 256}
    assert [cell.title for cell in shortest_first(cells)] == [
        *("dense, seed 0", "plain, seed 0", "dense, seed 1", "plain, seed 1"),
        *("adasap, seed 0", "adasap, seed 1", "long, seed 0", "long, seed 1"),
    ]


@pytest.mark.parametrize(
    ("limit", "begun"),
    [
        (1, ["a, seed 0"]),  # one is always begun
        (29, ["a, seed 0", "a, seed 1"]),  # a takes 10 s
        (30, ["a, seed 0", "a, seed 1", "a, seed 2"]),
        (69, ["a, seed 0", "a, seed 1", "a, seed 2"]),  # b costs four times as much: 40 s
        (70, ["a, seed 0", "a, seed 1", "a, seed 2", "b, seed 0"]),
        (170, ["a, seed 0", "a, seed 1", "a, seed 2", "b, seed 0"]),  # but it took 100 s
    ],
)
def test_a_time_limit_begins_no_cell_that_would_pass_it(
    written: Callable[..., Path], tmp_path: Path, limit: float, begun: list[str]
) -> None:
    runs = {"b": {"set": {"warm_up.epochs": 10, "fine_tune.epochs": 1}}, "a": {}}
    path = written(runs=runs, dense=None, baselines=[], primary=None)
    now, made = 0.0, []

    def run(cell: Cell, out: Path) -> None:
        nonlocal now
        now += {"a": 10, "b": 100}[cell.run]
        made.append(cell.title)
        finish(cell, out)

    outcomes = run_cells(opened(path)[1], tmp_path, run, time_limit=limit, clock=lambda: now)
    assert [o.cell.title for o in outcomes if o.state == "finished"] == made == begun


@pytest.mark.parametrize(
    ("text", "seconds"), [("150m", 9000), ("2h", 7200), ("90s", 90), ("1h30m", 5400), ("0.5h", 1800)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "150", "m", "0s", "-1h", "2 hours", "30m1h", "1e3s", "nan"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ArgumentError, match="such as 2h, 150m or 90s"):
        seconds_of(text)


# The numbers


def test_the_tables_by_hand(written: Callable[..., Path], tmp_path: Path) -> None:
    sweep, cells = opened(written())
    list(run_cells(cells, tmp_path, finish))
    results = json.loads(json.dumps(read_results(sweep, cells, tmp_path)))
    header, rows = means_table(results).header, means_table(results).rows
    assert header == ["run", "seeds", "parameters kept", "MACs kept", "passes", "clean", "corrupted"]
    # a: 0.90, 0.92, 0.95: mean 0.92333, sd 0.0251661, half 4.302653 * sd / sqrt(3) = 0.0625163
    assert rows[0] == ["a", "3", "0.400", "0.250", "48", "99.00 (99.00 to 99.00)", "92.33 (86.08 to 98.58)"]
    found = {(r["run"], r["baseline"], r["suite"]): r for r in results["comparisons"]}
    assert next(iter(found)) == ("a", "b", "corrupted")
    # a - b: 0.02, 0.01, 0.04: mean 0.0233333, sd 0.0152753, half 0.0379458
    primary = found["a", "b", "corrupted"]
    assert (primary["value"], primary["low"], primary["high"]) == pytest.approx(
        (0.0233333, -0.0146125, 0.0612791), abs=1e-6
    )
    assert primary["p"] == pytest.approx(stats.ttest_rel(SCORES["a"], SCORES["b"]).pvalue)
    assert "p_corrected" not in primary
    # the other three: clean twice without any difference (p 1), and c - b; Holm multiplies the least p by 3
    other = found["c", "b", "corrupted"]
    assert other["p_corrected"] == pytest.approx(3 * stats.ttest_rel(SCORES["c"], SCORES["b"]).pvalue)
    assert found["a", "b", "clean"]["p_corrected"] == 1.0
    assert primary_line(results) == (
        "**Primary, named before it was run: a minus b on corrupted**: +2.33 (\N{MINUS SIGN}1.46 to +6.13) points, "
        "p = 0.118, 3 seeds: no difference that these seeds show."
    )
    assert differences_table(results).rows[0][-1] == "primary"
    assert first_common_seed(cells, tmp_path) == 0


@pytest.mark.parametrize(
    ("value", "p", "words"),
    [
        (0.02, 0.0001, " p < 0.001, 3 seeds: a is ahead."),
        (0.02, 0.01, " p = 0.010, 3 seeds: a is ahead."),
        (-0.02, 0.049, ": b is ahead."),
        (0.02, 0.06, ": no difference that these"),
    ],
)
def test_the_verdict_follows_the_sign_and_p(value: float, p: float, words: str) -> None:
    row = {"run": "a", "baseline": "b", "value": value, "low": -1.0, "high": 1.0, "p": p, "seeds": 3}
    named = {"run": "a", "baseline": "b", "suite": "corrupted"}
    assert words in primary_line({"primary": named, "comparisons": [row | {"primary": True}]})


def test_what_is_not_there_is_said(written: Callable[..., Path], tmp_path: Path) -> None:
    sweep, cells = opened(written())
    list(run_cells(cells[:4], tmp_path, finish))
    results = read_results(sweep, cells, tmp_path)
    text = sweep_text(results)
    assert "named before it was run: a minus b on corrupted**: not run yet on two seeds." in text
    assert "Not run: a (seeds 1, 2); b (seeds 1, 2); c (seeds 1, 2)." in text
    assert "| a | 1 | 0.400 | 0.250 | 48 | 99.00 | 90.00 |" in text
    assert results["comparisons"] == []


@pytest.mark.slow
def test_results_read_back_are_whole_and_unaltered_or_refused(tmp_path: Path) -> None:
    results = load_results(ROOT / "results" / "sweep_digits_main.json", needs_digest=False)
    path, refused = tmp_path / "sweep.json", 0
    write_sealed_json(path, results)
    assert load_results(path) == results
    path.write_text(path.read_text().replace('"passes": ', '"passes": 1', 1))
    with pytest.raises(DataError, match="was altered"):
        load_results(path)
    path.write_text(json.dumps(results))
    with pytest.raises(DataError, match=r"carries no digest.*adasap sweep SWEEP --report"):
        load_results(path)
    for content in damaged(results, 200):
        write_sealed_json(path, content)
        try:
            sweep_text(load_results(path))
        except DataError:
            refused += 1
    assert refused > 100
