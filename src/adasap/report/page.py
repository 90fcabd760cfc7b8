"""The page: one HTML file that holds everything, its figures, numbers, pictures and Plotly itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from adasap.io import atomic_write
from adasap.metric import Metric
from adasap.report.comparison import Change, Comparison
from adasap.report.files import PAGE, change_value, csv_text, report_data
from adasap.report.format import difference_text, gain_of, score_number, shows, smaller_text, value_text
from adasap.report.glossary import words
from adasap.report.panel import Content, Panel, arranged
from adasap.report.panels import COMMON, panels_beside
from adasap.report.pictures import data_uri

TEMPLATE = Path(__file__).with_name("template")
MAX_BYTES = 6_000_000
"""The page stays below; Plotly is 4.8 MB of it."""

KINDS = {".json": "application/json", ".csv": "text/csv"}

Shown = Sequence[tuple[Panel, Content]]


def write_report(found: Comparison, folder: Path, panels: Sequence[Panel] = ()) -> None:
    """`report.html`, `report.json` and `report.csv` in a folder that exists.

    Args:
        panels: What the page shows beyond the common panels.
    """
    downloads = {"report.json": json.dumps(report_data(found), indent=1), "report.csv": csv_text(found)}
    texts = {PAGE: page_html(found, downloads, panels), **downloads}
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())


def page_html(found: Comparison, downloads: Mapping[str, str], panels: Sequence[Panel] = ()) -> str:
    """The page's text; pictures go, last ones first, where it would be larger than `MAX_BYTES`.

    Args:
        downloads: Name -> text of the files that the page carries inside.
        panels: As for `write_report`.
    """
    made = ((panel, panel.content(found)) for panel in arranged(COMMON, [*panels_beside(), *panels]))
    shown = [(panel, content) for panel, content in made if content is not None]
    html = _page(found, downloads, shown)
    while len(html.encode()) >= MAX_BYTES and any(content.pictures for _, content in shown):
        shown = [half for panel, content in shown if (half := _with_half_the_pictures(panel, content)) is not None]
        html = _page(found, downloads, shown)
    return html


def render(template: Path, context: Mapping[str, Any]) -> str:
    """A template filled in; it may import from those of the page."""
    places = FileSystemLoader([template.parent, TEMPLATE])
    environment = Environment(loader=places, autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template.name).render(context)


def _with_half_the_pictures(panel: Panel, content: Content) -> tuple[Panel, Content] | None:
    """None for a panel that showed nothing but pictures and has none left."""
    half = replace(content, pictures=content.pictures[: len(content.pictures) // 2])
    emptied = content.pictures and not (half.pictures or half.shared or half.by_run)
    return None if emptied else (panel, half)


def _page(found: Comparison, downloads: Mapping[str, str], shown: Shown) -> str:
    runs = found.runs
    images = len(runs[0].scores("dense")["clean"].per_image())
    lower = "" if found.metric.higher_is_better else " (lower is better)"
    heads = [
        {"name": run.name, "target": run.target, "tiles": [tile(c, found.metric) for c in found.changes[run.name]]}
        for run in runs
    ]
    hero = {
        "title": runs[0].name if len(runs) == 1 else "Runs compared",
        "lead": f"Dense and compressed, side by side. Scores are {found.metric.label}{lower} on {images:,} test "
        "images, with 95 % intervals over them; differences are paired image by image. Another seed moves them "
        "further.",
        "remarks": found.remarks,
        "picker": "Run",
        "runs": heads,
        "words": words(found.metric),
    }
    return filled_page(hero, shown, downloads, runs)


def filled_page(hero: Mapping[str, Any], shown: Shown, downloads: Mapping[str, str], runs: Sequence[Any]) -> str:
    """The page's template, filled in.

    Args:
        hero: What stands above the panels: `title`, `lead`, `remarks`, `picker`, `runs` with their tiles, `words`.
        shown: Panels with their contents.
        downloads: Name -> text of the files that the page carries inside.
        runs: What the panels' templates read of each run, in the order of the picker.
    """
    uris = {name: data_uri(KINDS[Path(name).suffix], text.encode()) for name, text in downloads.items()}
    parts = [
        {
            "key": panel.key,
            "heading": panel.heading,
            "title": content.title,
            "html": Markup(render(panel.part, {"content": content, "runs": runs, "downloads": uris})),
        }
        for panel, content in shown
    ]
    figures = [figure for _, content in shown for figure in content.figures()]
    context = {
        **hero,
        "panels": parts,
        "style": Markup("\n".join(style.read_text() for style in _styles(shown))),
        **scripts({figure.key: figure.to_json() for figure in figures}),
    }
    return render(TEMPLATE / "page.html", context)


def _styles(shown: Shown) -> list[Path]:
    """The page's own and those beside the parts of its panels."""
    beside = dict.fromkeys(panel.part.with_suffix(".css") for panel, _ in shown)
    return [TEMPLATE / "page.css", *(path for path in beside if path.is_file())]


def scripts(figures: Mapping[str, Any]) -> dict[str, Markup]:
    """What a page runs: Plotly, our own script, and the figures that it draws."""
    return {
        "figures": script_json(figures),
        "plotly": Markup(get_plotlyjs().replace("</script", "<\\/script")),
        "script": Markup((TEMPLATE / "page.js").read_text()),
    }


def tile(change: Change, metric: Metric) -> dict[str, Any]:
    """A headline tile: before, after, the difference in words, and two bars in per cent of their full length."""
    before, after = change.before.value, change.after.value
    full = 1.0 if change.is_score and metric.unit == "%" else max(before, after) or 1.0
    verdict = ""
    if change.difference is not None:
        detail = difference_text(change.difference, metric)
        if not shows(change.difference):
            verdict, detail = "undecided", f"{detail}, no difference that shows"
        else:
            verdict = "gained" if gain_of(change.difference, metric).value > 0 else "lost"
    elif change.unit == "ms":
        detail = f"{before / after:.2f} times as fast; 95 % of calls within {value_text(change.after.high, 'ms')}"
    else:
        detail = f"{smaller_text(before, after)}, {after / before:.3f} of the dense model" if before else ""
    ends = [
        f"{score_number(end.low, metric)} to {score_number(end.high, metric)} {metric.unit}".rstrip()
        for end in (change.before, change.after)
    ]
    return {
        "label": f"{metric.label}, {change.quantity}" if change.is_score else change.quantity,
        "role": change.role,
        "kind": change.role if change.role in ("corrupted", "shifted") and change.role != change.quantity else "",
        "verdict": verdict,
        "before": change_value(change, before, metric),
        "after": change_value(change, after, metric),
        "detail": detail,
        "interval": ", now ".join(ends) if change.is_score else "",
        "bars": (max(0.0, 100 * before / full), max(0.0, 100 * after / full)),
    }


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
