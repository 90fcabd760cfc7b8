"""Figures of scores: the trade-off, the gain per corruption, and corruption by severity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import plotly.graph_objects as go

from adasap.report.comparison import Gain, Point, by_corruption
from adasap.report.figures import Figure, View, escaped, series, spaced, styled
from adasap.report.files import points_text, value_text
from adasap.report.run_data import RunData, measure_of
from adasap.report.table import Table
from adasap.robustness import SuiteResult

X_VIEWS = (
    ("clean {}", "clean {} (%)"),
    ("parameters", "parameters"),
    ("MACs", "multiply-accumulates of one image"),
    ("latency", "latency of one image (ms, median)"),
)


def trade_off(points: Sequence[Point], recipes: dict[str, str], measure: str = "accuracy") -> Figure:
    """Corrupted against clean score; and both against parameters, MACs and latency.

    Args:
        points: The models.
        recipes: Run -> a few lines about its recipe, shown on hover.
        measure: What the scores are called.
    """
    plot, shown = go.Figure(), []
    for place, (label, _) in enumerate(X_VIEWS):
        traces = _traces(points, label, recipes)
        for trace in traces:
            plot.add_trace(trace.update(visible=place == 0))
        shown += [place] * len(traces)
    styled(plot, height=460, hovermode="closest")
    plot.update_xaxes(title_text=X_VIEWS[0][1].format(measure), showline=True)
    plot.update_yaxes(title_text=f"corrupted {measure} (%)", showline=True)
    return Figure(
        key="trade-off",
        title="The trade-off",
        caption="Bars are 95 % intervals over test images. On the dashed line, robustness falls exactly as fast as "
        f"clean {measure}; a model above it kept more of its robustness than of its clean {measure}. Point "
        "at a model for its recipe.",
        plot=plot,
        table=_points_table(points),
        views=tuple(_trade_off_view(place, shown, measure) for place in range(len(X_VIEWS))),
    )


def _traces(points: Sequence[Point], x: str, recipes: dict[str, str]) -> list[go.Scatter]:
    """All that one view shows; where x is no score, the clean scores too."""
    first = x == X_VIEWS[0][0]
    traces = [_expectation(points)] if first else _expectation_marks(points, x)
    for index, point in enumerate(points):
        scores = ("corrupted",) if first else ("corrupted", "clean")
        traces += [_model(point, index, x, score, recipes) for score in scores]
    return traces


def _trade_off_view(place: int, shown: Sequence[int], measure: str) -> View:
    label, title = (text.format(measure) for text in X_VIEWS[place])
    y_title = f"{measure} (%): clean hollow, corrupted filled" if place else f"corrupted {measure} (%)"
    layout = {
        "xaxis.title.text": title,
        "yaxis.title.text": y_title,
        "xaxis.autorange": True,
        "xaxis.rangemode": "tozero" if place else "normal",
        "yaxis.autorange": True,
    }
    return View(label, tuple(at == place for at in shown), layout)


def _points_table(points: Sequence[Point]) -> Table:
    header = ["model", "clean (%)", "corrupted (%)", "on the line (%)", "parameters", "MACs", "latency (ms)"]
    rows = []
    for p in points:
        scores = [f"{100 * s.value:.1f} ({100 * s.low:.1f} to {100 * s.high:.1f})" for s in (p.clean, p.corrupted)]
        sizes = [f"{p.parameters:,}", f"{p.macs:,}", f"{p.latency_ms:.2f}"]
        rows.append([p.name, *scores, f"{100 * p.corrupted_line:.1f}", *sizes])
    return Table(header, rows)


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
    along_x = {"error_x": _error(point.clean, colour)} if x == X_VIEWS[0][0] else {}
    return go.Scatter(
        x=[100 * point.clean.value if x == X_VIEWS[0][0] else where[x]],
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
        name="robustness falls as the clean score does",
        line={"dash": "dash", "width": 1.5, "color": "var(--muted)"},
        hoverinfo="skip",
    )


def _expectation_marks(points: Sequence[Point], x: str) -> list[go.Scatter]:
    """The same line where x is no score: a dash per compressed model."""
    small = [p for p in points if p.model == "compressed"]
    where = {"parameters": "parameters", "MACs": "macs", "latency": "latency_ms"}[x]
    return [
        go.Scatter(
            x=[getattr(p, where) for p in small],
            y=[100 * p.corrupted_line for p in small],
            mode="markers",
            name="corrupted, if it fell as clean does",
            marker={"symbol": "line-ew-open", "size": 22, "color": "var(--muted)", "line": {"width": 2}},
            hovertemplate="%{y:.1f} % if robustness fell as the clean score does<extra></extra>",
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
    plot.update_xaxes(title_text="percentage points", zeroline=True, zerolinewidth=1.5)
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
    """Scores by corruption and severity: compressed, dense, and the difference."""
    small, dense = run.scores("compressed")[suite], run.scores("dense")[suite]
    grids, names = _grids(small, dense), list(by_corruption(small))
    plot = go.Figure([_heat(label, values, small) for label, values in grids.items()])
    styled(plot, height=90 + 32 * len(names))
    plot.update_xaxes(title_text="severity", type="category", showgrid=False)
    plot.update_yaxes(showgrid=False)
    rows = [[c, *(f"{100 * r.cells[c].mean().item():.1f}" for r in (dense, small))] for c in small.cells]
    return Figure(
        key=key,
        title="Corruption by severity",
        caption=f"Mean {measure_of(run)} in % on each corruption at each severity; the buttons change to the dense "
        "model and to the difference in points.",
        plot=plot,
        table=Table(["corruption / severity", "dense (%)", "compressed (%)"], rows),
        views=tuple(View(name, tuple(other == name for other in grids)) for name in grids),
    )


Grid = list[list[float | None]]


def _grids(small: SuiteResult, dense: SuiteResult) -> dict[str, Grid]:
    """View -> percent by corruption (the last one first) and severity; None where a cell was not evaluated."""

    def grid(of: Callable[[str], float]) -> Grid:
        keys = [[f"{name}/{severity}" for severity in _severities(small)] for name in reversed(by_corruption(small))]
        return [[100 * of(cell) if cell in small.cells else None for cell in row] for row in keys]

    def mean(result: SuiteResult, cell: str) -> float:
        return result.cells[cell].mean().item()

    return {
        "compressed": grid(lambda cell: mean(small, cell)),
        "dense": grid(lambda cell: mean(dense, cell)),
        "difference": grid(lambda cell: mean(small, cell) - mean(dense, cell)),
    }


def _severities(result: SuiteResult) -> list[int]:
    return sorted({int(cell.rpartition("/")[2]) for cells in by_corruption(result).values() for cell in cells})


def _heat(label: str, values: Grid, result: SuiteResult) -> go.Heatmap:
    signed = label == "difference"
    extreme = max([1.0, *(abs(v) for row in values for v in row if v is not None)]) if signed else 100
    stops = ("var(--bad)", "var(--surface)", "var(--good)") if signed else ("var(--heat0)", "var(--heat1)")
    return go.Heatmap(
        z=values,
        x=[str(severity) for severity in _severities(result)],
        y=[spaced(name) for name in reversed(by_corruption(result))],
        zmin=-extreme if signed else 0,
        zmax=extreme,
        colorscale=[[i / (len(stops) - 1), stop] for i, stop in enumerate(stops)],
        texttemplate="%{z:+.1f}" if signed else "%{z:.0f}",
        xgap=3,
        ygap=3,
        showscale=False,
        visible=label == "compressed",
        hovertemplate="<b>%{y}</b>, severity %{x}<br>%{z:.1f}<extra>" + label + "</extra>",
    )
