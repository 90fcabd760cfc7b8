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

from adasap.errors import RecipeError
from adasap.sweep import Cell, Outcome, Sweep, expand, read_results, read_sweep, run_cells
from adasap.sweep.cells import WEIGHTS
from adasap.sweep.results import first_common_seed
from adasap.sweep.running import FAILURE
from adasap.sweep.table import differences_table, means_table, primary_line, sweep_text

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
    size = {"dense": {"parameters": 1000, "macs": 8000}, "compressed": {"parameters": 400, "macs": 2000}}
    counters = {"passes": 48, "skipped": 0, "training_seconds": 1.25}
    (folder / "environment.json").write_text(json.dumps({"python": "3"}))
    (folder / "result.json").write_text(json.dumps({"scores": stages, "profiles": size, "counters": counters}))
    (folder / WEIGHTS).write_text("")


# The file


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_of_the_repository_is_valid(path: Path) -> None:
    sweep, cells = opened(path)
    assert sweep.name == path.stem
    assert len(sweep.all_seeds) >= 3
    names = [(cell.recipe.name, cell.seed) for cell in cells]
    assert len(set(names)) == len(names)  # no run is another one under a second name


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"seed": 3}, "unknown key 'seed'; did you mean 'seeds'"),
        ({"runs": {"a": {"sets": {}}}}, "unknown key 'runs.a.sets'; did you mean 'set'"),
        ({"runs": {}}, "name at least one run"),
        ({"runs": {"a/b": {}}}, "'a/b' names a sweep, run or label"),
        ({"seeds": 0}, "give a number of seeds"),
        ({"seeds": [1, 1]}, "list of different ones"),
        ({"baselines": ["d"]}, "baselines: no run is named 'd'; there are: a, b, c"),
        ({"primary": {"run": "a", "baseline": "A"}}, "primary: no run is named 'A'; did you mean 'a'"),
        ({"primary": {"run": "a", "baseline": "a"}}, "compares 'a' with itself"),
        ({"primary": {"run": "a", "baseline": "b", "suite": "fog"}}, "primary.suite is 'fog'"),
        ({"recipe": None}, "run 'a' has no recipe"),
        ({"recipe": "none.yaml"}, "run 'a': there is no recipe at"),
        ({"set": {"pruning.evnets": 3}}, "run 'a': unknown key 'pruning.evnets'; did you mean 'events'"),
        ({"cluster": {"cpus": 0}}, "give cpus above 0"),
        ({"runs": {"a": {}, "dense": {}}, "baselines": [], "primary": None}, "a run is named `dense`"),
    ],
)
def test_a_wrong_file_is_refused_before_any_run(written: Callable[..., Path], keys: Tree, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        opened(written(**keys))


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is no sweep at"):
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
        for extra in cell.recipe.data.augmentation.extra:
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
    assert [title for title, state in second.items() if state == "found"] == [c.title for c in cells if c is not failed]


def test_without_its_dense_model_a_cell_does_not_begin(written: Callable[..., Path], tmp_path: Path) -> None:
    _, cells = opened(written())

    def run(cell: Cell, out: Path) -> None:
        if cell.title == "dense, seed 0":
            raise OSError("no space")
        finish(cell, out)

    outcomes = list(run_cells(cells, tmp_path, run))
    assert [o.error for o in outcomes[:4]] == ["OSError: no space"] + 3 * ["its dense model failed"]
    assert {outcome.state for outcome in outcomes[4:]} == {"finished"}
    again = list(run_cells(cells, tmp_path, finish))
    assert {outcome.state for outcome in again[:4]} == {"finished"}
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
    assert first_common_seed(results) == 0


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
    list(run_cells(cells[:5], tmp_path, finish))
    results = read_results(sweep, cells, tmp_path)
    text = sweep_text(results)
    assert "named before it was run: a minus b on corrupted**: not run yet on two seeds." in text
    assert "Not run: a (seeds 1, 2); b (seeds 1, 2); c (seeds 1, 2)." in text
    assert "| a | 1 | 0.400 | 0.250 | 48 | 99.00 | 90.00 |" in text
    assert results["comparisons"] == []
