"""Figures of scores: the trade-off, the gain per corruption, and corruption by severity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from adasap.evaluation import Cell, SuiteResult
from adasap.evaluation.statistics import Interval, bootstrap_mean
from adasap.metric import Metric
from adasap.report.comparison import Gain, Point
from adasap.report.figures import Figure, View, escaped, plotted, series, spaced, styled
from adasap.report.format import (
    axis_title,
    difference_number,
    difference_unit,
    gain_of,
    in_unit,
    score_interval,
    score_number,
    score_text,
    shows,
    unit_bracket,
    value_text,
)
from adasap.report.run_data import RunData
from adasap.report.table import Table

SIZES = {
    "parameters": "parameters",
    "MACs": "multiply-accumulates of one image",
    "latency": "latency of one image (ms, median)",
}
"""What scores are seen against beside the clean one -> title of that axis."""


def trade_off(points: Sequence[Point], recipes: dict[str, str], metric: Metric) -> Figure:
    """Corrupted against clean score; and both against parameters, MACs and latency. Better is up and to the right.

    Args:
        points: The models.
        recipes: Run -> a few lines about its recipe, shown on hover.
        metric: What the scores are.
    """
    plot, shown, drawn = go.Figure(), [], plotted(metric)
    for place, x in enumerate(("", *SIZES)):
        traces = _traces(points, x, recipes, drawn)
        for trace in traces:
            plot.add_trace(trace.update(visible=place == 0))
        shown += [place] * len(traces)
    styled(plot, height=460, hovermode="closest")
    better = True if metric.higher_is_better else "reversed"
    plot.update_xaxes(title_text=f"clean {axis_title(drawn)}", showline=True, autorange=better)
    plot.update_yaxes(title_text=f"corrupted {axis_title(drawn)}", showline=True, autorange=better)
    lower = "" if metric.higher_is_better else f" Lower {metric.label} is better, so its axes are turned round."
    return Figure(
        key="trade-off",
        title="The trade-off",
        caption="Bars are 95 % intervals over test images. On the dashed line, robustness falls exactly as fast as "
        f"clean {metric.label}; a model above it kept more of its robustness than of its clean {metric.label}. Point "
        f"at a model for its recipe.{lower}",
        plot=plot,
        table=_points_table(points, metric),
        views=tuple(_trade_off_view(place, x, shown, metric) for place, x in enumerate(("", *SIZES))),
    )


def _traces(points: Sequence[Point], x: str, recipes: dict[str, str], metric: Metric) -> list[go.Scatter]:
    """All that one view shows: over the clean scores, or over the size `x` with the clean scores too."""
    traces = [_expectation_marks(points, x, metric)] if x else [_expectation(points, metric)]
    for index, point in enumerate(points):
        scores = ("corrupted", "clean") if x else ("corrupted",)
        traces += [_model(point, index, x, score, recipes, metric) for score in scores]
    return traces


def _trade_off_view(place: int, x: str, shown: Sequence[int], metric: Metric) -> View:
    better = True if metric.higher_is_better else "reversed"
    title = axis_title(plotted(metric))
    layout = {
        "xaxis.title.text": SIZES[x] if x else f"clean {title}",
        "yaxis.title.text": f"{title}: clean hollow, corrupted filled" if x else f"corrupted {title}",
        "xaxis.autorange": True if x else better,
        "xaxis.rangemode": "tozero" if x else "normal",
        "yaxis.autorange": better,
    }
    return View(x or f"clean {metric.label}", tuple(at == place for at in shown), layout)


def _points_table(points: Sequence[Point], metric: Metric) -> Table:
    scores = (f"{name}{unit_bracket(metric)}" for name in ("clean", "corrupted", "on the line"))
    rows = []
    for p in points:
        measured = [score_interval(score, metric) for score in (p.clean, p.corrupted)]
        sizes = [f"{p.parameters:,}", f"{p.macs:,}", f"{p.latency_ms:.2f}"]
        rows.append([p.name, *measured, score_number(p.corrupted_line, metric), *sizes])
    return Table(["model", *scores, "parameters", "MACs", "latency (ms)"], rows)


def _model(point: Point, index: int, x: str, score: str, recipes: dict[str, str], metric: Metric) -> go.Scatter:
    value = point.corrupted if score == "corrupted" else point.clean
    where = {"parameters": point.parameters, "MACs": point.macs, "latency": point.latency_ms}
    style, dense = series(index), point.model == "dense"
    colour = "var(--dense)" if dense else style["color"]
    symbol = "circle" if dense else style["symbol"]
    text = [
        f"<b>{escaped(point.name)}</b>",
        f"clean {score_text(point.clean.value, metric)}, corrupted {score_text(point.corrupted.value, metric)}",
        f"{value_text(point.parameters, '')} parameters, {value_text(point.macs, '')} MACs, {point.latency_ms:.2f} ms",
        *([] if dense else [recipes.get(point.name, "")]),
    ]
    along_x = {} if x else {"error_x": _error(point.clean, metric, colour)}
    return go.Scatter(
        x=[where[x] if x else in_unit(point.clean.value, metric)],
        y=[in_unit(value.value, metric)],
        mode="markers",
        name=escaped(point.name),
        showlegend=score == "corrupted",
        marker={"color": colour, "symbol": symbol + ("-open" if score == "clean" else ""), "size": 13}
        | {"line": {"width": 2, "color": colour}},
        error_y=_error(value, metric, colour),
        **along_x,
        hovertemplate="<br>".join(line for line in text if line) + "<extra></extra>",
    )


def _expectation(points: Sequence[Point], metric: Metric) -> go.Scatter:
    """The dashed lines corrupted = clean x (corrupted / clean of the dense model), one piece per dense model."""
    x: list[float | None] = []
    y: list[float | None] = []
    low, high = min(p.clean.low for p in points), max(p.clean.high for p in points)
    room = 0.01 if metric.unit == "%" else (high - low) / 20
    low, high = max(0.0, low - room), min(1.0, high + room / 2) if metric.unit == "%" else high + room / 2
    ends = [in_unit(low, metric), in_unit(high, metric)]
    for dense in (p for p in points if p.model == "dense"):
        ratio = dense.corrupted.value / dense.clean.value if dense.clean.value else 0.0
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


def _expectation_marks(points: Sequence[Point], x: str, metric: Metric) -> go.Scatter:
    """The same line where x is no score: a dash per compressed model."""
    small = [p for p in points if p.model == "compressed"]
    where = {"parameters": "parameters", "MACs": "macs", "latency": "latency_ms"}[x]
    return go.Scatter(
        x=[getattr(p, where) for p in small],
        y=[in_unit(p.corrupted_line, metric) for p in small],
        mode="markers",
        name="corrupted, if it fell as clean does",
        marker={"symbol": "line-ew-open", "size": 22, "color": "var(--muted)", "line": {"width": 2}},
        customdata=[score_text(p.corrupted_line, metric) for p in small],
        hovertemplate="%{customdata} if robustness fell as the clean score does<extra></extra>",
    )


def _error(value: Interval, metric: Metric, colour: str) -> dict[str, Any]:
    up, down = in_unit(value.high - value.value, metric), in_unit(value.value - value.low, metric)
    bar = {"type": "data", "symmetric": False, "array": [up], "arrayminus": [down], "width": 4}
    return {**bar, "color": colour, "thickness": 1.2}


def gain_bars(gains: Sequence[Gain], baseline: str, metric: Metric, key: str, *, of: str = "this run") -> Figure:
    """Bars of the gain per corruption with paired intervals, better to the right.

    Stripes mark a loss, grey bars what may be none of both: their intervals hold 0.
    """
    undecided = [gain for gain in gains if not shows(gain.difference)]
    decided = [gain for gain in gains if shows(gain.difference)]
    wins = [gain for gain in decided if gain_of(gain.difference, metric).value > 0]
    losses = [gain for gain in decided if gain_of(gain.difference, metric).value < 0]
    drawn = plotted(metric)
    looks = ((wins, "var(--good)", ""), (losses, "var(--bad)", "/"), (undecided, "var(--dense)", ""))
    parts = [_bars(some, drawn, colour, pattern) for some, colour, pattern in looks]
    plot = styled(go.Figure(parts), height=90 + 30 * len(gains), barmode="overlay", bargap=0.35, showlegend=False)
    title = "percentage points" if metric.unit == "%" else axis_title(drawn)
    plot.update_xaxes(title_text=title, zeroline=True, zerolinewidth=1.5)
    order = [spaced(gain.corruption) for gain in reversed(gains)]
    plot.update_yaxes(categoryorder="array", categoryarray=order, showgrid=False)
    rows = [
        [gain.corruption, *(score_number(end, metric) for end in (gain.baseline, gain.score)), _gain_text(gain, metric)]
        for gain in gains
    ]
    unit, difference = unit_bracket(metric), difference_unit(metric)
    header = ["corruption", f"{baseline}{unit}", f"{of}{unit}", f"gain ({difference})" if difference else "gain"]
    begin = "This run" if of == "this run" else of
    order_of = f"{begin} minus {baseline}" if metric.higher_is_better else f"{baseline} minus {of}"
    return Figure(
        key=key,
        title="Gain per corruption",
        caption=f"{order_of}, mean over severities, with paired 95 % intervals over test images. "
        "Striped bars are losses; grey ones are neither: their intervals hold zero.",
        plot=plot,
        table=Table(header, rows),
    )


def _gain_text(gain: Gain, metric: Metric) -> str:
    return difference_number(gain_of(gain.difference, metric), metric)


def _bars(gains: Sequence[Gain], metric: Metric, colour: str, pattern: str) -> go.Bar:
    found = [gain_of(gain.difference, metric) for gain in gains]
    return go.Bar(
        orientation="h",
        y=[spaced(gain.corruption) for gain in gains],
        x=[in_unit(gain.value, metric) for gain in found],
        marker={"color": colour, "pattern": {"shape": pattern, "size": 6, "fgcolor": "var(--surface)"}},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [in_unit(gain.high - gain.value, metric) for gain in found],
            "arrayminus": [in_unit(gain.value - gain.low, metric) for gain in found],
            "color": "var(--ink)",
            "thickness": 1.2,
            "width": 4,
        },
        customdata=[
            [score_text(gain.baseline, metric), score_text(gain.score, metric), _gain_text(gain, metric)]
            for gain in gains
        ],
        hovertemplate="<b>%{y}</b><br>%{customdata[0]} → %{customdata[1]}<br>%{customdata[2]} "
        f"{difference_unit(metric)}<extra></extra>",
    )


def heat_map(run: RunData, suite: str, key: str) -> Figure:
    """Scores by corruption and severity: compressed, dense, and the difference."""
    small, dense = run.scores("compressed")[suite], run.scores("dense")[suite]
    return severity_map(small, dense, run.task.metric, key)


def severity_map(
    after: SuiteResult,
    before: SuiteResult,
    metric: Metric,
    key: str,
    *,
    names: tuple[str, str] = ("compressed", "dense"),
) -> Figure:
    """Scores of two models by corruption and severity, and the difference of the first to the second."""
    grids, corruptions = _grids(after, before, metric), _upwards(after)
    titles = [*names, "difference"]
    top = 100.0 if metric.unit == "%" else max(v for grid in grids[:2] for row in grid for v in row if v is not None)
    plot = go.Figure(
        [
            _heat(title, grid, after, metric, top, view)
            for view, (title, grid) in enumerate(zip(titles, grids, strict=True))
        ]
    )
    styled(plot, height=90 + 32 * len(corruptions))
    plot.update_xaxes(title_text="severity", type="category", showgrid=False)
    plot.update_yaxes(showgrid=False)
    rows = [[str(c), *(score_number(r.cells[c].mean().item(), metric) for r in (before, after))] for c in after.cells]
    unit = f" in {metric.unit}" if metric.unit else ""
    points = f" in {difference_unit(metric)}" if metric.unit else ""
    lower = "" if metric.higher_is_better else " Lower is better."
    other = "the dense model" if names[1] == "dense" else names[1]
    return Figure(
        key=key,
        title="Corruption by severity",
        caption=f"Mean {metric.label}{unit} on each corruption at each severity; the buttons change to {other} and to "
        f"the difference{points}.{lower}",
        plot=plot,
        table=Table(["corruption / severity", *(f"{name}{unit_bracket(metric)}" for name in names[::-1])], rows),
        views=tuple(View(title, tuple(other == view for other in range(3))) for view, title in enumerate(titles)),
    )


Grid = list[list[float | None]]


def _grids(after: SuiteResult, before: SuiteResult, metric: Metric) -> tuple[Grid, Grid, Grid]:
    """Scores after, before, and their difference by corruption (the last one first) and severity; None for no cell."""

    def grid(of: Callable[[Cell], float]) -> Grid:
        rows = [[Cell(name, severity) for severity in _severities(after)] for name in _upwards(after)]
        return [[in_unit(of(cell), metric) if cell in after.cells else None for cell in row] for row in rows]

    def mean(result: SuiteResult, cell: Cell) -> float:
        return result.cells[cell].mean().item()

    return (
        grid(lambda cell: mean(after, cell)),
        grid(lambda cell: mean(before, cell)),
        grid(lambda cell: mean(after, cell) - mean(before, cell)),
    )


def _severities(result: SuiteResult) -> list[int]:
    return sorted({cell.severity for cell in result.cells if not cell.is_clean})


def _upwards(result: SuiteResult) -> list[str]:
    """The corruptions, the last one first."""
    return [name for name in reversed(result.by_corruption()) if name]


def _heat(label: str, values: Grid, result: SuiteResult, metric: Metric, top: float, view: int) -> go.Heatmap:
    signed, percent = view == 2, metric.unit == "%"
    least = 1.0 if percent else 1e-9
    extreme = max([least, *(abs(v) for row in values for v in row if v is not None)]) if signed else top
    stops = ("var(--bad)", "var(--surface)", "var(--good)") if signed else ("var(--heat0)", "var(--heat1)")
    stops = stops if metric.higher_is_better or not signed else stops[::-1]
    digits = (".1f" if signed else ".0f") if percent else ".2f"
    return go.Heatmap(
        z=values,
        x=[str(severity) for severity in _severities(result)],
        y=[spaced(name) for name in _upwards(result)],
        zmin=-extreme if signed else 0,
        zmax=extreme,
        colorscale=[[i / (len(stops) - 1), stop] for i, stop in enumerate(stops)],
        texttemplate=f"%{{z:{'+' if signed else ''}{digits}}}",
        xgap=3,
        ygap=3,
        showscale=False,
        visible=view == 0,
        hovertemplate=f"<b>%{{y}}</b>, severity %{{x}}<br>%{{z:{'.1f' if percent else '.3f'}}}"
        f"<extra>{escaped(label)}</extra>",
    )


def scores_by_corruption(results: Mapping[str, SuiteResult], metric: Metric) -> Figure:
    """Every model's score on every corruption, mean over severities, with intervals over images.

    Args:
        results: Model -> what it did on a suite of corruptions.
        metric: What the scores are.
    """
    plot, drawn = go.Figure(), plotted(metric)
    rows: dict[str, dict[str, str]] = {}
    for index, (name, result) in enumerate(results.items()):
        found = {
            corruption: bootstrap_mean(torch.stack([result.cells[cell] for cell in cells]).mean(dim=0), resamples=2000)
            for corruption, cells in result.by_corruption().items()
            if corruption
        }
        for corruption, score in found.items():
            rows.setdefault(corruption, {})[name] = score_interval(score, metric)
        plot.add_trace(
            go.Scatter(
                x=[in_unit(score.value, metric) for score in found.values()],
                y=[spaced(corruption) for corruption in found],
                mode="markers",
                name=escaped(name),
                marker={**series(index), "size": 10},
                customdata=[score_interval(score, metric) for score in found.values()],
                hovertemplate=f"<b>%{{y}}</b><br>%{{customdata}} {drawn.unit}<extra>{escaped(name)}</extra>",
            )
        )
    styled(plot, height=120 + 30 * len(rows), hovermode="closest")
    plot.update_xaxes(title_text=axis_title(drawn), showline=True)
    plot.update_yaxes(categoryorder="array", categoryarray=[spaced(name) for name in reversed(rows)])
    lower = "" if metric.higher_is_better else " Lower is better."
    header = ["corruption", *(f"{name}{unit_bracket(metric)}" for name in results)]
    return Figure(
        key="scores",
        title="Every model on every corruption",
        caption=f"Mean {metric.label} over the severities of each corruption; intervals stand in the table.{lower}",
        plot=plot,
        table=Table(header, [[name, *(row.get(model, "") for model in results)] for name, row in rows.items()]),
    )
