"""Run folders as data, and the comparison's numbers against numbers worked out by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from adasap.errors import DataError
from adasap.evaluation import CLEAN, SuiteResult
from adasap.metric import Metric
from adasap.profiling.profile import Latency, Profile
from adasap.report.comparison import changes, compare_runs, extra_metrics, gains, points
from adasap.report.environment import environment
from adasap.report.figures_run import run_curves
from adasap.report.files import comparison_table, csv_text, gain_table, report_data, write_summary
from adasap.report.page import page_html
from adasap.report.run_data import RunData, Width, read_run, read_runs
from adasap.report.task_record import TaskRecord
from adasap.tasks.classification.report.examples import save_examples
from suite_trees import by_cell

ONES, HALF = [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0]


def suites(clean: list[float], corrupted: dict[str, list[float]]) -> dict[str, SuiteResult]:
    cells = {cell: torch.tensor(scores) for cell, scores in corrupted.items()}
    found = {"clean": SuiteResult("clean", {CLEAN: torch.tensor(clean)}, {CLEAN: {"accuracy": 1.0, "brier": 0.25}})}
    return found | ({"corrupted": SuiteResult("corrupted", by_cell(cells))} if cells else {})


def a_run(name: str, dense: dict[str, SuiteResult], small: dict[str, SuiteResult], **fields: Any) -> RunData:
    profiles = {
        model: Profile(
            parameters=size, macs=10 * size, peak_memory_mb=1.0, latency=(Latency(1, size / 100, size / 50),)
        )
        for model, size in (("dense", 400), ("compressed", 100))
    }
    made: dict[str, Any] = {
        "name": name,
        "task": TaskRecord("classification", Metric("accuracy", "accuracy")),
        "folder": Path(name),
        "recipe": {"seed": 3},
        "recipe_yaml": "seed: 3\n",
        "environment": environment(),
        "stages": {"dense": dense, "fine-tuned": small},
        "profiles": profiles,
        "counters": {"step": 8, "passes": 16, "skipped": 0, "training_seconds": 1.0},
        "widths": (Width("conv", 4, 2), Width("head", 10, 10, ("output of the model",))),
        "seconds": 1.0,
        "records": (),
    }
    return RunData(**made | fields)


DENSE = suites(ONES, {"fog/1": ONES, "fog/5": HALF, "snow/1": HALF})
RUN = a_run("run", DENSE, suites(HALF, {"fog/1": HALF, "fog/5": HALF, "snow/1": ONES}))


def test_changes_are_those_of_the_profiles_and_the_images() -> None:
    found = {change.quantity: change for change in changes(RUN)}
    assert (found["parameters"].before.value, found["parameters"].after.value) == (400, 100)
    assert (found["latency, batch 1"].after.value, found["latency, batch 1"].after.high) == (1.0, 2.0)
    clean = found["clean"]
    assert (clean.before.value, clean.after.value) == (1.0, 0.5)
    assert clean.difference is not None
    assert clean.difference.value == -0.5
    assert clean.difference.low < -0.5 < clean.difference.high


def test_a_gain_is_paired_and_a_mean_over_severities() -> None:
    found = {gain.corruption: gain for gain in gains(RUN)}
    assert list(found) == ["snow", "fog"]  # the largest first
    assert found["snow"].difference.value == pytest.approx(0.5)
    assert found["fog"].difference.value == pytest.approx(-0.25)  # (0.5 + 0.5) / 2 - (1.0 + 0.5) / 2
    same = a_run("same", DENSE, RUN.scores("compressed"))
    assert [(gain.difference.low, gain.difference.high) for gain in gains(RUN, same)] == [(0.0, 0.0)] * 2


def test_the_line_keeps_the_dense_ratio() -> None:
    dense, small = points([RUN])
    assert dense.corrupted_line == pytest.approx(dense.corrupted.value)
    assert small.corrupted_line == pytest.approx(0.5 * (1.0 + 0.5 + 0.5) / 3)


def test_one_dense_model_is_one_point_and_two_are_two() -> None:
    again = a_run("again", DENSE, RUN.scores("compressed"))
    assert [point.name for point in points([RUN, again])] == ["dense", "run", "again"]
    other = a_run("other", suites(HALF, {"fog/1": HALF}), suites(HALF, {"fog/1": HALF}))
    assert [point.name for point in points([RUN, other])] == ["dense of run", "dense of other", "run", "other"]


def test_runs_without_corruptions_have_no_gains_and_no_point() -> None:
    plain = a_run("plain", suites(ONES, {}), suites(HALF, {}))
    assert gains(plain) == []
    assert points([plain]) == []
    found = compare_runs([plain])
    assert "gains" in report_data(found)["runs"]["plain"]
    assert "gains-0" not in page_html(found, {})


def test_metrics_beside_accuracy_are_taken_as_they_come() -> None:
    assert extra_metrics(RUN) == [("clean", "brier", 0.25, 0.25)]


def test_other_test_sets_cannot_be_paired() -> None:
    short = a_run("short", DENSE, suites(ONES, {"fog/1": ONES[:3], "snow/1": ONES[:3]}))
    with pytest.raises(DataError, match="4 and 3 images, which cannot be paired"):
        gains(RUN, short)


def test_an_unknown_baseline_is_refused() -> None:
    with pytest.raises(DataError, match=r"'rum' is none of the runs; did you mean 'run'"):
        compare_runs([RUN], "rum")


def test_json_and_csv_hold_the_same_numbers() -> None:
    data = json.loads(json.dumps(report_data(compare_runs([RUN])), allow_nan=False))["runs"]["run"]
    rows = list(csv.DictReader(io.StringIO(csv_text(compare_runs([RUN])))))
    snow = next(row for row in rows if row["quantity"] == "snow")
    assert float(snow["difference"]) == data["gains"][0]["difference"]["value"] == 0.5
    cell = next(row for row in rows if row["quantity"] == "corrupted: fog/5")
    assert float(cell["value"]) == data["cells"]["corrupted"]["fog/5"]["compressed"] == 0.5
    assert data["widths"][1]["frozen"] == ["output of the model"]


def test_the_summary_names_the_baseline(tmp_path: Path) -> None:
    write_summary(compare_runs([RUN, a_run("again", DENSE, DENSE)], "run"), tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert "| run | 400 -> 100 |" in text
    assert "| corruption | run over dense | again over run |" in text
    assert "| fog | \N{MINUS SIGN}25.0" in text


def test_a_folder_without_a_finished_run_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no finished run"):
        read_run(tmp_path)
    with pytest.raises(DataError, match="given twice"):
        read_runs([tmp_path, tmp_path])


class Brightest(torch.nn.Module):
    """Answers with the brightest colour."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 20 * images.mean(dim=(2, 3))


class AsFloat:
    def prepare(self, batch: Any, device: torch.device) -> Any:
        return batch[0].float() / 255, batch[1]


def test_curves_show_the_linear_rise_and_the_factor_of_a_budget_where_they_were_recorded() -> None:
    step = {"kind": "step", "step": 1, "phase": "warm-up", "loss": 1.0, "gap": 0.3}
    rise, factor = {"linear_rise": 0.2}, {"radius_factor": 0.5}
    seen = {}
    for name, fields in {"old": {}, "fixed": rise, "budget": rise | factor}.items():
        plot = run_curves(a_run(name, DENSE, DENSE, records=(step | fields,)), "key").plot
        shown = {axis.title.text for axis in plot.select_yaxes()}
        seen[name] = ([trace.y[0] for trace in plot.select_traces() if trace.x == (1,)], "factor of radii" in shown)
    assert seen == {
        "old": ([1.0, 0.3], False),
        "fixed": ([1.0, 0.3, 0.2], False),
        "budget": ([1.0, 0.3, 0.2, 0.5], True),
    }


def test_examples_are_the_images_and_the_answers(tmp_path: Path) -> None:
    from adasap.data import InMemoryImages
    from adasap.evaluation import SuiteSource, open_suite

    images = torch.zeros(5, 3, 8, 8, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 2, 1, 1])
    images[0, 0], images[2, 1] = 200, 200  # the first is red as labelled, the third is green but labelled blue
    data = InMemoryImages(images, labels, ["red", "green", "blue"])
    dark = SuiteSource(kind="corrupted", corruptions=("contrast",), severities=(1, 4, 5))
    shown = [open_suite("clean", SuiteSource(kind="clean"), data), open_suite("dark", dark, data)]
    save_examples(tmp_path, {"dense": Brightest()}, AsFloat(), shown, data.classes, torch.device("cpu"))  # type: ignore[arg-type]
    entries = json.loads((tmp_path / "examples" / "examples.json").read_text())
    assert [(e["suite"], e["severity"], e["index"]) for e in entries] == [
        ("clean", 0, 0),
        ("clean", 0, 2),
        ("dark", 4, 0),
        ("dark", 4, 2),
    ]
    assert [(e["label"], e["guesses"]["dense"]["label"]) for e in entries[:2]] == [("red", "red"), ("blue", "green")]
    assert [e["guesses"]["dense"]["right"] for e in entries[:2]] == [True, False]
    assert Image.open(tmp_path / "examples" / entries[0]["image"]).getpixel((3, 3)) == (200, 0, 0)


# Runs that were scored on something else


def scored_on(name: str, suites_of: dict[str, SuiteResult], **test: Any) -> RunData:
    recipe = {"seed": 3, "data": {"test": {"kind": "digits", "path": None, "first": 0, **test}, "suites": {}}}
    return a_run(name, suites_of, suites_of, recipe=recipe)


FOG = suites(ONES, {"fog/1": ONES, "fog/5": HALF})
OTHERS = {
    "another data set": (scored_on("b", FOG, kind="npz", path="/data/b.npz"), "npz b.npz instead of digits"),
    "another part": (scored_on("b", FOG, split="val"), "digits, part val instead of digits"),
    "other numbers": (scored_on("b", suites(ONES[:3], {"fog/1": ONES[:3], "fog/5": HALF[:3]})), "3 instead of 4"),
    "another place of the same": (scored_on("b", FOG, path="/b/digits"), ""),
}


@pytest.mark.parametrize("what", OTHERS)
def test_runs_with_other_test_images_are_marked_and_have_no_differences(what: str, tmp_path: Path) -> None:
    other, reason = OTHERS[what]
    first = scored_on("a", FOG) if reason else scored_on("a", FOG, path="/a/digits")
    found = compare_runs([first, other], "a")
    table, page = str(comparison_table(found)), page_html(found, {})
    write_summary(found, tmp_path)
    marks = [table.count("(not comparable)"), page.count("b is not comparable with a on clean, corrupted")]
    if not reason:
        assert (found.remarks, marks) == ((), [0, 0])
        assert [gain.corruption for gain in found.gains["b"]] == ["fog"]
        return
    assert found.remarks == (f"b is not comparable with a on clean, corrupted: other test images ({reason})",)
    assert found.remarks[0] in (tmp_path / "summary.md").read_text()
    assert marks == [2, 1]
    assert found.gains["b"] == []
    assert "b" not in {point.name for point in found.points}
    assert "| fog | +0.0 (+0.0 to +0.0) | not comparable |" in str(gain_table(found))
    assert "Left out, since not comparable with a: b." in page
    data = report_data(found)["runs"]
    assert data["b"]["not_comparable"]["suites"].keys() == {"clean", "corrupted"}
    assert data["a"]["not_comparable"] == {"with": "a", "suites": {}}


def test_other_severities_are_not_comparable_and_other_suites_of_the_two_are() -> None:
    found = compare_runs([scored_on("a", FOG), scored_on("b", suites(ONES, {"fog/1": ONES}))])
    assert found.apart["b"] == {"corrupted": "other corruptions or severities"}
    assert str(comparison_table(found)).endswith("| 100.0 % -> 100.0 % | 100.0 % -> 100.0 % (not comparable) |")


def test_another_dense_model_is_said() -> None:
    first, other = (
        a_run(name, FOG, FOG, recipe={"model": {"builder": builder, "options": {}}})
        for name, builder in (("a", "adasap:digits_net"), ("b", "torchvision:resnet18"))
    )
    said = ("b began with another dense model than a: torchvision:resnet18 instead of adasap:digits_net",)
    found = compare_runs([first, other])
    assert found.remarks == said
    assert said[0] in page_html(found, {})
    assert found.gains["b"] != []  # each over its own dense model
