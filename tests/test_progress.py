"""What a run tells on the way: lines in a log every 30 s, objects for a program, nothing if it is to be quiet."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from adasap.cli import app
from adasap.experiments.compress import run_recipe
from adasap.experiments.progress import LogObserver, ProgressObserver, progress_on
from adasap.experiments.recipe import parse_recipe
from adasap.experiments.terminal import JsonConsole, open_console
from adasap.io import dump_yaml
from adasap.training import CellRecord, PhaseRecord, PruneRecord, StageRecord, StepRecord


def step(number: int) -> StepRecord:
    return StepRecord(number, "warm-up", 0.5, 0.125, 0.01, 1.0, True, 2.0, 0.1)


def test_a_log_has_a_line_every_thirty_seconds_and_at_every_stage() -> None:
    console, now = Console(file=io.StringIO(), width=20), [0.0]
    observer = LogObserver(console, "[a]", clock=lambda: now[0])
    observer(StageRecord(0, "dense", {"clean": 0.5}, 1.0))
    observer(PhaseRecord(0, "warm-up", 100, 1000))
    for number in range(1, 66):  # a second each
        now[0] += 1
        observer(step(number))
    observer(PruneRecord(65, 1, 2, 1.0e6, 1.2e6, "MACs", 7, 0.0, 1.0))
    observer(PhaseRecord(65, "warm-up", 100, 1000))  # the same phase goes on
    for number in range(1, 41):
        now[0] += 1
        observer(CellRecord(65, "pruned", "corrupted", "fog/3", number, 75))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    pace = "loss 0.5000, gap 0.1250, learning rate 0.01, 1 s a step"
    assert lines == [
        "[a]: dense        clean 50.00 %",
        "[a]: warm-up from step 0 of 1,000 on",
        f"[a]: warm-up, step 30 of 1,000, {pace}, 16 min left at this pace",
        f"[a]: warm-up, step 60 of 1,000, {pace}, 16 min left at this pace",
        "[a]: pruning event 1 of 2 at step 65: 7 channels removed, 1,000,000 MACs left",
        "[a]: evaluating pruned: corrupted fog/3, cell 25 of 75",
    ]


def test_a_bar_is_shown_where_it_can_move() -> None:
    with progress_on(Console(file=io.StringIO(), force_terminal=True, width=200), "a") as shown:
        assert isinstance(shown, ProgressObserver)
        shown(PhaseRecord(0, "warm-up", 1, 2))
        shown(CellRecord(0, "dense", "clean", "clean", 1, 1))
    with progress_on(Console(file=io.StringIO()), "a") as shown:
        assert isinstance(shown, LogObserver)


def test_no_number_that_json_does_not_know_is_printed() -> None:
    console = JsonConsole(file=io.StringIO())
    with progress_on(console, "a") as shown:
        shown(StepRecord(1, "warm-up", float("nan"), None, 0.1, float("inf"), False, 1.0, 0.1))
    record = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    assert (record["kind"], record["loss"], record["gradient_norm"]) == ("step", None, None)


@pytest.mark.slow
def test_programs_read_a_run_and_an_evaluation_and_change_nothing(
    tiny_recipe: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    def call(*words: str) -> str:
        result = CliRunner().invoke(app, list(words), catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    def objects(*words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in call(*words).splitlines()]

    recipe = tmp_path / "r.yaml"
    tree = tiny_recipe(pruning={"events": 1})
    recipe.write_text(dump_yaml(tree))
    quiet, watched = tmp_path / "quiet", tmp_path / "watched"
    untracked = {**tree, "training": {**tree["training"], "trackers": []}}
    run_recipe(parse_recipe(untracked), quiet / "tiny", open_console(quiet=True), brief=True)
    assert not (quiet / "tiny" / "tensorboard").exists()
    told = objects("compress", str(recipe), "--out", str(watched), "--json")
    kept = [json.loads(line) for line in (quiet / "tiny" / "records.jsonl").read_text().splitlines()]
    for kind in ("step", "prune", "stage", "phase"):
        ours, theirs = ([{**r, "seconds": 0} for r in records if r["kind"] == kind] for records in (told, kept))
        assert ours == theirs != []
    assert {record["kind"] for record in told} == {"note", "step", "prune", "stage", "phase", "cell", "result"}
    assert told[-1]["kind"] == "result"
    assert told[-1]["scores"]["fine-tuned"] == [r for r in kept if r["kind"] == "stage"][-1]["scores"]
    assert [one.read_bytes() for one in sorted(quiet.glob("tiny/stage-*.json"))] == [
        one.read_bytes() for one in sorted(watched.glob("tiny/stage-*.json"))
    ]
    assert call("compress", str(recipe), "--out", str(watched), "--quiet") == ""
    found = objects("evaluate", str(watched / "tiny"), "--suite", "clean", "--json")
    assert {record["kind"] for record in found} >= {"cell", "suite", "table"}
    suite = next(record for record in found if record["kind"] == "suite")
    assert suite["mean"] == told[-1]["scores"]["fine-tuned"]["clean"]
    assert suite["interval"]["low"] <= suite["mean"] <= suite["interval"]["high"]


def test_a_quiet_console_of_json_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    open_console(quiet=True, json=True).print("a")
    open_console(json=True).print("b", "")
    assert capsys.readouterr().out == '{"kind": "note", "text": "b"}\n'
