"""Several models on the same images: the numbers of each alone, paired differences, one table, one page, goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import adasap
from adasap.cli import app
from adasap.errors import DataError, ModelError
from adasap.evaluation import Cell, SuiteResult, paired_difference
from adasap.experiments.evaluate_several import listed_models
from adasap.metric import Metric
from adasap.models import ModelSpec, open_model
from adasap.report.side_by_side import ScoredModel, scores_table, side_by_side
from adasap.report.side_by_side_page import side_by_side_html

ACCURACY = Metric("accuracy", "accuracy")
ASKED: dict[str, Any] = {"corruptions": ["contrast"], "severities": [1, 5], "limit": 40}
SUITES = ["clean", "corrupted"]


class Linear(nn.Sequential):
    """A classifier of digits with drawn weights."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))


def test_each_of_several_models_has_the_numbers_that_it_has_alone(tmp_path: Path) -> None:
    nets = {"a": Linear(0), "b": Linear(1), "c": Linear(0)}
    found = adasap.evaluate(nets, "digits:", SUITES, out=tmp_path / "out", **ASKED)
    alone = adasap.evaluate(nets["b"], "digits:", SUITES, **ASKED)
    assert list(found.models) == ["a", "b", "c"]
    assert found["clean"] is found.models["a"]["clean"]
    for suite in SUITES:
        mine, other = found.models["b"][suite], alone[suite]
        assert mine.metrics == other.metrics
        assert all(torch.equal(mine.cells[cell], other.cells[cell]) for cell in other.cells)
    assert found.comparison is not None
    gap = next(change.difference for change in found.comparison.changes["b"] if change.quantity == "clean")
    first, second = (found.models[name]["clean"].per_image() for name in ("a", "b"))
    assert gap == paired_difference(second, first, resamples=2000)
    same = found.comparison.changes["c"][0].difference
    assert same is not None
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert [row[0] for row in found.table.rows] == ["a", "b", "c"]
    assert found.table.rows[0][2] == ""  # the first is measured from nothing
    assert found.table.rows[2][2] == "+0.0 (+0.0 to +0.0)"
    assert str(found).count("clean (%)") == 1


@pytest.mark.slow
def test_several_models_go_on_where_they_were_and_have_one_page(tmp_path: Path) -> None:
    nets, out = {"a": Linear(0), "b": Linear(1)}, tmp_path / "out"
    whole = adasap.evaluate(nets, "digits:", SUITES, out=out, **ASKED)
    kept = out / "b" / "cells" / "corrupted" / "contrast-5.safetensors"
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*-*.safetensors")}
    kept.unlink()
    again = adasap.evaluate(nets, "digits:", SUITES, out=out, **ASKED)
    assert str(again.table) == str(whole.table)
    changed = [path for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert changed == [kept]
    assert json.loads((out / "b" / "evaluation.json").read_text())["suites"]["clean"]["num_images"] == 40
    data = json.loads((out / "report.json").read_text())
    assert data["models"]["b"]["scores"]["clean"]["value"] == pytest.approx(whole.models["b"]["clean"].mean)
    page = (out / "report.html").read_text()
    assert "a and b" in page
    assert page.count('data-figure="gains-0"') == page.count('data-figure="heat-0"') == 1
    assert "| contrast |" in (out / "summary.md").read_text()
    assert (out / "report.csv").read_text().startswith("run,quantity")
    with pytest.raises(DataError, match=r"b holds an evaluation with another model; give another --out"):
        adasap.evaluate({"a": Linear(0), "b": Linear(2)}, "digits:", SUITES, out=out, **ASKED)


def test_the_command_line_takes_several_models(tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(open_model(ModelSpec("adasap:digits_net")).state_dict(), tmp_path / "w.safetensors")
    words = ["evaluate", "one=adasap:digits_net", "adasap:digits_net", "--weights", str(tmp_path / "w.safetensors")]
    words += ["--data", "digits:", "--limit", "30", "--mean", ".5", ".5", ".5", "--std", ".5", ".5", ".5"]
    words += ["--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert result.output.count("+0.0 (+0.0 to +0.0)") == 1
    assert f"The page: {tmp_path / 'out' / 'report.html'}" in result.output
    assert result.output.count("clean: a sample of 30 of 445 images") == 1  # said of both, once
    assert (tmp_path / "out" / "digits_net" / "evaluation.md").is_file()
    told = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False).stdout.splitlines()
    found = [json.loads(line) for line in told]
    assert [one["model"] for one in found if one["kind"] == "suite"] == ["one", "digits_net"]


def test_names() -> None:
    same = listed_models(["x/model.safetensors", "b=y/model.safetensors", "runs/c.onnx"])
    assert list(same) == ["x", "b", "c.onnx"]
    assert list(listed_models(["u/x/model.safetensors", "v/x/model.safetensors"])) == [
        "u/x/model.safetensors",
        "v/x/model.safetensors",
    ]
    net = Linear(0)
    assert listed_models(net) == {"": net}
    with pytest.raises(ModelError, match="two models are called Linear; write NAME=MODEL"):
        listed_models([net, Linear(1)])
    with pytest.raises(ModelError, match="no model is given"):
        listed_models([])


def scored(name: str, clean: list[float], fog: list[float], **record: Any) -> ScoredModel:
    cells = {"clean": {Cell(): torch.tensor(clean)}, "corrupted": {Cell("fog", 1): torch.tensor(fog)}}
    suites = {suite: SuiteResult(suite, found) for suite, found in cells.items()}
    return ScoredModel(name, suites, dict.fromkeys(suites, record))


FIRST = scored("first", [1.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], kind="digits")


def test_models_on_other_images_have_no_difference() -> None:
    few = scored("few", [1.0, 1.0, 0.0], [1.0, 0.0, 0.0], kind="digits")
    found = side_by_side([FIRST, few], ACCURACY)
    assert found.remarks == (
        "few is not comparable with first on clean, corrupted: other test images (3 instead of 4)",
    )
    assert [row[2] for row in scores_table(found).rows] == ["", "not comparable"]
    assert found.gains["few"] == []
    page = side_by_side_html(found, {}, {})
    assert found.remarks[0] in page
    assert 'data-figure="gains-0"' not in page
    assert "points" not in page.split("</ul>")[0].split('<ul class="tiles">')[1]


def test_models_whose_answers_compete_otherwise_are_not_comparable() -> None:
    other = scored("other", [1.0] * 4, [1.0] * 4, kind="digits", outputs="2 of 10 compete for 2 labels")
    reasons = side_by_side([FIRST, other], ACCURACY).apart["other"]
    assert set(reasons.values()) == {"other classes (2 of 10 compete for 2 labels instead of all outputs)"}


def test_a_difference_that_does_not_show_is_grey_on_the_page() -> None:
    near = scored("near", [1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0], kind="digits")
    page = side_by_side_html(side_by_side([FIRST, near], ACCURACY), {}, {})
    tiles = page.split('<ul class="tiles">')[1].split("</ul>")[0]
    assert "tile clean undecided" in tiles
    assert "tile corrupted gained" in tiles
