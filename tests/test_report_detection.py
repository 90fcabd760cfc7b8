"""A detector's run on the page: curves, bars, tables, and photos with the boxes of dense and pruned side by side."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from adasap.data import DataSource
from adasap.errors import DataError
from adasap.evaluation import CLEAN, Cell, SuiteResult, SuiteSource, evaluate_suite
from adasap.report.comparison import compare_runs, extra_metrics
from adasap.report.files import csv_text
from adasap.report.page import page_html
from adasap.report.run_data import RunData
from adasap.report.task_record import TaskRecord
from adasap.tasks.detection.matching import Detection
from adasap.tasks.detection.report.detections import SHOWN_SCORE, read_detections, save_detections
from adasap.tasks.detection.report.figures import corruption_bars, precision_curves
from adasap.tasks.detection.report.panels import PANELS
from adasap.tasks.detection.report.precision_panel import performance_of
from adasap.tasks.detection.report.scenes_panel import scene_cards
from adasap.tasks.detection.suites import DetectionSuite, open_detection_suite
from adasap.tasks.detection.task import DetectionTask
from test_report_data import RUN, a_run

CPU = torch.device("cpu")
SHOTS = Path(__file__).parents[1] / "tests-output"


class Informed(nn.Module):
    """Knows the test set; `skill` is the share of objects it finds, fewer where an image has lost its contrast."""

    def __init__(self, suite: DetectionSuite, skill: float) -> None:
        super().__init__()
        self.suite, self.skill = suite, skill
        self.weight = nn.Parameter(torch.ones(1))
        self.names = [self._look(suite.images[i][0].float() / 255) for i in range(len(suite.images))]

    def forward(self, images: list[Tensor]) -> list[Detection]:
        return [self._detect(image) for image in images]

    def _look(self, image: Tensor) -> Tensor:
        small = nn.functional.adaptive_avg_pool2d(image, 6).flatten()
        return (small - small.mean()) / small.std()

    def _detect(self, image: Tensor) -> Detection:
        place = int(torch.stack([(name - self._look(image)).square().sum() for name in self.names]).argmin())
        target = self.suite.images[place][1]
        kept = int(len(target["labels"]) * self.skill * min(1.0, 0.4 + 10 * float(image.std())) + 0.5)
        boxes = torch.cat([target["boxes"][:kept] + 1, torch.tensor([[2.0, 2, 30, 20]])])
        labels = torch.cat([target["labels"][:kept], torch.tensor([1])])
        return {"boxes": boxes, "labels": labels, "scores": torch.linspace(0.9, 0.4, kept + 1)}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    """A run of two made-up detectors on twelve drawn images, with everything that a run folder keeps of detections."""
    folder, data = tmp_path_factory.mktemp("run"), DataSource("shapes", count=12)
    sources = [
        SuiteSource("clean", data),
        SuiteSource("corrupted", data, corruptions=("contrast", "fog"), severities=(1, 3, 5)),
    ]
    suites = [open_detection_suite(source.kind, source) for source in sources]
    models = {"dense": Informed(suites[0], 1.0), "compressed": Informed(suites[0], 0.7)}
    task = DetectionTask(mean=(0.0,) * 3, std=(1.0,) * 3, classes=suites[0].images.classes)
    stages: dict[str, dict[str, SuiteResult]] = {}
    for stage, model in zip(("dense", "fine-tuned"), models.values(), strict=True):
        stages[stage] = {suite.name: evaluate_suite(model, task, suite, CPU) for suite in suites}
    save_detections(folder, models, task, suites, CPU)
    made = a_run(
        "shapes", stages["dense"], stages["fine-tuned"], folder=folder, task=TaskRecord(task.name, task.primary_metric)
    )
    return replace(made, counters=COUNTERS, environment=MACHINE)


COUNTERS = {"step": 1, "passes": 1, "skipped": 0, "training_seconds": 1.0}
MACHINE = {"gpu": None, "cpu_count": 2, "torch_threads": 1, "system": "Linux", "python": "3.11", "packages": {}}


def test_curves_end_at_the_recall_that_is_reached_and_average_to_the_metric(run: RunData) -> None:
    record = read_detections(run.folder)
    assert record is not None
    for model in ("dense", "compressed"):
        metrics = run.scores(model)["clean"].metrics[CLEAN]  # type: ignore[arg-type]
        for name, curve in record.curves[model].items():
            assert curve == sorted(curve, reverse=True)
            assert sum(curve) / len(curve) == pytest.approx(metrics[f"ap50:{name}"], abs=0.02)
    figure = precision_curves(run, record, "precision-0")
    assert [view.label for view in figure.views] == ["mean of classes", "disc", "square", "triangle"]
    assert all(sum(view.visible) == 2 for view in figure.views)
    mean = [sum(values) / 3 for values in zip(*record.curves["dense"].values(), strict=True)]
    assert list(figure.plot.data[0].y) == pytest.approx([100 * value for value in mean])
    before, after = (run.scores(m)["clean"].metrics[CLEAN]["map50"] for m in ("dense", "compressed"))  # type: ignore[arg-type]
    assert figure.table.rows[0][1:] == [f"{100 * before:.1f}", f"{100 * after:.1f}", f"{100 * (after - before):+.1f}"]
    assert after < before


def test_scenes_hold_the_truth_and_what_each_model_found(run: RunData) -> None:
    record = read_detections(run.folder)
    assert record is not None
    suite = open_detection_suite("clean", SuiteSource("clean", DataSource("shapes", count=12)))
    assert [(s.suite, s.corruption, s.severity) for s in record.scenes[::2]] == [
        ("clean", "", 0),
        ("corrupted", "contrast", 3),
        ("corrupted", "fog", 3),
    ]
    first, other = record.scenes[:2]
    kinds = [{entry["label"] for entry in scene.truth} for scene in (first, other)]
    assert kinds[0]
    assert kinds[1]
    assert not kinds[0] & kinds[1]
    for scene in record.scenes:
        target = suite.images[scene.index][1]
        assert [entry["box"] for entry in scene.truth] == target["boxes"].tolist()
        for found in scene.found.values():
            assert all(entry["score"] >= SHOWN_SCORE for entry in found)
    right = [entry for entry in first.found["dense"] if entry["outcome"] == 1]
    assert [entry["label"] for entry in right] == [entry["label"] for entry in first.truth if not entry["difficult"]]
    (run.folder / "detections" / "detections.json").write_text(
        (text := (run.folder / "detections" / "detections.json").read_text())[:-9]
    )
    with pytest.raises(DataError, match="is damaged"):
        read_detections(run.folder)
    (run.folder / "detections" / "detections.json").write_text(text)


def test_bars_and_tables_are_those_of_the_scores(run: RunData) -> None:
    figure = corruption_bars(run, "corrupted", "bars")
    dense = run.scores("dense")["corrupted"]
    assert [row[0] for row in figure.table.rows] == ["clean", "contrast", "fog"]
    mean = sum(dense.metrics[Cell("fog", severity)]["map50"] for severity in (1, 3, 5)) / 3
    bars = {trace.name: trace.x for trace in figure.plot.data}
    assert bars["dense"][2] == pytest.approx(100 * mean)
    table = performance_of(run)
    assert table is not None
    assert [row[0] for row in table.rows] == [
        f"{model}, {name}" for model in ("dense", "compressed") for name in ("AP50", "AP50, 11 points")
    ]
    assert {metric for _, metric, _, _ in extra_metrics(run)} == {"map50_11point"}


def test_the_page_shows_boxes_and_says_what_its_scores_are(run: RunData) -> None:
    found = compare_runs([run])
    html = page_html(found, {"report.csv": csv_text(found)}, PANELS)
    cards = scene_cards([run])
    assert html.count("<svg viewBox") == 2 * len(cards) == 12
    boxes = sum(len(panel["boxes"]) for card in cards for panel in card["panels"])
    assert (
        html.count('<rect class="right"') + html.count('<rect class="wrong"') + html.count('<rect class="ignored"')
        == boxes
    )
    for text in (
        "Scores are AP50",
        "average precision at IoU 0.5",
        "Performance under corruption",
        "Precision and recall",
        "clean AP50",
    ):
        assert text in html
    assert "accuracy" not in html.split("<script>")[0].split("</style>")[1]


def test_pages_of_classifiers_and_of_detectors_without_corruptions_leave_panels_out(run: RunData) -> None:
    classifier = page_html(compare_runs([replace(RUN, counters=COUNTERS, environment=MACHINE)]), {}, PANELS)
    assert "part-detection" not in classifier
    assert "corrupted accuracy (%)" in classifier
    stages = {stage: {"clean": suites["clean"]} for stage, suites in run.stages.items()}
    bare = page_html(compare_runs([replace(run, stages=stages)]), {}, PANELS)
    assert "Precision and recall" in bare
    assert "AP50 by corruption" not in bare


@pytest.mark.browser
def test_the_page_is_drawn(run: RunData, chromium: str, tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    found, troubles = compare_runs([run]), []
    (tmp_path / "report.html").write_text(page_html(found, {"report.json": json.dumps({})}, PANELS))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("console", lambda message: troubles.append(message.text))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.goto((tmp_path / "report.html").as_uri(), timeout=180_000)
        page.wait_for_selector("html[data-drawn]", state="attached", timeout=180_000)
        for figure in ("precision-0", "corruptions-0"):
            marks = page.locator(f"[data-figure='{figure}'] :is(.js-line, .points path)").count()
            assert marks >= 2, figure
        page.locator("#precision-0 [data-view]").nth(1).click()
        assert page.locator("[data-figure='precision-0'] .scatterlayer .js-line").count() == 2
        svg = page.locator(".scene svg").first
        assert "url(" in svg.evaluate("e => getComputedStyle(e).backgroundImage")
        assert svg.locator("rect.right").first.evaluate("e => getComputedStyle(e).stroke") == "rgb(0, 114, 178)"
        assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        SHOTS.mkdir(exist_ok=True)
        page.screenshot(path=SHOTS / "page-detection.png", full_page=True)
        browser.close()
    assert troubles == []
