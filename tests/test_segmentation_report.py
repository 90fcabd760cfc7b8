"""The page of a segmentation network: what a run keeps, and what the panels make of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from adasap.errors import DataError
from adasap.evaluation import SuiteResult, SuiteSource, open_own_suite
from adasap.metric import Metric
from adasap.report.comparison import compare_runs
from adasap.report.panel import arranged
from adasap.report.panels import COMMON
from adasap.report.run_data import RunData
from adasap.report.task_record import TaskRecord
from adasap.tasks.segmentation.data.segmentation_set import IGNORED
from adasap.tasks.segmentation.data.shapes import SHAPE_CLASSES, read_shape_masks
from adasap.tasks.segmentation.models.unet import unet
from adasap.tasks.segmentation.report.classes_panel import ClassesPanel
from adasap.tasks.segmentation.report.overlays import read_overlays, save_overlays
from adasap.tasks.segmentation.report.overlays_panel import OverlaysPanel, colour_of, hatched, painted
from adasap.tasks.segmentation.report.tables import cell_table, class_table, performance_table
from adasap.tasks.segmentation.task import SegmentationOptions, SegmentationTask
from suite_trees import by_cell
from test_report_data import a_run


def scored(name: str, cells: dict[str, tuple[float, float]]) -> SuiteResult:
    """Cells with the IoU of two classes, three images each."""
    metrics = {
        cell: {"miou": (first + second) / 2, "iou:sky": first, "iou:<road>": second, "pixel_accuracy": first}
        for cell, (first, second) in cells.items()
    }
    scores = {cell: torch.full((3,), found["miou"]) for cell, found in metrics.items()}
    return SuiteResult(name, by_cell(scores), by_cell(metrics))


DENSE = {
    "clean": scored("clean", {"clean": (0.8, 0.4)}),
    "corrupted": scored("corrupted", {"fog/1": (0.4, 0.2), "snow/1": (0.4, 0.0)}),
}
SMALL = {
    "clean": scored("clean", {"clean": (0.6, 0.6)}),
    "corrupted": scored("corrupted", {"fog/1": (0.6, 0.6), "snow/1": (0.3, 0.3)}),
}


def run(folder: Path = Path("a")) -> RunData:
    return a_run("a", DENSE, SMALL, folder=folder, task=TaskRecord("segmentation", Metric("miou", "mIoU")))


def test_tables_say_clean_corrupted_and_ratio() -> None:
    performance = performance_table({"dense": DENSE, "small": SMALL}, "clean", "corrupted").rows
    assert performance[0] == ["dense", "mIoU", "60.00", "25.00", "0.417"]
    assert performance[2] == ["small", "mIoU", "60.00", "45.00", "0.750"]
    classes = class_table(DENSE["clean"], SMALL["clean"]).rows
    assert classes == [["sky", "80.00", "60.00", "-20.0"], ["<road>", "40.00", "60.00", "+20.0"]]
    rows = cell_table(DENSE).rows
    assert rows[0] == ["clean", "60.00", "80.00", "-"]
    assert ["fog", "30.00", "40.00", "-"] in rows


def test_the_classes_panel_draws_both_models_clean_and_corrupted() -> None:
    content = ClassesPanel().content(compare_runs([run()]))
    assert content is not None
    (figure,) = content.figures()
    assert [view.label for view in figure.views] == ["clean", "corrupted"]
    assert [trace.name for trace in figure.plot.data] == ["compressed", "dense"] * 2
    assert list(figure.plot.data[1].x) == [80.0, 40.0]
    assert list(figure.plot.data[3].x) == pytest.approx([40.0, 10.0])
    assert figure.plot.data[0].y[1] == "&lt;road&gt;"
    arranged(COMMON, [ClassesPanel(), OverlaysPanel()])


def kept(folder: Path, multiple_of: int = 1) -> None:
    torch.manual_seed(0)
    models = {"dense": unet(4, width=4, depth=2), "compressed": unet(4, width=4, depth=2)}
    task = SegmentationTask(
        mean=(0.5,) * 3, std=(0.5,) * 3, classes=SHAPE_CLASSES, options=SegmentationOptions(multiple_of=multiple_of)
    )
    source = SuiteSource("corrupted", corruptions=("gaussian_noise",), severities=(2, 5))
    data = read_shape_masks("test", slice(4))
    suites = [open_own_suite(name, one, data, task) for name, one in (("clean", SuiteSource("clean")), ("c", source))]
    save_overlays(folder, models, task, suites, torch.device("cpu"))


def test_overlays_are_kept_and_shown_with_the_disagreement(tmp_path: Path) -> None:
    kept(tmp_path)
    record = read_overlays(tmp_path)
    assert record is not None
    assert [(one.suite, one.corruption, one.severity, one.index) for one in record.overlays] == [
        ("clean", "", 0, 0),
        ("clean", "", 0, 2),
        ("c", "gaussian_noise", 2, 0),
        ("c", "gaussian_noise", 2, 2),
    ]
    truth = np.asarray(Image.open(record.overlays[1].files["truth"]))
    assert truth.tolist() == read_shape_masks("test")[2][1].tolist()
    content = OverlaysPanel().content(compare_runs([run(tmp_path)]))
    assert content is not None
    assert [card["title"] for card in content.pictures] == ["clean"] * 2 + ["gaussian noise, severity 2"] * 2
    assert [panel["title"] for panel in content.pictures[0]["panels"]] == ["mask", "dense", "pruned"]
    assert "unlike dense" in content.pictures[0]["panels"][2]["summary"]


def test_padding_does_not_show(tmp_path: Path) -> None:
    kept(tmp_path, multiple_of=64)
    record = read_overlays(tmp_path)
    assert record is not None
    sizes = set()
    for path in (path for one in record.overlays for path in one.files.values()):
        with Image.open(path) as image:
            sizes.add(image.size)
    assert sizes == {(96, 96)}


def test_damaged_overlays_are_refused_by_name(tmp_path: Path) -> None:
    kept(tmp_path)
    listing = tmp_path / "segmentation" / "segmentation.json"
    whole = json.loads(listing.read_text())
    whole["overlays"][0]["files"]["dense"] = "../../secret.png"
    listing.write_text(json.dumps(whole))
    with pytest.raises(DataError, match="does not lie beside it"):
        read_overlays(tmp_path)
    del whole["overlays"][0]["files"]["dense"]
    listing.write_text(json.dumps(whole))
    with pytest.raises(DataError, match="run the same command again"):
        read_overlays(tmp_path)


def test_colours_differ_and_stripes_mark_what_differs() -> None:
    assert len({colour_of(label) for label in range(IGNORED)}) == IGNORED
    photo = np.full((12, 12, 3), 100, dtype=np.uint8)
    mask = np.zeros((12, 12), dtype=np.intp)
    mask[:, 6:] = IGNORED
    pixels = painted(photo, mask)
    assert (pixels[:, 6:] == 100).all()
    assert (pixels[:, :6] != 100).any()
    where = np.zeros((12, 12), dtype=bool)
    where[:, :6] = True
    marked = hatched(pixels, where)
    assert (marked[:, 6:] == pixels[:, 6:]).all()
    changed = (marked != pixels).any(axis=2)[:, :6].mean()
    assert 0.2 < changed < 0.5
