"""`adasap analyze` on runs, files and named models, and the page it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from adasap.analysis import fold_batch_norms
from adasap.cli import app
from adasap.data import DataSource, InMemoryImages, open_dataset
from adasap.errors import AdasapError, DataError, ModelError
from adasap.experiments.open_models import open_candidates
from adasap.tasks.classification.task import ClassificationTask
from adasap.training.options import TrainingOptions
from test_report_page import FLAGS

Tree = dict[str, Any]
QUICK = ["worst_case.l2=[0.05]", "worst_case.adaptive_l2=[0.5]", "worst_case.linf=[]", "worst_case.adaptive_linf=[]"]
QUICK += ["worst_case.steps=2", "average_case.draws=2", "hessian.max_products=5", "hessian.trace_draws=2"]
QUICK += ["hessian.density_steps=3", "hessian.block_products=1", "hessian.batches=1", "channels.batches=1"]
QUICK += ["landscape.points=3", "landscape.plane=3", "landscape.batches=1", "hessian.density_probes=1"]
SETTINGS = [text for setting in QUICK for text in ("--set", setting)]


def call(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"}, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def run_folder(tiny_recipe: Callable[..., Tree], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analyze")
    (out / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe(training={"keep_stages": True})))
    call("compress", str(out / "recipe.yaml"), "--out", str(out))
    return out / "tiny"


@pytest.fixture(scope="module")
def analysed(run_folder: Path) -> str:
    return call("analyze", str(run_folder), "--images", "32", "--batch", "16", *SETTINGS)


def test_keeping_stages_makes_no_other_run_of_it() -> None:
    assert repr(TrainingOptions(keep_stages=True)) == repr(TrainingOptions())  # by which a checkpoint is known again


@pytest.mark.slow
def test_the_stages_of_a_run(analysed: str, run_folder: Path) -> None:
    content = json.loads((run_folder / "analysis.json").read_text())
    assert list(content["models"]) == ["before warm-up", "after warm-up", "after pruning", "fine-tuned"]
    for text in ("memory at most about", "batch norms: running statistics, frozen", "limit of 5 products", "P(going"):
        assert text in analysed
    sizes = {name: model["loss"]["loss"]["parameters"] for name, model in content["models"].items()}
    assert sizes["before warm-up"] == sizes["after warm-up"] > sizes["after pruning"] == sizes["fine-tuned"]
    goes = [
        [
            (row["group"], row["channel"])
            for row in content["models"][name]["channels"]["channels"]["rows"]
            if row["goes"]
        ]
        for name in ("before warm-up", "after warm-up")
    ]
    result = json.loads((run_folder / "result.json").read_text())
    removed = sum(group["before"] - group["after"] for group in result["groups"])
    assert goes[0] == goes[1]  # by the run's own plan
    assert len(goes[0]) == removed > 0


@pytest.mark.slow
def test_the_stages_are_the_runs_own_models(run_folder: Path) -> None:
    result = json.loads((run_folder / "result.json").read_text())
    task = ClassificationTask(mean=(0.5,) * 3, std=(0.5,) * 3)
    data = open_dataset(DataSource("digits", count=100), "test")
    assert isinstance(data, InMemoryImages)
    batch = task.prepare((data.images, data.labels), torch.device("cpu"))
    stages = {"before warm-up": "dense", "after warm-up": "warmed up", "after pruning": "recalibrated"}
    stages |= {"fine-tuned": "fine-tuned"}
    for candidate in open_candidates([str(run_folder)], False):
        with torch.no_grad():
            right = (candidate.model(batch[0]).argmax(1) == batch[1]).float().mean().item()
        assert right == pytest.approx(result["scores"][stages[candidate.name]]["clean"], abs=1e-6)


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_was(analysed: str, run_folder: Path) -> None:
    before = json.loads((run_folder / "analysis.json").read_text())["models"]
    call("analyze", str(run_folder), "--images", "32", "--batch", "16", *SETTINGS)
    assert json.loads((run_folder / "analysis.json").read_text())["models"] == before  # the seconds, too
    with pytest.raises(DataError, match="another data"):
        call("analyze", str(run_folder), "--images", "48", "--batch", "16", *SETTINGS)


@pytest.mark.slow
def test_files_and_names_with_folded_norms(run_folder: Path, tmp_path: Path) -> None:
    model = str(run_folder / "model.safetensors")
    arguments = ["--data", "digits:", "--images", "16", "--batch", "16", "--batch-norm", "folded", *SETTINGS]
    text = call(
        "analyze", model, "new=adasap:digits_net", "--model-option", "widths=[4, 8, 16]", *("--mean", *["0.5"] * 3),
        *("--std", *["0.5"] * 3), "--only", "loss", "--only", "trace", "--out", str(tmp_path), *arguments,
    )  # fmt: skip
    assert "folded into the layer before" in text
    content = json.loads((tmp_path / "analysis.json").read_text())
    assert list(content["models"]) == ["tiny", "new"]
    assert set(content["models"]["tiny"]) == {"loss", "trace"}
    [opened] = open_candidates([model], False, size=None)
    folded, norms = fold_batch_norms(opened.model, torch.zeros(1, 3, 32, 32))
    assert sum(p.numel() for p in folded.parameters()) == content["models"]["tiny"]["loss"]["loss"]["parameters"]
    assert content["folded"] >= len(norms) > 0


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["adasap:digits_net"], DataError, "--data is missing"),
        (["adasap:digits_net", "--data", "digits:", "--images", "9"], DataError, "lower --batch"),
        (["adasap:digits_net", "--data", "digits:", "--images", "99999"], DataError, "lower --images"),
        (["a=adasap:digits_net", "a=adasap:digits_net", "--data", "digits:"], ModelError, "NAME=MODEL"),
        (["b=adasap:digits_net", "torchvision:resnet18", "--data", "digits:"], ModelError, "different size"),
        (["src", "--data", "digits:"], ModelError, "holds no finished run"),
        (["adasap:digits_net", "--data", "digits:", "--set", "worst_case.step=1"], AdasapError, "did you mean 'steps'"),
    ],
)
def test_mistakes_are_named_before_work_starts(arguments: list[str], error: type, message: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        call("analyze", *arguments, "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("name", ["analysis.html", "report.html"])
def test_every_figure_is_drawn_in_every_view(analysed: str, run_folder: Path, chromium: str, name: str) -> None:
    troubles: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page()
        page.set_default_timeout(180_000)
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("request", lambda request: troubles.append(request.url) if request.url.startswith("http") else None)
        page.goto((run_folder / name).as_uri())
        page.wait_for_selector("html[data-drawn]", state="attached")
        suffix = "" if name == "analysis.html" else "-0"
        for key in ("sharpness", "removal", "importance", "spectrum", "blocks", "line", "plane"):
            figure = page.locator(f"figure[id='{key}{suffix}']")
            for button in figure.locator("[data-view]").all() or [None]:
                if button is not None:
                    button.click()
                marks = figure.locator(".points path, .js-line, path.box, .contourlayer path").count()
                assert marks >= 1, (key, button and button.text_content())
        browser.close()
    assert troubles == []
