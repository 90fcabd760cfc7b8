"""The page knows no task: panels of a task's own, metrics of any unit and direction, results of earlier versions."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import adasap.report.page as page
import adasap.report.panels as panels
from adasap.cli import app
from adasap.errors import ArgumentError, DataError
from adasap.evaluation import CLEAN, SuiteResult
from adasap.evaluation.statistics import Interval
from adasap.experiments.page import write_page
from adasap.experiments.sweep.table import means_table, primary_line, sweep_text
from adasap.metric import Metric
from adasap.report.comparison import Comparison, compare_runs
from adasap.report.figures import Figure, styled
from adasap.report.figures_scores import gain_bars
from adasap.report.files import change_table, gain_table, report_data
from adasap.report.panel import Block, Content, Panel, arranged, blocks_by_run
from adasap.report.panels import COMMON
from adasap.report.panels.layers import Layers
from adasap.report.pictures import image_source
from adasap.report.run_data import RunData, Width, digests, read_run
from adasap.report.schema import LatencyData, ProfileData
from adasap.report.table import Table
from adasap.report.task_record import TaskRecord, predictions_of, task_of
from adasap.sealed import sealed_json
from adasap.tasks.panels import TASK_PANELS
from suite_trees import by_cell
from test_report_data import RUN, a_run

MINUS = "\N{MINUS SIGN}"
COUNT_ERROR = Metric("count_error", "count error <dots>", "dots", higher_is_better=False)
MACHINE = {"gpu": None, "cpu_count": 2, "torch_threads": 1, "system": "Linux", "python": "3.11", "packages": {}}


def errors(clean: list[float], fog: list[float], snow: list[float]) -> dict[str, SuiteResult]:
    cells = {"fog/1": torch.tensor(fog), "snow/1": torch.tensor(snow)}
    clean_cell = {CLEAN: {"count_error": sum(clean) / len(clean), "bias": 0.5}}
    return {
        "clean": SuiteResult("clean", {CLEAN: torch.tensor(clean)}, clean_cell),
        "corrupted": SuiteResult("corrupted", by_cell(cells)),
    }


DENSE = errors([1.0, 1.0, 2.0, 2.0], [2.0, 2.0, 4.0, 4.0], [3.0, 3.0, 3.0, 3.0])
SMALL = errors([2.0, 2.0, 3.0, 3.0], [1.0, 1.0, 3.0, 3.0], [6.0, 6.0, 6.0, 6.0])
DOTS = a_run("dots", DENSE, SMALL, task=TaskRecord("dots", COUNT_ERROR), environment=MACHINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of a task that nobody registered, as its files."""
    run = tmp_path / "dots"
    run.mkdir()
    (run / "recipe.yaml").write_text("task: my.module:Dots\n")
    stage = {
        "kind": "stage",
        "step": 8,
        "stage": "fine-tuned",
        "scores": {"clean": 2.5, "corrupted": 4.0},
        "seconds": 1,
    }
    (run / "records.jsonl").write_text(json.dumps(stage) + "\n")
    profile = {"parameters": 400, "macs": 4000, "peak_memory_mb": 1.0, "latency": [[1, 4.0, 8.0]]}
    profile["latency"] = [{"batch_size": 1, "p50_ms": 4.0, "p95_ms": 8.0}]
    result = {
        "name": "dots",
        "task": {"name": "my.module:Dots", "metric": vars(COUNT_ERROR)},
        "recipe": {"seed": 0},
        "environment": MACHINE,
        "stages": {
            stage: {name: one.to_json() for name, one in suites.items()}
            for stage, suites in (("dense", DENSE), ("fine-tuned", SMALL))
        },
        "profiles": {"dense": profile, "compressed": {**profile, "parameters": 100, "macs": 1000}},
        "counters": {"step": 8, "passes": 16, "skipped": 0, "training_seconds": 1.0},
        "seconds": 1.0,
        "files": digests(run),
    }
    (run / "result.json").write_text(sealed_json(result))
    return run


def test_lower_is_better_in_tiles_tables_and_gains() -> None:
    found = compare_runs([DOTS])
    clean = next(change for change in found.changes["dots"] if change.quantity == "clean")
    shown = page.tile(clean, found.metric)
    assert (shown["before"], shown["after"]) == ("1.50 dots", "2.50 dots")
    assert shown["detail"] == "+1.00 (+1.00 to +1.00) dots, worse"
    assert (shown["label"], shown["verdict"]) == ("count error <dots>, clean", "lost")
    assert shown["bars"] == (60.0, 100.0)
    assert "| clean | 1.50 dots | 2.50 dots | +1.00 (+1.00 to +1.00) dots, worse |" in str(
        change_table(found.changes["dots"], found.metric)
    )
    assert [gain.corruption for gain in found.gains["dots"]] == ["fog", "snow"]  # the largest gain first
    assert found.gains["dots"][0].difference.value == -1.0
    assert "| fog | +1.00 (+1.00 to +1.00) |" in str(gain_table(found))
    assert report_data(found)["metric"] == vars(COUNT_ERROR)
    assert {row["metric"] for row in report_data(found)["runs"]["dots"]["metrics"]} == {"bias"}


def test_a_difference_whose_interval_holds_zero_is_grey_and_said() -> None:
    found = compare_runs([DOTS])
    clean = next(change for change in found.changes["dots"] if change.quantity == "clean")
    shown = page.tile(replace(clean, difference=Interval(0.5, -0.1, 1.1)), found.metric)
    assert shown["verdict"] == "undecided"
    assert shown["detail"].endswith("no difference that shows")
    gains = [replace(gain, difference=Interval(-0.5, -1.0, 0.1)) for gain in found.gains["dots"]]
    wins, losses, undecided = gain_bars(gains, "dense", found.metric, "gains").plot.data
    assert (len(wins.y), len(losses.y), len(undecided.y)) == (0, 0, 2)
    assert undecided.marker.color == "var(--dense)"


def test_sizes_say_how_much_smaller() -> None:
    found = compare_runs([DOTS])
    macs = next(change for change in found.changes["dots"] if change.quantity == "MACs")
    assert "x smaller, " in page.tile(macs, found.metric)["detail"]


def test_a_file_in_the_folder_of_panels_is_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "greeting.py").write_text(
        "from adasap.report.panel import Block, Content, Panel\n"
        "class Greeting(Panel):\n"
        "    key, heading, follows = 'greeting', 'Greeting', 'all'\n"
        "    def content(self, found):\n"
        "        return Content('Greeting', shared=(Block(text='Good morning.'),))\n"
    )
    assert panels.panels_beside() == []
    monkeypatch.setattr(panels, "__path__", [*panels.__path__, str(tmp_path)])
    text = page.page_html(compare_runs([DOTS]), {})
    assert text.index('id="part-all"') < text.index('id="part-greeting"') < text.index('id="part-run"')
    assert "Good morning." in text


def drawn(run: RunData) -> dict[str, Figure]:
    found = compare_runs([run])
    contents = (panel.content(found) for panel in COMMON)
    return {figure.key: figure for content in contents if content for figure in content.figures()}


def test_lower_is_better_in_figures() -> None:
    figures = drawn(DOTS)
    layout = figures["trade-off"].plot.layout
    assert (layout.xaxis.autorange, layout.yaxis.autorange) == ("reversed", "reversed")
    assert layout.yaxis.title.text == "corrupted count error &lt;dots&gt; (dots)"
    assert [view.layout["xaxis.autorange"] for view in figures["trade-off"].views] == ["reversed", True, True, True]
    assert "Lower count error <dots> is better" in figures["trade-off"].caption
    wins, losses, undecided = figures["gains-0"].plot.data
    assert len(undecided.y) == 0
    assert (list(wins.y), list(wins.x)) == (["fog"], [1.0])
    assert (list(losses.y), list(losses.x)) == (["snow"], [-3.0])
    assert "dense minus this run" in figures["gains-0"].caption
    difference = figures["heat-0"].plot.data[2]
    assert [stop for _, stop in difference.colorscale] == ["var(--good)", "var(--surface)", "var(--bad)"]
    assert figures["heat-0"].plot.data[0].zmax == 6.0
    percent = drawn(replace(RUN, environment=MACHINE))
    assert percent["trade-off"].plot.layout.xaxis.autorange is True
    assert percent["heat-0"].plot.data[0].zmax == 100.0


def test_a_run_of_an_unknown_task_is_compared_by_what_its_folder_says(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "page"
    result = CliRunner().invoke(app, ["compare", str(folder), "--out", str(out)], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert "2.50 dots" in result.output
    html = (out / "report.html").read_text()
    assert "Scores are count error &lt;dots&gt; (lower is better) on 4 test images" in html
    assert "<dots>" not in html.split("<style>")[1].split("</style>")[1]
    assert "## Gain per corruption, dots" in (out / "summary.md").read_text()
    (folder / "result.json").write_text((folder / "result.json").read_text().replace("count error", "other error"))
    with pytest.raises(DataError, match="was altered"):
        read_run(folder)


def test_results_of_earlier_versions_tell_their_task_by_their_metrics() -> None:
    stages = {"dense": {"clean": {"cells": {"clean": {"map50": 0.5, "ap50:cat": 0.5}}}}}
    assert task_of({"stages": stages}, where="") == TaskRecord("detection", Metric("map50", "AP50"))
    stages["dense"]["clean"]["cells"]["clean"] = {"accuracy": 0.5, "loss": 1.0}
    assert task_of({"stages": stages}, where="") == TaskRecord("classification", Metric("accuracy", "accuracy"))
    assert task_of({"stages": {"dense": []}}, where="").name == "classification"


def test_results_of_earlier_versions_keep_what_else_was_timed() -> None:
    time = LatencyData(1, 2.0, 3.0)
    assert predictions_of(ProfileData(9, 9, 1.0, (time,), detection=(time,))) == {"images to boxes": (time,)}
    assert predictions_of(ProfileData(9, 9, 1.0, (time,), predictions={"images to dots": (time,)})) == {
        "images to dots": (time,)
    }
    assert predictions_of(ProfileData(9, 9, 1.0, (time,))) == {}


def test_runs_of_two_tasks_are_not_compared() -> None:
    with pytest.raises(DataError, match=r"run was scored by accuracy \(classification\), dots by count error"):
        compare_runs([RUN, DOTS])


def test_sweeps_read_the_metric() -> None:
    results: dict[str, Any] = {
        "name": "trial",
        "title": "",
        "metric": vars(COUNT_ERROR),
        "seeds": [0, 1],
        "primary": {"run": "a", "baseline": "b", "suite": "clean"},
        "runs": {
            "a": {
                "means": {"clean": {"value": 1.5, "low": 1.0, "high": 2.0}},
                "cells": {"0": {"parameters_kept": 0.5, "macs_kept": 0.5, "passes": 8}},
            }
        },
        "comparisons": [
            {"run": "a", "baseline": "b", "suite": "clean", "value": -0.5, "low": -0.7, "high": -0.3, "p": 0.01}
            | {"seeds": 2, "primary": True}
        ],
        "failed": [],
        "not_run": [],
    }
    assert means_table(results).rows[0][-1] == "1.50 (1.00 to 2.00)"
    assert f"{MINUS}0.500 ({MINUS}0.700 to {MINUS}0.300) dots, p = 0.010, 2 seeds: a is ahead." in primary_line(results)
    assert "# Means over seeds (dots)\n\nScores are count error <dots>; lower is better." in sweep_text(results)


class Dots(Panel):
    """A figure for each run, and pictures that are too large together."""

    key, heading, follows = "dots", "Dots <b>", "all"
    part = Path(__file__).with_name("panel_of_dots.html")

    def __init__(self, source: str, count: int) -> None:
        self.pictures = (source,) * count

    def content(self, found: Comparison) -> Content | None:
        return replace(blocks_by_run("Dots, counted", found, self.blocks), pictures=self.pictures)  # type: ignore[type-var]

    def blocks(self, found: Comparison, place: int) -> list[Block]:
        import plotly.graph_objects as go

        plot = styled(go.Figure([go.Bar(x=[1], y=[2])]), height=200)
        figure = Figure(f"dots-{place}", "Dots", "Two.", plot, Table(["a"], [["2"]]))
        return [Block("Dots <i>", "How many <b>", figure), Block(table=Table(["a", "why"], [["1", "so"]]))]


def test_a_panel_brings_its_part_style_and_figures_and_drops_pictures(tmp_path: Path) -> None:
    Image.effect_noise((200, 200), 80).save(tmp_path / "noise.png")
    source = image_source((tmp_path / "noise.png").read_bytes())
    count = 1_500_000 // len(source)
    html = page.page_html(compare_runs([DOTS]), {}, [Dots(source, count)])
    body = html.split("</style>")[1].split("<script")[0]
    assert len(html.encode()) < page.MAX_BYTES
    assert 0 < body.count('<img class="dot"') < count
    assert ".dot { width: 1em; }" in html
    assert '<a href="#part-dots">Dots &lt;b&gt;</a>' in body
    assert body.index('id="part-all"') < body.index('id="part-dots"') < body.index('id="part-corruptions"')
    assert '<h3>Dots &lt;i&gt;</h3>\n<p class="note">How many &lt;b&gt;</p>' in body
    assert 'data-figure="dots-0"' in body
    assert '"dots-0":' in html


def test_panels_of_a_registered_task_come_with_its_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASK_PANELS, "_entries", dict(TASK_PANELS._entries))
    TASK_PANELS.register("my.module:Dots", (Dots("data:,", 1),))
    write_page(compare_runs([read_run(folder)]), folder)
    assert "Dots, counted" in (folder / "report.html").read_text()
    with pytest.raises(ArgumentError, match="already; choose another name"):
        TASK_PANELS.register("my.module:Dots", ())


def test_panels_that_cannot_be_placed_are_refused() -> None:
    class Lost(Dots):
        follows = "nothing"

    with pytest.raises(ArgumentError, match=r"'dots' follows 'nothing', .* those are trade-off, all, corruptions"):
        arranged(COMMON, [Lost("", 0)])
    with pytest.raises(ArgumentError, match="two panels have the key 'dots'"):
        arranged(COMMON, [Dots("", 0), Dots("", 0)])


@pytest.mark.parametrize("task", ["classification", "detection"])
def test_panels_meet_their_contract(task: str) -> None:
    for panel in (*COMMON, *TASK_PANELS[task]):
        assert panel.key
        assert panel.part.is_file()
        content = panel.content(compare_runs([DOTS]))
        if content is not None:
            assert content.title
            assert len(content.by_run) in (0, 1)


def imported(path: Path) -> set[str]:
    """Packages of adasap that a file imports, except for types only."""
    tree = ast.parse(path.read_text())
    typing_only = [
        node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    ]
    skipped = {id(child) for node in typing_only for child in ast.walk(node)}
    names = [
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in skipped
    ]
    return {name.split(".")[1] for name in names if name.startswith("adasap.")}


def test_the_report_imports_nothing_that_stands_above_it() -> None:
    above = {"tasks", "training", "analysis", "extras", "pipeline", "export", "experiments", "integrations", "cli"}
    places: list[Path] = sorted(Path(page.__file__).parent.rglob("*.py"))
    assert len(places) > 20
    assert {str(path): found for path in places if (found := imported(path) & above)} == {}


def test_no_task_is_named_outside_its_folder() -> None:
    root = Path(page.__file__).parents[1]
    files = [*(root / "report").rglob("*.*"), *(root / "experiments" / "sweep").rglob("*.py")]
    texts = {
        str(path.relative_to(root)): path.read_text()
        for path in files
        if path.suffix in (".py", ".html", ".js", ".css")
    }
    assert {name for name, text in texts.items() if re.search('AP50|map50|"accuracy"', text)} == {
        "report/task_record.py"
    }


def test_the_page_says_what_is_not_exact() -> None:
    said = "not exact: LayerNorm over 40 of 48 channels"
    run = replace(DOTS, widths=(Width("stem", 48, 40, not_exact=said), Width("conv", 4, 2)))
    content = Layers().content(compare_runs([run]))
    assert content is not None
    tables = {block.title: block.table for block in content.by_run[0] if block.table is not None}
    assert tables["What is not exact"].rows == [["stem", said]]
    plain = Layers().content(compare_runs([replace(DOTS, widths=(Width("conv", 4, 2),))]))
    assert plain is not None
    assert "What is not exact" not in [block.title for block in plain.by_run[0]]
