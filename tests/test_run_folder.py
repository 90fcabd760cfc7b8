"""Run folders that somebody altered, cut short or made up: a sentence that names the file, never a number."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from adasap.analysis.file import AnalysisFile, read_analysis
from adasap.analysis.report.panel import SharpnessPanel
from adasap.errors import AdasapError, DataError
from adasap.experiments.compress import run_recipe
from adasap.experiments.recipe import parse_recipe
from adasap.experiments.terminal import open_console
from adasap.report.comparison import compare_runs
from adasap.report.page import page_html
from adasap.report.pictures import open_picture
from adasap.report.run_data import digests, read_run
from adasap.sealed import sealed_json
from adasap.tasks.classification.report.examples import read_examples
from adasap.tasks.classification.report.panels import PANELS
from adasap.tasks.detection.report.detections import read_detections

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tiny_recipe: Callable[..., Tree], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "tiny"
    run_recipe(parse_recipe(tiny_recipe()), folder, open_console(quiet=True))
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def reseal(folder: Path, change: Callable[[Tree], object] = lambda _: None) -> None:
    """Alters a result and gives it digests that fit, as somebody who made it up would."""
    result = json.loads((folder / "result.json").read_text())
    del result["sha256"]
    result["files"] = digests(folder)
    change(result)
    (folder / "result.json").write_text(sealed_json(result))


@pytest.mark.slow
def test_a_whole_run_is_read(folder: Path) -> None:
    run = read_run(folder)
    assert run.stages["dense"].keys() == {"clean", "corrupted"}
    assert len(read_examples(folder)) == 4
    assert len(run.of_kind("step")) > 0
    reseal(folder)
    assert page_html(compare_runs([read_run(folder)]), {}, PANELS) == page_html(compare_runs([run]), {}, PANELS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["records.jsonl", "recipe.yaml", "examples/examples.json", "examples/001.png"])
def test_what_is_missing_or_altered_is_named(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=f"{name} is not what result.json says"):
        read_run(folder)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"lacks {name} of its run"):
        read_run(folder)


def test_a_digit_of_a_result_is_not_altered_without_a_word(folder: Path) -> None:
    path = folder / "result.json"
    text = path.read_text()
    for old, new in (
        ('"passes": ', '"passes": 1'),
        ('"name": "tiny"', '"name": "Tiny"'),
        ('"seconds": ', '"seconds":  2'),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(DataError, match=r"result.json was altered"):
            read_run(folder)
    for rest in ("", "{}", "[]", "null", text[: len(text) // 2], text.rstrip()[:-1]):
        path.write_text(rest)
        with pytest.raises(AdasapError, match=r"result.json"):
            read_run(folder)
    path.unlink()
    with pytest.raises(DataError, match=r"holds no finished run .has not ended"):
        read_run(folder)


def _deep(tree: Tree, place: str, value: object) -> None:
    *above, last = place.split("/")
    for key in above:
        tree = tree[key]
    tree[last] = value


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("stages/fine-tuned", {}, "'fine-tuned' or its suite 'clean' is missing"),
        ("stages/dense/clean/scores", {"clean": "01x"}, "stages.dense.clean.scores"),
        ("stages/dense/clean/scores", {"clean": "0101"}, "differ in suites, cells or images"),
        ("stages/dense/clean/scores", {}, "at least 1"),
        ("profiles", {}, "profile of the dense or the compressed model is missing"),
        ("profiles/dense/parameters", 10**300, "profiles.dense.parameters"),
        ("profiles/dense/latency", [], "profiles.dense.latency"),
        ("counters", {"step": 1}, "counters.passes is missing"),
        ("environment", {}, "environment.python is missing"),
        ("groups", {"a": [1, 2]}, "groups"),
        ("recipe/pruning", 3, "recipe.pruning"),
        ("task", {"name": "dots", "metric": {"key": "mae"}}, "task: metric.label is missing"),
        ("task", "dots", "task: its content is 'dots'"),
        ("recipe/warm_up/epochs", "many", "recipe.warm_up.epochs"),
        ("files", {"../../etc/passwd": "0"}, "lies outside the folders of a run"),
        ("files", {"examples/../../x": "0"}, "lies outside the folders of a run"),
        ("files", {}, "is not what result.json says"),
        ("files/gone.txt", "0", r"lacks gone.txt"),
    ],
)
def test_a_made_up_result_is_refused_by_its_place(place: str, value: object, message: str, folder: Path) -> None:
    reseal(folder, lambda result: _deep(result, place, value))
    with pytest.raises(DataError, match=message):
        read_run(folder)


@pytest.mark.parametrize("image", ["../result.json", "/etc/hostname", "sub/a.png", "", "..", "gone.png", "link.png"])
def test_only_pictures_of_the_folder_come_onto_the_page(image: str, folder: Path) -> None:
    (folder / "examples" / "link.png").symlink_to(folder / "examples" / "000.png")
    entries = json.loads((folder / "examples" / "examples.json").read_text())
    entries[1]["image"] = image
    (folder / "examples" / "examples.json").write_text(json.dumps(entries))
    (folder / "examples" / "link.png").unlink()
    reseal(folder)
    (folder / "examples" / "link.png").symlink_to(folder / "examples" / "000.png")
    with pytest.raises(DataError, match=r"examples.json: the image .* (does not lie beside it|is missing)"):
        read_examples(folder)


@pytest.mark.slow
def test_pictures_that_are_none_or_too_large(folder: Path) -> None:
    path = folder / "examples" / "000.png"
    for content in (b"", b"\x89PNG\r\n\x1a\n", path.read_bytes()[:90]):
        path.write_bytes(content)
        reseal(folder)
        with pytest.raises(DataError, match=r"000.png is not a PNG that can be shown"):
            page_html(compare_runs([read_run(folder)]), {}, PANELS)
    Image.new("1", (9000, 9000)).save(path)
    with pytest.raises(DataError, match="9,000 x 9,000 pixels, too many"):
        open_picture(path.read_bytes())
    Image.new("RGB", (8, 8)).save(path, "GIF")
    with pytest.raises(DataError, match="not a PNG"):
        open_picture(path.read_bytes())


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"kind": "step"}', '{"kind": "prune", "step": 1}', '{"kind": 3}', "1e999"]
)
def test_records_are_checked_line_by_line(line: str, folder: Path) -> None:
    with (folder / "records.jsonl").open("a") as file:
        file.write(line + "\n")
    reseal(folder)
    with pytest.raises(DataError, match=r"records.jsonl, line \d+"):
        read_run(folder)


def test_detections_are_checked(tmp_path: Path) -> None:
    (tmp_path / "detections").mkdir()
    curve = {model: {"cat": [0.5] * 101} for model in ("dense", "compressed")}
    for content in (
        {"curves": {"dense": curve["dense"]}, "scenes": []},
        {"curves": {model: {"cat": [0.5]} for model in curve}, "scenes": []},
        {"curves": {model: {} for model in curve}, "scenes": []},
        {"curves": curve, "scenes": [{"image": "../x.png"}]},
        {"curves": curve},
        [],
    ):
        (tmp_path / "detections" / "detections.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"detections.json is damaged"):
            read_detections(tmp_path)
    (tmp_path / "detections" / "detections.json").write_text(json.dumps({"curves": curve, "scenes": []}))
    found = read_detections(tmp_path)
    assert found is not None
    assert found.curves == curve


def test_an_analysis_is_sealed_and_its_figures_do_without_nothing(folder: Path) -> None:
    path = folder / "analysis.json"
    file = AnalysisFile(path, {"data": "a"})
    mean = {"mean": float("inf"), "low": None, "high": None, "batches": [1.0]}
    file.keep("net", "loss", "loss", {**mean, "parameters": 3, "options": {}, "seconds": 0.1})
    assert read_analysis(path)["models"]["net"]["loss"]["loss"]["mean"] is None
    text = path.read_text()
    path.write_text(text.replace('"data": "a"', '"data": "b"'))
    with pytest.raises(DataError, match=r"holds no analysis: .*was altered"):
        read_analysis(path)
    path.write_text(sealed_json({"format": "adasap-analysis-1", "models": {"net": {"loss": 3}}, "identity": {}}))
    with pytest.raises(DataError, match="holds no analysis"):
        read_analysis(path)
    models = {"net": {"worst_case": {"l2": {}}}}
    path.write_text(sealed_json({"format": "adasap-analysis-1", "models": models, "identity": {}}))
    with pytest.raises(DataError, match=r"analysis.json: models.net.worst_case.l2.options is missing"):
        page_html(compare_runs([read_run(folder)]), {}, [SharpnessPanel()])
