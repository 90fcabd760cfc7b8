"""A detector and a segmenter of drawn shapes are analysed as a classifier is."""

from __future__ import annotations

from pathlib import Path

import pytest

import adasap
from adasap.data import DataSource
from adasap.models import ModelSpec

DETECTOR = {"builder": "adasap:ssd_mobilenet_v1", "options": {"num_classes": 4, "image_size": 64, "width": 0.25}}
SEGMENTER = {"builder": "adasap:unet", "options": {"num_classes": 4, "width": 8, "depth": 2}}
TASKS = {"detection": (DETECTOR, "shapes", 64), "segmentation": (SEGMENTER, "shape-masks", 96)}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_it_is_analysed(task: str, tmp_path: Path) -> None:
    (model, kind, side) = TASKS[task]
    spec = ModelSpec(**model, mean=(0.5,) * 3, std=(0.5,) * 3, input_size=(3, side, side))  # type: ignore[arg-type]
    found = adasap.analyze(
        {"net": spec}, DataSource(kind, count=4), images=4, batch=2, only=["loss"], device="cpu", out=tmp_path
    )
    assert found.models["net"]["loss"]["loss"]["mean"] > 0
    assert (tmp_path / "analysis.html").is_file()
