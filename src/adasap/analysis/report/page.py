"""The page of an analysis: one HTML file that holds everything, in the look of a run's page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from adasap.analysis.report.figures import analysis_figures
from adasap.analysis.report.tables import tables_of
from adasap.io import atomic_write
from adasap.report.page import TEMPLATE, render, scripts
from adasap.report.pictures import data_uri

ANALYSIS_PAGE = "analysis.html"
"""Its name in the folder; `analysis.json` lies beside it."""


def write_analysis_page(content: Mapping[str, Any], folder: Path) -> None:
    """Writes the page into a folder that exists."""
    with atomic_write(folder / ANALYSIS_PAGE) as file:
        file.write(analysis_html(content).encode())


def analysis_html(content: Mapping[str, Any]) -> str:
    """The page's text."""
    figures = analysis_figures(content)
    models = list(content["models"])
    return render(
        Path(__file__).with_name("analysis.html"),
        {
            "title": models[0] if len(models) == 1 else "Sharpness, measured",
            "models": models,
            "data": content.get("data", {}),
            "batch_norm": content.get("batch_norm", "frozen"),
            "sections": figures,
            "tables": tables_of(content),
            "environment": content.get("environment", {}),
            "command": content.get("command", ""),
            "seconds": sum(part["seconds"] for part in _parts(content)),
            "style": Markup((TEMPLATE / "page.css").read_text()),
            "download": data_uri("application/json", json.dumps(content).encode()),
            **scripts({figure.key: figure.to_json() for figure in figures.values()}),
        },
    )


def _parts(content: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [
        part
        for model in content["models"].values()
        for name, instrument in model.items()
        if name != "summary"
        for part in instrument.values()
    ]
