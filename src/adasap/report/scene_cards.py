"""Images with the boxes of dense and pruned side by side, as the page shows them."""

from __future__ import annotations

import base64
import io
from typing import Any

from PIL import Image

from adasap.report.detections import Scene

SIDE = 260
"""Photos are shown no larger than this, in pixels; smaller ones as they are."""


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
    image = Image.open(scene.image).convert("RGB")
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE))
    text = io.BytesIO()
    image.save(text, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(text.getvalue()).decode()}"
