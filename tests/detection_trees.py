"""Small detection sets written to disk in the official layouts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Object = tuple[str, Sequence[float], bool]
"""Class, (x_min, y_min, x_max, y_max) as they are on disk, difficult."""


def write_image(path: Path, width: int, height: int, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def annotation(objects: Sequence[Object]) -> str:
    parts = [
        f"<object><name>{name}</name><difficult>{int(hard)}</difficult><bndbox>"
        + "".join(f"<{key}>{value}</{key}>" for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        + "</bndbox></object>"
        for name, box, hard in objects
    ]
    return f"<annotation><size><width>0</width><height>0</height></size>{''.join(parts)}</annotation>"


def write_voc(root: Path, objects: Mapping[str, Sequence[Object]], split: str = "test") -> Path:
    """A set in VOC layout with images of 40 x 30 pixels; the annotations state none, as 0 x 0."""
    for number, (name, mine) in enumerate(objects.items()):
        write_image(root / "JPEGImages" / f"{name}.jpg", 40, 30, number)
        (root / "Annotations").mkdir(exist_ok=True)
        (root / "Annotations" / f"{name}.xml").write_text(annotation(mine))
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True, exist_ok=True)
    (lists / f"{split}.txt").write_text("".join(f"{name}\n" for name in objects))
    return root


def write_coco(root: Path, content: dict[str, Any], split: str = "val2017") -> Path:
    """A set in COCO's layout; images are written with the size that the JSON says."""
    (root / "annotations").mkdir(parents=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    for image in content["images"]:
        write_image(root / split / image["file_name"], image["width"], image["height"], image["id"])
    return root
