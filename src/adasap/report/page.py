"""The page: one HTML file that holds everything, its figures, numbers, pictures and Plotly itself."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image
from plotly.offline import get_plotlyjs

from adasap.analysis.file import NAME as ANALYSIS
from adasap.analysis.file import read_analysis
from adasap.export import atomic_write
from adasap.report.comparison import Change, Comparison, extra_metrics
from adasap.report.detection_table import counted_corruptions, performance_table
from adasap.report.detections import SHOWN_SCORE, read_detections
from adasap.report.figures import Figure
from adasap.report.figures_analysis import analysis_figures
from adasap.report.figures_detection import corruption_bars, precision_curves
from adasap.report.figures_run import run_curves, width_bars
from adasap.report.figures_scores import gain_bars, heat_map, trade_off
from adasap.report.files import (
    PAGE,
    change_table,
    comparison_table,
    csv_text,
    points_text,
    report_data,
    value_text,
)
from adasap.report.run_data import Example, Guess, RunData, measure_of
from adasap.report.scene_cards import scene_card
from adasap.report.table import Table

TEMPLATE = Path(__file__).with_name("template")
MAX_BYTES = 6_000_000
"""The page stays below; Plotly is 4.8 MB of it."""

KINDS = {".json": "application/json", ".csv": "text/csv"}

IMAGE_SIDE = 128
"""Larger example images are shown this large."""


def write_report(found: Comparison, folder: Path) -> None:
    """`report.html`, `report.json` and `report.csv` in a folder that exists."""
    downloads = {"report.json": json.dumps(report_data(found), indent=1), "report.csv": csv_text(found)}
    texts = {PAGE: page_html(found, downloads), **downloads}
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())


def page_html(found: Comparison, downloads: Mapping[str, str]) -> str:
    """The page's text; pictures go, last ones first, where it would be larger than `MAX_BYTES`.

    Args:
        downloads: Name -> text of the files that the page carries inside.
    """
    context = _context(found, downloads)
    pictures, scenes = example_cards(found.runs), scene_cards(found.runs)
    html = render("page.html", {**context, "examples": pictures, "scenes": scenes})
    while len(html.encode()) >= MAX_BYTES and (pictures or scenes):
        pictures, scenes = pictures[: len(pictures) // 2], scenes[: len(scenes) // 2]
        html = render("page.html", {**context, "examples": pictures, "scenes": scenes})
    return html


def render(template: str, context: Mapping[str, Any]) -> str:
    """A template of the page's folder, filled in."""
    environment = Environment(loader=FileSystemLoader(TEMPLATE), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(context)


def _context(found: Comparison, downloads: Mapping[str, str]) -> dict[str, Any]:
    runs, alone = found.runs, len(found.runs) == 1
    recipes = {run.name: "<br>".join(recipe_lines(run)) for run in runs}
    overview = [trade_off(found.points, recipes, measure_of(runs[0]))] if found.points else []
    sections = [_run_section(found, place) for place in range(len(runs))]
    drawn = (figure for section in sections for kind in ("figures", "analysis") for figure in section[kind].values())
    figures = [*overview, *drawn]
    return {
        "title": runs[0].name if alone else "Runs compared",
        "measure": measure_of(runs[0]),
        "shown_score": SHOWN_SCORE,
        "runs": sections,
        "overview": overview,
        "comparison": change_table(found.changes[runs[0].name]) if alone else comparison_table(found),
        "figures": script_json({figure.key: figure.to_json() for figure in figures}),
        "plotly": Markup(get_plotlyjs().replace("</script", "<\\/script")),
        "style": Markup((TEMPLATE / "page.css").read_text()),
        "script": Markup((TEMPLATE / "page.js").read_text()),
        "downloads": {name: data_uri(KINDS[Path(name).suffix], text.encode()) for name, text in downloads.items()},
    }


def _run_section(found: Comparison, place: int) -> dict[str, Any]:
    """Everything on the page that belongs to one run."""
    run = found.runs[place]
    return {
        "name": run.name,
        "figures": _run_figures(found, place),
        "tiles": [tile(change) for change in found.changes[run.name]],
        "metrics": extra_metrics(run),
        "performance": performance_of(run),
        "events": run.of_kind("prune"),
        "frozen": [width for width in run.widths if width.frozen],
        "analysis": _analysis_figures(run, place),
        "command": run.command,
        "recipe": run.recipe_yaml,
        "seed": run.recipe.get("seed", 0),
        "environment": run.environment,
        "counters": run.counters,
        "seconds": run.seconds,
        "images": len(run.scores("dense")["clean"].per_image()),
    }


def _run_figures(found: Comparison, place: int) -> dict[str, Figure]:
    run = found.runs[place]
    suite, gain = run.first_suite("corrupted"), found.gains[run.name]
    figures = {"gains": gain_bars(gain, found.over[run.name], f"gains-{place}")} if gain else {}
    if suite is not None:
        figures["heat"] = heat_map(run, suite, f"heat-{place}")
    record = read_detections(run.folder)
    if record is not None:
        figures["precision"] = precision_curves(run, record, f"precision-{place}")
        if suite is not None:
            figures["corruptions"] = corruption_bars(run, suite, f"corruptions-{place}")
    figures["curves"] = run_curves(run, f"curves-{place}")
    figures["widths"] = width_bars(run, f"widths-{place}")
    return figures


def performance_of(run: RunData) -> Table | None:
    """P, mPC and rPC of a detector; None for a classifier, or without corruptions."""
    suite = run.first_suite("corrupted")
    if suite is None or measure_of(run) != "AP50":
        return None
    models = {"dense": run.scores("dense"), "compressed": run.scores("compressed")}
    return performance_table(models, "clean", suite, counted_corruptions(models["dense"][suite]))


def scene_cards(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Photos with boxes, run by run."""
    records = [read_detections(run.folder) for run in runs]
    return [scene_card(scene, at) for at, record in enumerate(records) if record for scene in record.scenes]


def _analysis_figures(run: RunData, place: int) -> dict[str, Figure]:
    """Those of `adasap analyze` on the run's folder, if its file lies there."""
    path = run.folder / ANALYSIS
    return analysis_figures(read_analysis(path), f"-{place}") if path.is_file() else {}


def tile(change: Change) -> dict[str, Any]:
    """A headline tile: before, after, the difference in words, and two bars in per cent of their full length."""
    before, after = change.before.value, change.after.value
    score = change.unit == "%"
    full = 1.0 if score else max(before, after) or 1.0
    texts = {"before": value_text(before, change.unit), "after": value_text(after, change.unit)}
    if change.difference is not None:
        detail = f"{points_text(change.difference)} points"
    elif change.unit == "ms":
        detail = f"{before / after:.2f} times as fast; 95 % of calls within {value_text(change.after.high, 'ms')}"
    else:
        detail = f"{after / before:.3f} of the dense model" if before else ""
    ends = [f"{100 * end.low:.1f} to {100 * end.high:.1f} %" for end in (change.before, change.after)]
    return {
        "label": change.quantity,
        "role": change.role,
        **texts,
        "detail": detail,
        "interval": ", now ".join(ends) if score else "",
        "bars": (100 * before / full, 100 * after / full),
    }


def recipe_lines(run: RunData) -> list[str]:
    """What tells a recipe from another, for the hover: criterion, budget, steps, sharpness, seed; escaped."""
    recipe, lines = run.recipe, []
    pruning = recipe.get("pruning", {})
    budget = {k: v for k, v in pruning.get("budget", {}).items() if isinstance(v, int | float)}
    lines.append(
        f"criterion {pruning.get('criterion', '?')}; budget " + ", ".join(f"{k} {v}" for k, v in budget.items())
    )
    for step in ("warm_up", "pruning", "fine_tune"):
        part = recipe.get(step, {})
        kind = part.get("sharpness", {}).get("kind")
        lines.append(f"{step.replace('_', '-')} {part.get('epochs', 0):g} epochs" + (f", {kind}" if kind else ""))
    lines.append(f"seed {recipe.get('seed', 0)}")
    return [str(Markup.escape(line)) for line in lines]


def example_cards(runs: Sequence[RunData]) -> list[dict[str, Any]]:
    """Each image once, with what the dense models and every run took it for."""
    cards: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        for example in run.examples:
            content = example.image.read_bytes()
            key = (example.suite, example.corruption, example.severity, example.index, content)
            if key not in cards:
                cards[key] = {"source": image_source(content), **_card(example), "guesses": {}}
            for model, guess in example.guesses.items():
                _add_guess(cards[key]["guesses"], guess, model, run.name, alone=len(runs) == 1)
    return list(cards.values())


def _card(example: Example) -> dict[str, Any]:
    name = example.corruption.replace("_", " ") or example.suite
    title = f"{name}, severity {example.severity}" if example.severity else name
    return {"title": title, "label": example.label, "index": example.index}


def _add_guess(guesses: dict[str, Guess], guess: Guess, model: str, run: str, *, alone: bool) -> None:
    """Dense models that agree are one line."""
    if model == "dense":
        agrees = alone or guesses.get("dense", guess) == guess
        guesses["dense" if agrees else f"dense of {run}"] = guess
    else:
        guesses["pruned" if alone else run] = guess


def image_source(content: bytes) -> str:
    """A data URI: small images as they are, larger ones as JPEG of at most `IMAGE_SIDE` pixels."""
    image = Image.open(io.BytesIO(content))
    if max(image.size) <= IMAGE_SIDE // 2:
        return data_uri("image/png", content)
    image.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    text = io.BytesIO()
    image.convert("RGB").save(text, "JPEG", quality=85)
    return data_uri("image/jpeg", text.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Content as an address that needs no network.

    Example:
        >>> data_uri("text/csv", b"a,b")
        'data:text/csv;base64,YSxi'
    """
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def script_json(data: Any) -> Markup:
    r"""JSON that no text in it can end the script element.

    Example:
        >>> print(script_json("</script>"))
        "\u003c/script\u003e"
    """
    text = json.dumps(data, allow_nan=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)
