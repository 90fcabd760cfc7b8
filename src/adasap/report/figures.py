"""What every figure is: a Plotly figure with its text alternative, in the page's own look.

Colours are names of CSS variables, `var(--ink)`; the page fills in those of the light or the dark theme.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import plotly.graph_objects as go

from adasap.metric import Metric
from adasap.report.table import Table

NUM_COLOURS = 7
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "pentagon")


@dataclass(frozen=True)
class View:
    """One way to look at a figure, behind a button: which traces are seen, and what of the layout changes."""

    label: str
    visible: tuple[bool, ...]
    layout: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A Plotly figure with all that somebody needs who cannot see or point at it.

    Attributes:
        key: Unique on the page.
        caption: What it shows and how to read it; also its text for screen readers.
        table: The same numbers.
        views: Ways to look at it; none for one.
    """

    key: str
    title: str
    caption: str
    plot: go.Figure
    table: Table
    views: tuple[View, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Data, layout and views for the page's script."""
        plot = json.loads(self.plot.to_json())
        views = [{"visible": view.visible, "layout": view.layout} for view in self.views]
        return {"data": plot["data"], "layout": plot["layout"], "views": views}


def series(index: int) -> dict[str, Any]:
    """Colour and symbol of a run: no two of the first seven share either."""
    return {"color": f"var(--c{index % NUM_COLOURS})", "symbol": SYMBOLS[index % len(SYMBOLS)]}


def styled(plot: go.Figure, *, height: int, **layout: Any) -> go.Figure:
    """The page's own look in place of Plotly's."""
    axis = {
        "gridcolor": "var(--grid)",
        "zerolinecolor": "var(--axis)",
        "linecolor": "var(--axis)",
        "zeroline": False,
        "tickcolor": "var(--axis)",
        "automargin": True,
        "title": {"font": {"size": 13, "color": "var(--muted)"}, "standoff": 10},
        "tickfont": {"size": 12, "color": "var(--muted)"},
    }
    plot.update_layout(
        template={"layout": {"xaxis": axis, "yaxis": axis}},
        height=height,
        margin={"l": 8, "r": 12, "t": 12, "b": 8},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, -apple-system, Segoe UI, sans-serif", "size": 13, "color": "var(--ink)"},
        hoverlabel={
            "bgcolor": "var(--surface)",
            "bordercolor": "var(--axis)",
            "font": {"color": "var(--ink)", "size": 13},
            "align": "left",
        },
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0, "font": {"size": 13}},
        **layout,
    )
    return plot


def spaced(name: str) -> str:
    """A corruption's name as a label."""
    return escaped(name.replace("_", " "))


def plotted(metric: Metric) -> Metric:
    """A metric whose label and unit Plotly shows as they are."""
    return replace(metric, label=escaped(metric.label), unit=escaped(metric.unit))


def escaped(text: str) -> str:
    """Text that Plotly, which knows some HTML, shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
