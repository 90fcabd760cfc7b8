"""Figures of an analysis: sharpness over radii, spectra, blocks of the Hessian."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import torch

from adasap.analysis.report.figures_channels import importance_scatter, removal_boxes
from adasap.analysis.report.figures_landscape import loss_lines, loss_planes
from adasap.analysis.report.tables import interval, number
from adasap.analysis.spectrum import Density
from adasap.report.figures import Figure, View, escaped, series, styled
from adasap.report.table import Table

Json = Mapping[str, Any]


def analysis_figures(content: Json, key: str = "") -> dict[str, Figure]:
    """Name -> figure, for what is known; `key` tells the figures of several analyses on one page apart."""
    makers: dict[str, Callable[[Json, str], Figure | None]] = {
        "sharpness": sharpness_curves,
        "removal": removal_boxes,
        "importance": importance_scatter,
        "spectrum": spectrum,
        "blocks": block_bars,
        "line": loss_lines,
        "plane": loss_planes,
    }
    found = {name: make(content["models"], f"{name}{key}") for name, make in makers.items()}
    return {name: figure for name, figure in found.items() if figure is not None}


def sharpness_curves(models: Json, key: str) -> Figure | None:
    """Rise of the loss over the radius, a view for each kind of ball."""
    kinds: dict[str, list[go.Scatter]] = {}
    rows = []
    for index, (name, model) in enumerate(models.items()):
        for kind, part in model.get("worst_case", {}).items():
            points = part["radii"]
            steps = f"{points[0]['steps']} steps"
            kinds.setdefault(kind, []).extend(
                [
                    _curve(name, steps, [p["radius"] for p in points], [p["n_step"] for p in points], index, "solid"),
                    _curve(
                        name, "one step", [p["radius"] for p in points], [p["one_step"] for p in points], index, "dot"
                    ),
                ]
            )
            rows += [[name, kind, f"{p['radius']:g}", interval(p["one_step"]), interval(p["n_step"])] for p in points]
        for kind, part in model.get("average_case", {}).items():
            points = part["deviations"]
            x = [p["deviation"] for p in points]
            kinds.setdefault(kind, []).append(_curve(name, "mean", x, points, index, "solid"))
            rows += [[name, kind, f"{p['deviation']:g}", "", interval(p)] for p in points]
    if not kinds:
        return None
    traces = [(kind, trace) for kind, of_kind in kinds.items() for trace in of_kind]
    plot = styled(go.Figure([trace for _, trace in traces]), height=440, hovermode="closest")
    plot.update_xaxes(title_text="radius, or standard deviation of the noise", type="log", minor={"ticks": ""})
    plot.update_yaxes(title_text="rise of the loss", type="log", exponentformat="power", dtick=1)
    return Figure(
        key=key,
        title="Sharpness",
        caption="How far the loss rises within a ball of weights, for each batch at its own worst point, or under "
        "noise. Dotted: one step along the gradient; solid: the best point of the search, or the mean over draws. "
        "Bars are 95 % intervals over batches. A rise of zero or less is not drawn.",
        plot=plot,
        table=Table(["model", "ball", "radius", "one step", "all steps, or mean"], rows),
        views=tuple(
            View(kind, tuple(other == kind for other, _ in traces), _ticks([x for t in kinds[kind] for x in t.x]))
            for kind in kinds
        ),
    )


def _ticks(radii: Sequence[float]) -> dict[str, Any]:
    """A tick at each radius that was looked at."""
    places = sorted(set(radii))
    return {"xaxis.tickvals": places, "xaxis.ticktext": [f"{place:g}" for place in places]}


def _curve(name: str, how: str, x: Sequence[float], found: Sequence[Json], index: int, dash: str) -> go.Scatter:
    look = series(index)
    means = [f["mean"] if f["mean"] is not None and f["mean"] > 0 else None for f in found]
    up = [f["high"] - m if m else 0 for f, m in zip(found, means, strict=True)]
    down = [m - max(f["low"], m / 100) if m else 0 for f, m in zip(found, means, strict=True)]
    return go.Scatter(
        x=list(x),
        y=means,
        name=escaped(f"{name}, {how}"),
        mode="lines+markers",
        line={"color": look["color"], "dash": dash, "width": 1.8},
        marker={"color": look["color"], "symbol": look["symbol"], "size": 8},
        error_y={"type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1, "width": 3},
        hovertemplate="%{x:g}: %{y:.3g}<extra>" + escaped(f"{name}, {how}") + "</extra>",
    )


def spectrum(models: Json, key: str) -> Figure | None:
    """Density of the eigenvalues, logarithmic, with the largest ones marked."""
    found = {name: model["density"]["density"] for name, model in models.items() if "density" in model}
    if not found:
        return None
    nodes = [node for part in found.values() for row in part["nodes"] for node in row]
    low, high = min(nodes), max(nodes)
    span = (high - low) or 1.0
    width, grid = span / 150, torch.linspace(low - span / 20, high + span / 20, 400, dtype=torch.float64)
    plot, rows = go.Figure(), []
    for index, (name, part) in enumerate(found.items()):
        density = Density(_matrix(part["nodes"]), _matrix(part["weights"]), part["size"])
        y = [value if value > 1e-12 else None for value in density.at(grid, width=width).tolist()]
        line = {"color": series(index)["color"], "width": 1.8}
        hover = "%{x:.3g}: %{y:.2g}<extra>" + escaped(name) + "</extra>"
        plot.add_trace(
            go.Scatter(x=grid.tolist(), y=y, name=escaped(name), mode="lines", line=line, hovertemplate=hover)
        )
        top = models[name].get("eigenvalues", {}).get("whole model", {}).get("largest", [])
        rows.append([name, part["method"], ", ".join(number(value) for value in top)])
    styled(plot, height=400, hovermode="closest")
    plot.update_xaxes(title_text="eigenvalue of the Hessian")
    plot.update_yaxes(title_text="density", type="log", exponentformat="power", range=[-10, None])
    return Figure(
        key=key,
        title="Spectrum of the Hessian",
        caption="Share of the eigenvalues per unit, by stochastic Lanczos quadrature, each point widened to a bell of "
        f"standard deviation {number(width)}. Most lie around zero; a bell on the right is a single large one.",
        plot=plot,
        table=Table(["model", "products by", "largest eigenvalues"], rows),
    )


def _matrix(rows: Sequence[Sequence[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def block_bars(models: Json, key: str) -> Figure | None:
    """Trace and largest eigenvalue of every layer and group."""
    views: dict[str, list[go.Bar]] = {}
    rows = []
    for index, (name, model) in enumerate(models.items()):
        trace = model.get("trace", {}).get("trace", {})
        for kind in ("layers", "groups"):
            found = trace.get(kind, {})
            if found:
                values, errors = zip(*((v["value"], v["standard_error"]) for v in found.values()), strict=True)
                views.setdefault(f"trace of {kind}", []).append(_bars(name, list(found), values, errors, index))
                rows += [
                    [name, kind[:-1], b, f"{number(v['value'])} ± {number(v['standard_error'])}", ""]
                    for b, v in found.items()
                ]
            tops = model.get("blocks", {}).get(kind, {}).get("blocks", {})
            if tops:
                values = tuple(v["largest"][0] for v in tops.values())
                errors = tuple(v["residuals"][0] for v in tops.values())
                views.setdefault(f"eigenvalue of {kind}", []).append(_bars(name, list(tops), values, errors, index))
                rows += [
                    [name, kind[:-1], b, "", f"{number(v['largest'][0])} ({v['residuals'][0]:.1g})"]
                    for b, v in tops.items()
                ]
    if not views:
        return None
    traces = [(view, bar) for view, bars in views.items() for bar in bars]
    longest = max(len(bar.y) for _, bar in traces)
    plot = styled(
        go.Figure([bar for _, bar in traces]), height=120 + longest * max(16, 9 * len(models)), barmode="group"
    )
    plot.update_yaxes(autorange="reversed", showgrid=False)
    plot.update_xaxes(title_text="trace, or largest eigenvalue, of the block of the Hessian")
    return Figure(
        key=key,
        title="Where the curvature is",
        caption="Blocks of the Hessian over a layer's own parameters, or over all that a group's channels are produced "
        "with. Bars on the traces are standard errors; on the eigenvalues, residuals.",
        plot=plot,
        table=Table(["model", "kind", "block", "trace", "largest eigenvalue (residual)"], rows),
        views=tuple(View(view, tuple(other == view for other, _ in traces)) for view in views),
    )


def _bars(name: str, labels: Sequence[str], values: Sequence[float], errors: Sequence[float], index: int) -> go.Bar:
    return go.Bar(
        orientation="h",
        y=[escaped(label) for label in labels],
        x=list(values),
        name=escaped(name),
        marker={"color": series(index)["color"]},
        error_x={"type": "data", "array": list(errors), "thickness": 1, "width": 2, "color": "var(--muted)"},
        hovertemplate="<b>%{y}</b><br>%{x:.3g}<extra>" + escaped(name) + "</extra>",
    )
