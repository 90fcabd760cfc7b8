"""A run's folder: what a finished run does when it is started again, and what altered or half-written files lead to."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from adasap.errors import AdasapError, CheckpointError, DataError, HalfWrittenError, RecipeError
from adasap.experiments.compress import run_recipe
from adasap.experiments.recipe import Recipe, parse_recipe
from adasap.report.records import read_records
from adasap.report.run_data import read_run
from adasap.training.folder import RunFolder

Tree = dict[str, Any]
STAGES = ["dense", "warmed up", "pruned", "recalibrated", "fine-tuned"]


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Callable[..., Tree]) -> Recipe:
    found = parse_recipe(tiny_recipe(model={"options": {"widths": [4, 8]}}, data={"suites": {}}))
    assert isinstance(found, Recipe)
    return found


@pytest.fixture(scope="module")
def finished(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, never changed."""
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    started(recipe, folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same to be damaged."""
    return Path(shutil.copytree(finished, tmp_path / "tiny"))


def started(recipe: Recipe, folder: Path) -> str:
    text = io.StringIO()
    run_recipe(recipe, folder, Console(file=text, width=200), brief=True)
    return text.getvalue()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.slow
def test_a_finished_run_says_so_and_measures_nothing_again(recipe: Recipe, copy: Path) -> None:
    before = contents(copy)
    text = started(recipe, copy)
    assert f"tiny: finished; nothing left to do; results in {copy}" in text.replace("\n", "")
    assert "resumed at" not in text
    assert contents(copy) == before
    assert list(RunFolder(copy).stages) == STAGES
    assert list(json.loads(before["result.json"])["stages"]) == STAGES


@pytest.mark.slow
def test_a_run_states_its_budget_and_what_was_measured(finished: Path) -> None:
    found = read_run(finished)
    macs, dense = (found.profiles[name].macs for name in ("compressed", "dense"))
    assert found.target == f"MACs: at most {dense / 2:,.0f} allowed, {macs:,} measured: met"
    assert f"Budget: {found.target}." in (finished / "summary.md").read_text()


@pytest.mark.slow
def test_a_result_that_is_cut_short_is_measured_again(recipe: Recipe, copy: Path) -> None:
    whole = (copy / "result.json").read_bytes()
    (copy / "result.json").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(HalfWrittenError, match=r"result\.json is empty, cut short or not JSON"):
        read_run(copy)
    text = started(recipe, copy)
    assert "result.json or model.safetensors is not there or cut short: measured and written now" in text
    assert read_run(copy).stages.keys() == set(STAGES)


def test_another_recipe_is_refused_with_the_keys_that_differ(tiny_recipe: Callable[..., Tree], copy: Path) -> None:
    other = tiny_recipe(model={"options": {"widths": [4, 8]}}, data={"suites": {}}, seed=3, warm_up={"epochs": 2})
    words = r"seed \(0 there, 3 here\), warm_up\.epochs \(1\.0 there, 2\.0 here\); give another --out"
    with pytest.raises(RecipeError, match=words):
        started(parse_recipe(other), copy)  # type: ignore[arg-type]
    (copy / "recipe.yaml").unlink()  # without it the checkpoint knows
    with pytest.raises(CheckpointError, match=r"seed \(0 there, 3 here\), warm_up\.epochs \(1\.0 there, 2\.0 here\)"):
        started(parse_recipe(other), copy)  # type: ignore[arg-type]


def flipped(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("place", [-1, 4000, 100])
def test_an_altered_checkpoint_is_refused(copy: Path, place: int) -> None:
    flipped(copy / "checkpoint.safetensors", place)
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors was altered or damaged.*remove it to start"):
        RunFolder(copy)


@pytest.mark.parametrize("end", [0, 7, 300, -1])
def test_a_checkpoint_that_is_cut_short_counts_as_not_there(copy: Path, end: int) -> None:
    path = copy / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:end])
    folder = RunFolder(copy)
    assert folder.saved is None
    assert folder.notes == ["checkpoint.safetensors is empty or cut short; the run begins anew"]


def test_a_checkpoint_of_an_earlier_version_is_refused(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / "checkpoint.safetensors"
    save_file(load_file(path), path, {"format": "adasap-checkpoint-1", "state": "{}"})
    with pytest.raises(CheckpointError, match="carries no digest: an earlier version wrote it, or it was altered"):
        RunFolder(copy)


@pytest.mark.parametrize("text", ["{}", "[]", "null"])
def test_the_scores_of_a_stage_are_those_of_the_checkpoint(copy: Path, text: str) -> None:
    path = copy / "stage-warmed_up.json"
    whole = path.read_bytes()
    path.write_text(text)
    with pytest.raises(CheckpointError, match=r"stage-warmed_up\.json was altered or damaged.*remove it"):
        RunFolder(copy)
    path.write_bytes(whole.replace(b'"accuracy": 0.', b'"accuracy": 1.'))
    with pytest.raises(CheckpointError, match=r"stage-warmed_up\.json was altered or damaged"):
        RunFolder(copy)


@pytest.mark.parametrize("end", [None, 0, 1, 40])
def test_the_scores_of_a_stage_are_written_again_where_they_are_cut_short(copy: Path, end: int | None) -> None:
    path = copy / "stage-warmed_up.json"
    whole = path.read_bytes()
    path.unlink() if end is None else path.write_bytes(whole[:end])
    folder = RunFolder(copy)
    assert list(folder.stages) == STAGES
    assert folder.notes == ["stage-warmed_up.json was missing or cut short; written again from the checkpoint"]
    folder.open_for_writing()
    folder.close()
    assert path.read_bytes() == whole


def test_altered_records_are_refused(copy: Path) -> None:
    path = copy / "records.jsonl"
    lines = path.read_bytes()
    for altered in (lines.replace(b'"loss": ', b'"loss": 1', 1), lines[:-30], b""):
        path.write_bytes(altered)
        with pytest.raises(
            CheckpointError, match="altered or cut short: it is not what the checkpoint beside it knows"
        ):
            RunFolder(copy).open_for_writing()
        with pytest.raises(DataError, match=r"records\.jsonl is not what result\.json says, so it was altered"):
            read_run(copy)
    path.write_bytes(lines + b'{"kind": "step", "st')  # what a killed run leaves behind its checkpoint
    RunFolder(copy).open_for_writing()
    assert path.read_bytes() == lines


def test_altered_results_are_refused_and_those_of_earlier_versions_are_read(copy: Path) -> None:
    path = copy / "result.json"
    whole = path.read_text()
    path.write_text(whole.replace('"num_images": 100', '"num_images": 101'))
    with pytest.raises(DataError, match=r"result\.json was altered or damaged: its digest does not match"):
        read_run(copy)
    old = {key: value for key, value in json.loads(whole).items() if key not in ("sha256", "files", "target")}
    path.write_text(json.dumps(old))
    assert not read_run(copy).has_digest
    path.write_text("{}")
    with pytest.raises(AdasapError, match=r"result\.json: name is missing"):
        read_run(copy)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[]", "line 2 is not a record of a run"),
        ('{"kind": "other"}', "line 2 is not a record of a run"),
        ('{"kind": "phase", "step": 0, "phase": "warm-up", "stop": 8}', "line 2: num_steps of a phase record must be"),
        ('{"kind": "phase", "step": true, "phase": "", "stop": 8, "num_steps": 9}', "line 2: step of a phase record"),
        ('{"kind": "phase", "step": NaN, "phase": "", "stop": 8, "num_steps": 9}', "the number NaN is not finite"),
    ],
)
def test_a_damaged_record_is_named_and_a_last_line_cut_short_is_left_out(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "records.jsonl"
    good = '{"kind": "phase", "step": 0, "phase": "warm-up", "stop": 8, "num_steps": 24}\n'
    path.write_text(good + line + "\n" + good)
    with pytest.raises(DataError, match=words):
        read_records(path, error=DataError)
    path.write_text(good + good[:-30])
    assert read_records(path, error=DataError) == [json.loads(good)]
