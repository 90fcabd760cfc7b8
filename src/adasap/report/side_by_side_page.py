"""The page of several models on the same images, in the look of a page of runs, and the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adasap.io import atomic_write
from adasap.report.comparison import Comparison
from adasap.report.deployment import deployment_content
from adasap.report.figures_scores import gain_bars, scores_by_corruption, severity_map
from adasap.report.files import PAGE, gain_table
from adasap.report.format import difference_unit
from adasap.report.glossary import words
from adasap.report.page import filled_page, tile
from adasap.report.panel import BLOCKS, Block, Content, Panel
from adasap.report.panels.numbers import Numbers
from adasap.report.side_by_side import SideBySide, scores_table, side_by_side_csv, side_by_side_data
from adasap.report.table import Table


@dataclass(frozen=True)
class Part(Panel):
    """A part of this page, whose content is worked out already."""

    key: str
    heading: str
    part: Path = BLOCKS

    def content(self, found: Comparison) -> Content | None:
        return None


def write_side_by_side(found: SideBySide, folder: Path, about: Mapping[str, Any]) -> None:
    """`report.html`, `report.json`, `report.csv` and `summary.md` in a folder that exists.

    Args:
        about: What else the page says of how it was made: `data`, `environment`.
    """
    data = json.dumps({**side_by_side_data(found), **about}, indent=1)
    downloads = {"report.json": data, "report.csv": side_by_side_csv(found)}
    gains = gain_table(found)
    parts = ["# Models compared", str(scores_table(found)), *(f"- {line}" for line in found.remarks)]
    if gains is not None:
        parts += [f"## Gain per corruption, {difference_unit(found.metric) or found.metric.label}", str(gains)]
    if (deployed := deployment_content(found)) is not None:
        parts += ["## Deployment", *(str(part) for block in deployed.shared for part in (block.text, block.table))]
    summary = "\n\n".join(parts) + "\n"
    for name, text in {PAGE: side_by_side_html(found, downloads, about), "summary.md": summary, **downloads}.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())


def side_by_side_html(found: SideBySide, downloads: Mapping[str, str], about: Mapping[str, Any]) -> str:
    """The page's text."""
    first, metric, others = found.first, found.metric, found.models[1:]
    images = {len(result.per_image()) for model in found.models for result in model.suites.values()}
    lower = "" if metric.higher_is_better else " (lower is better)"
    names, table = [model.name for model in found.models], scores_table(found)
    hero = {
        "title": " and ".join(names) if len(names) == 2 else f"{len(names)} models compared",
        "lead": f"Scores are {metric.label}{lower} on the same {' or '.join(f'{n:,}' for n in sorted(images))} test "
        f"images, with 95 % intervals over them; differences are measured from {first.name}, paired image by image. "
        "Where an interval holds 0, the difference is grey.",
        "remarks": found.remarks,
        "picker": "Model",
        "runs": [
            {"name": model.name, "target": "", "tiles": [tile(change, metric) for change in found.changes[model.name]]}
            for model in others
        ],
        "words": {word: text for word, text in words(metric).items() if word in WORDS | {metric.label}},
    }
    shown = [
        (
            Part("all", "Numbers", Numbers.part),
            Content("All models", values={"table": table, "note": ""}),
        ),
        (Part("deployment", "Deployment"), deployment_content(found)),
        (Part("corruptions", "Corruptions"), _corruptions(found)),
        (Part("made", "How it was made"), _made(found, about)),
    ]
    return filled_page(hero, [(part, content) for part, content in shown if content is not None], downloads, others)


WORDS = {"clean", "corrupted", "shifted", "95 %", "points", "latency"}
"""Words of the glossary that this page uses."""


def _corruptions(found: SideBySide) -> Content | None:
    """All models by corruption; of each but the first its gains, and its scores by severity beside the first's."""
    suite = found.first.first_corrupted()
    if suite is None:
        return None
    results = {m.name: m.suites[suite] for m in found.models if suite not in found.apart[m.name]}
    by_run: list[tuple[Block, ...]] = []
    for place, model in enumerate(found.models[1:]):
        if reason := found.apart[model.name].get(suite):
            by_run.append((Block("Gain per corruption", f"Not comparable with {found.first.name}: {reason}."),))
            continue
        gains = gain_bars(found.gains[model.name], found.first.name, found.metric, f"gains-{place}", of=model.name)
        names = (model.name, found.first.name)
        both = (model.suites[suite], found.first.suites[suite])
        cells = severity_map(*both, found.metric, f"heat-{place}", names=names)
        by_run.append((Block(gains.title, figure=gains), Block(cells.title, figure=cells)))
    figure = scores_by_corruption(results, found.metric)
    return Content("Corruption by corruption", shared=(Block(figure=figure),), by_run=tuple(by_run))


def _made(found: SideBySide, about: Mapping[str, Any]) -> Content:
    """How images were prepared for each model, the data, the machine."""
    keys = list(dict.fromkeys(key for model in found.models for key in model.about))
    rows = [[model.name, *(model.about.get(key, "") for key in keys)] for model in found.models]
    machine = about.get("environment") or {}
    words = [f"Data: {about['data']}." if about.get("data") else ""]
    if machine:
        versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
        words.append(
            f"Machine: {machine['gpu'] or 'no GPU'}; {machine['cpu_count']} CPU cores, {machine['torch_threads']} "
            f"threads; {machine['system']}; Python {machine['python']}, {versions}."
        )
    return Content(
        "How it was made", shared=(Block(text=" ".join(filter(None, words)), table=Table(["model", *keys], rows)),)
    )
