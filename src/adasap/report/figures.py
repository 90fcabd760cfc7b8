"""Figures of a comparison: each a pure function of data to a Plotly figure with its text alternative.

Colours are names of CSS variables, `var(--ink)`; the page fills in those of the light or the dark theme.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from adasap.report.comparison import Gain, Point, by_corruption
from adasap.report.files import points_text, value_text
from adasap.report.run_data import RunData
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


X_VIEWS = (
    ("clean accuracy", "clean accuracy (%)"),
    ("parameters", "parameters"),
    ("MACs", "multiply-accumulates of one image"),
    ("latency", "latency of one image (ms, median)"),
)


def trade_off(points: Sequence[Point], recipes: dict[str, str]) -> Figure:
    """Corrupted against clean accuracy; and both against parameters, MACs and latency.

    Args:
        points: The models.
        recipes: Run -> a few lines about its recipe, shown on hover.
    """
    plot, shown = go.Figure(), []
    for place, (label, _) in enumerate(X_VIEWS):
        first = place == 0
        traces = [_expectation(points)] if first else _expectation_marks(points, label)
        for index, point in enumerate(points):
            traces += [_model(point, index, label, "corrupted", recipes)]
            traces += [] if first else [_model(point, index, label, "clean", recipes)]
        for trace in traces:
            trace.update(visible=first)
            plot.add_trace(trace)
        shown += [place] * len(traces)
    styled(plot, height=460, hovermode="closest")
    plot.update_xaxes(title_text=X_VIEWS[0][1], showline=True)
    plot.update_yaxes(title_text="corrupted accuracy (%)", showline=True)
    views = []
    for place, (label, title) in enumerate(X_VIEWS):
        y_title = "corrupted accuracy (%)" if place == 0 else "accuracy (%): clean hollow, corrupted filled"
        layout = {"xaxis.title.text": title, "yaxis.title.text": y_title, "xaxis.autorange": True}
        if place:
            layout |= {"xaxis.rangemode": "tozero"}
        else:
            layout |= {"xaxis.rangemode": "normal"}
        views.append(View(label, tuple(at == place for at in shown), {**layout, "yaxis.autorange": True}))
    rows = [
        [
            p.name,
            *(f"{100 * s.value:.1f} ({100 * s.low:.1f} to {100 * s.high:.1f})" for s in (p.clean, p.corrupted)),
            f"{100 * p.corrupted_line:.1f}",
            f"{p.parameters:,}",
            f"{p.macs:,}",
            f"{p.latency_ms:.2f}",
        ]
        for p in points
    ]
    header = ["model", "clean (%)", "corrupted (%)", "on the line (%)", "parameters", "MACs", "latency (ms)"]
    return Figure(
        key="trade-off",
        title="The trade-off",
        caption="Bars are 95 % intervals over test images. On the dashed line, robustness falls exactly as fast as "
        "clean accuracy; a model above it kept more of its robustness than of its accuracy. Point at a model for "
        "its recipe.",
        plot=plot,
        table=Table(header, rows),
        views=tuple(views),
    )


def _model(point: Point, index: int, x: str, score: str, recipes: dict[str, str]) -> go.Scatter:
    value = point.corrupted if score == "corrupted" else point.clean
    where = {"parameters": point.parameters, "MACs": point.macs, "latency": point.latency_ms}
    style, dense = series(index), point.model == "dense"
    colour = "var(--dense)" if dense else style["color"]
    symbol = "circle" if dense else style["symbol"]
    text = [
        f"<b>{escaped(point.name)}</b>",
        f"clean {value_text(point.clean.value, '%')}, corrupted {value_text(point.corrupted.value, '%')}",
        f"{value_text(point.parameters, '')} parameters, {value_text(point.macs, '')} MACs, {point.latency_ms:.2f} ms",
        *([] if dense else [recipes.get(point.name, "")]),
    ]
    along_x = {"error_x": _error(point.clean, colour)} if x == "clean accuracy" else {}
    return go.Scatter(
        x=[100 * point.clean.value if x == "clean accuracy" else where[x]],
        y=[100 * value.value],
        mode="markers",
        name=escaped(point.name),
        showlegend=score == "corrupted",
        marker={"color": colour, "symbol": symbol + ("-open" if score == "clean" else ""), "size": 13}
        | {"line": {"width": 2, "color": colour}},
        error_y=_error(value, colour),
        **along_x,
        hovertemplate="<br>".join(line for line in text if line) + "<extra></extra>",
    )


def _expectation(points: Sequence[Point]) -> go.Scatter:
    """The dashed lines corrupted = clean x (corrupted / clean of the dense model), one piece per dense model."""
    x: list[float | None] = []
    y: list[float | None] = []
    for dense in (p for p in points if p.model == "dense"):
        ratio = dense.corrupted.value / dense.clean.value if dense.clean.value else 0.0
        lowest = min(p.clean.low for p in points)
        ends = [100 * max(0.0, lowest - 0.01), 100 * min(1.0, max(p.clean.high for p in points) + 0.005)]
        x += [*ends, None]
        y += [*(end * ratio for end in ends), None]
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name="robustness falls as accuracy does",
        line={"dash": "dash", "width": 1.5, "color": "var(--muted)"},
        hoverinfo="skip",
    )


def _expectation_marks(points: Sequence[Point], x: str) -> list[go.Scatter]:
    """The same line where x is no accuracy: a dash per compressed model."""
    small = [p for p in points if p.model == "compressed"]
    where = {"parameters": "parameters", "MACs": "macs", "latency": "latency_ms"}[x]
    return [
        go.Scatter(
            x=[getattr(p, where) for p in small],
            y=[100 * p.corrupted_line for p in small],
            mode="markers",
            name="corrupted, if it fell as accuracy does",
            marker={"symbol": "line-ew-open", "size": 22, "color": "var(--muted)", "line": {"width": 2}},
            hovertemplate="%{y:.1f} % if robustness fell as accuracy does<extra></extra>",
        )
    ]


def _error(value: Any, colour: str) -> dict[str, Any]:
    up, down = 100 * (value.high - value.value), 100 * (value.value - value.low)
    bar = {"type": "data", "symmetric": False, "array": [up], "arrayminus": [down], "width": 4}
    return {**bar, "color": colour, "thickness": 1.2}


def gain_bars(gains: Sequence[Gain], baseline: str, key: str) -> Figure:
    """Bars of the gain per corruption with paired intervals; stripes mark a loss."""
    wins = [gain for gain in gains if gain.difference.value >= 0]
    losses = [gain for gain in gains if gain.difference.value < 0]
    parts = (_bars(wins, "var(--good)", ""), _bars(losses, "var(--bad)", "/"))
    plot = styled(go.Figure(parts), height=90 + 30 * len(gains), barmode="overlay", bargap=0.35, showlegend=False)
    plot.update_xaxes(title_text="points of accuracy", zeroline=True, zerolinewidth=1.5)
    order = [spaced(gain.corruption) for gain in reversed(gains)]
    plot.update_yaxes(categoryorder="array", categoryarray=order, showgrid=False)
    rows = [[g.corruption, f"{100 * g.baseline:.1f}", f"{100 * g.score:.1f}", points_text(g.difference)] for g in gains]
    return Figure(
        key=key,
        title="Gain per corruption",
        caption=f"This run minus {baseline}, mean over severities, with paired 95 % intervals over test images. "
        "Striped bars are losses; an interval that crosses zero is no evidence of either.",
        plot=plot,
        table=Table(["corruption", f"{baseline} (%)", "this run (%)", "gain (points)"], rows),
    )


def _bars(gains: Sequence[Gain], colour: str, pattern: str) -> go.Bar:
    return go.Bar(
        orientation="h",
        y=[spaced(gain.corruption) for gain in gains],
        x=[100 * gain.difference.value for gain in gains],
        marker={"color": colour, "pattern": {"shape": pattern, "size": 6, "fgcolor": "var(--surface)"}},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [100 * (g.difference.high - g.difference.value) for g in gains],
            "arrayminus": [100 * (g.difference.value - g.difference.low) for g in gains],
            "color": "var(--ink)",
            "thickness": 1.2,
            "width": 4,
        },
        customdata=[[100 * g.baseline, 100 * g.score, points_text(g.difference)] for g in gains],
        hovertemplate="<b>%{y}</b><br>%{customdata[0]:.1f} % → %{customdata[1]:.1f} %<br>%{customdata[2]} points"
        "<extra></extra>",
    )


def heat_map(run: RunData, suite: str, key: str) -> Figure:
    """Accuracy by corruption and severity: compressed, dense, and the difference."""
    small, dense = run.scores("compressed")[suite], run.scores("dense")[suite]
    names = list(by_corruption(small))
    severities = sorted({int(cell.rpartition("/")[2]) for cells in by_corruption(small).values() for cell in cells})

    def grid(of: Any) -> list[list[float | None]]:
        keys = [[f"{name}/{severity}" for severity in severities] for name in reversed(names)]
        return [[100 * of(cell) if cell in small.cells else None for cell in row] for row in keys]

    def mean(result: Any) -> Any:
        return lambda cell: result.cells[cell].mean().item()

    grids = {
        "compressed": grid(mean(small)),
        "dense": grid(mean(dense)),
        "difference": grid(lambda cell: mean(small)(cell) - mean(dense)(cell)),
    }
    labels = [spaced(name) for name in reversed(names)]
    plot = go.Figure()
    for label, values in grids.items():
        extreme = max([1.0, *(abs(v) for row in values for v in row if v is not None)])
        signed = label == "difference"
        stops = ("var(--bad)", "var(--surface)", "var(--good)") if signed else ("var(--heat0)", "var(--heat1)")
        plot.add_trace(
            go.Heatmap(
                z=values,
                x=[str(severity) for severity in severities],
                y=labels,
                zmin=-extreme if signed else 0,
                zmax=extreme if signed else 100,
                colorscale=[[i / (len(stops) - 1), stop] for i, stop in enumerate(stops)],
                texttemplate="%{z:+.1f}" if signed else "%{z:.0f}",
                xgap=3,
                ygap=3,
                showscale=False,
                visible=label == "compressed",
                hovertemplate="<b>%{y}</b>, severity %{x}<br>%{z:.1f}<extra>" + label + "</extra>",
            )
        )
    styled(plot, height=90 + 32 * len(names))
    plot.update_xaxes(title_text="severity", type="category", showgrid=False)
    plot.update_yaxes(showgrid=False)
    rows = [[c, *(f"{100 * r.cells[c].mean().item():.1f}" for r in (dense, small))] for c in small.cells]
    return Figure(
        key=key,
        title="Corruption by severity",
        caption="Accuracy in % on each corruption at each severity; the buttons change to the dense model and to the "
        "difference in points.",
        plot=plot,
        table=Table(["corruption / severity", "dense (%)", "compressed (%)"], rows),
        views=tuple(View(name, tuple(other == name for other in grids)) for name in grids),
    )


def spaced(name: str) -> str:
    """A corruption's name as a label."""
    return escaped(name.replace("_", " "))


def escaped(text: str) -> str:
    """Text that Plotly, which knows some HTML, shows as it is."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
