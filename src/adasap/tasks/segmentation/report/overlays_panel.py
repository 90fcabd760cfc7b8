"""Test images with mask, dense answer and pruned answer laid over them; where the two disagree is hatched."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from adasap.errors import DataError
from adasap.report.comparison import Comparison
from adasap.report.panel import Content, Panel
from adasap.report.pictures import data_uri, open_picture, read_picture
from adasap.report.run_data import RunData
from adasap.tasks.segmentation.data.segmentation_set import IGNORED
from adasap.tasks.segmentation.report.overlays import Overlay, OverlayRecord, read_overlays

SIDE = 320
"""Photos are shown no larger than this, in pixels."""
STRENGTH = 0.55
"""How much of a pixel is its class's colour."""
_HATCH = 6
"""Pixels from one stripe to the next."""

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.intp]
Where = npt.NDArray[np.bool_]


class OverlaysPanel(Panel):
    """Photos, run by run."""

    key, heading = "examples", "Examples"
    part = Path(__file__).with_suffix(".html")

    def content(self, found: Comparison) -> Content | None:
        cards = overlay_cards(found.runs)
        return Content("As the models saw it", pictures=tuple(cards)) if cards else None


def overlay_cards(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """A card for each overlay of each run."""
    records = [(place, read_overlays(run.folder)) for place, run in enumerate(runs)]
    return [overlay_card(one, record, place) for place, record in records if record for one in record.overlays]


def overlay_card(overlay: Overlay, record: OverlayRecord, run: int) -> dict[str, Any]:
    """One card: mask, dense and pruned over the photo, and the colours of the classes that occur.

    Raises:
        DataError: If a picture is damaged or of another size than the others.
    """
    opened = {kind: open_picture(read_picture(path), where=str(path)) for kind, path in overlay.files.items()}
    if len({image.size for image in opened.values()}) > 1:
        raise DataError(f"{overlay.files['image']} and its masks have different sizes; run the same command again")
    scale = min(1.0, SIDE / max(opened["image"].size))
    width, height = (max(1, round(side * scale)) for side in opened["image"].size)
    size = width, height
    photo = np.asarray(opened["image"].convert("RGB").resize(size))
    masks = {
        kind: np.asarray(image.convert("L").resize(size, Image.Resampling.NEAREST)).astype(np.intp)
        for kind, image in opened.items()
        if kind != "image"
    }
    differ = masks["dense"] != masks["compressed"]
    counted = masks["truth"] != IGNORED
    panels = [{"title": "mask", "summary": "", "source": _source(painted(photo, masks["truth"]))}]
    for kind, title in (("dense", "dense"), ("compressed", "pruned")):
        right = (masks[kind] == masks["truth"])[counted].mean() if counted.any() else 0.0
        pixels = painted(photo, masks[kind])
        summary = f"{100 * right:.1f} % of the pixels right"
        if kind == "compressed":
            pixels = hatched(pixels, differ)
            summary += f", {100 * differ.mean():.1f} % unlike dense"
        panels.append({"title": title, "summary": summary, "source": _source(pixels)})
    seen = sorted({int(label) for mask in masks.values() for label in np.unique(mask)} - {IGNORED})
    classes = [(record.classes[label] if label < len(record.classes) else str(label), _hex(label)) for label in seen]
    name = overlay.corruption.replace("_", " ") or overlay.suite
    title = f"{name}, severity {overlay.severity}" if overlay.severity else name
    return {"title": title, "index": overlay.index, "panels": panels, "classes": classes, "run": run}


def colour_of(label: int) -> tuple[int, int, int]:
    """The colour of a class, by Pascal VOC's rule: the bits of the number spread over red, green and blue.

    Class 0 takes the place of 255 there, since black would hide the photo.

    Example:
        >>> colour_of(1), colour_of(2)
        ((128, 0, 0), (0, 128, 0))
    """
    number, channels = label or IGNORED, [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> channel & 1) << (7 - bit)
        number >>= 3
    return channels[0], channels[1], channels[2]


def painted(photo: Pixels, mask: Numbers) -> Pixels:
    """A photo uint8 [H, W, 3] with the colour of each pixel's class laid over it; ignored pixels stay as they are."""
    colours = np.array([colour_of(label) for label in range(IGNORED + 1)], dtype=np.float64)
    mixed = (1 - STRENGTH) * photo + STRENGTH * colours[mask]
    return np.where((mask == IGNORED)[..., None], photo, mixed.round()).astype(np.uint8)


def hatched(pixels: Pixels, where: Where) -> Pixels:
    """Black and white stripes over some of the pixels, seen on any colour."""
    rows, columns = np.indices(where.shape)
    phase = (rows + columns) % _HATCH
    marked = pixels.copy()
    marked[where & (phase < 1)] = 255
    marked[where & (phase == 1)] = 0
    return marked


def _source(pixels: Pixels) -> str:
    text = io.BytesIO()
    Image.fromarray(pixels).save(text, "JPEG", quality=85)
    return data_uri("image/jpeg", text.getvalue())


def _hex(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour_of(label))
