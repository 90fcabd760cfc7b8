"""Test images with the boxes of dense and pruned side by side, clean and corrupted."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from adasap.report.comparison import Comparison
from adasap.report.panel import Content, Panel
from adasap.report.pictures import data_uri, open_picture, read_picture
from adasap.report.run_data import RunData
from adasap.tasks.detection.report.detections import SHOWN_SCORE, Scene, read_detections

SIDE = 260
"""Photos are shown no larger than this, in pixels; smaller ones as they are."""


class ScenesPanel(Panel):
    """Photos with boxes, run by run."""

    key, heading = "examples", "Examples"
    part = Path(__file__).with_suffix(".html")

    def content(self, found: Comparison) -> Content | None:
        cards = scene_cards(found.runs)
        values = {"shown_score": SHOWN_SCORE}
        return Content("As the models saw it", pictures=tuple(cards), values=values) if cards else None


def scene_cards(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """A card for each scene of each run."""
    records = [read_detections(run.folder) for run in runs]
    return [scene_card(scene, at) for at, record in enumerate(records) if record for scene in record.scenes]


def scene_card(scene: Scene, run: int) -> dict[str, Any]:
    """One card: the photo once, and for each model the boxes over it.

    Args:
        run: Place of the run on the page.
    """
    name = scene.corruption.replace("_", " ") or scene.suite
    models = {"dense": "dense", "compressed": "pruned"}
    return {
        "run": run,
        "title": f"{name}, severity {scene.severity}" if scene.severity else name,
        "index": scene.index,
        "width": scene.width,
        "height": scene.height,
        "line": max(scene.width, scene.height) / 110,
        "photo": _photo(scene),
        "truth": [_placed(entry) for entry in scene.truth],
        "panels": [_panel(title, scene, scene.found[model]) for model, title in models.items()],
    }


def _panel(title: str, scene: Scene, found: list[dict[str, Any]]) -> dict[str, Any]:
    wanted = sum(not entry["difficult"] for entry in scene.truth)
    right = sum(entry["outcome"] == 1 for entry in found)
    wrong = sum(entry["outcome"] == 0 for entry in found)
    kinds = {1: "right", 0: "wrong", -1: "ignored"}
    return {
        "title": title,
        "boxes": [{**_placed(entry), "kind": kinds[entry["outcome"]], "score": entry["score"]} for entry in found],
        "summary": f"{right} of {wanted} found, {wrong} false",
    }


def _placed(entry: dict[str, Any]) -> dict[str, Any]:
    left, top, right, bottom = entry["box"]
    place = {"x": left, "y": top, "width": max(right - left, 0.0), "height": max(bottom - top, 0.0)}
    return {**place, "label": entry["label"], "difficult": entry.get("difficult", False)}


def _photo(scene: Scene) -> str:
    image = open_picture(read_picture(scene.image), where=str(scene.image)).convert("RGB")
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE))
    text = io.BytesIO()
    image.save(text, "JPEG", quality=80)
    return data_uri("image/jpeg", text.getvalue())
