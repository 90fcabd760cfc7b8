"""Figures of the loss along directions: every model in one scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from adasap.analysis.report.tables import number
from adasap.report.figures import Figure, View, escaped, series, styled
from adasap.report.table import Table

Json = Mapping[str, Any]


def loss_lines(models: Json, key: str) -> Figure | None:
    """Loss along filter-normalised directions, all models in one scale."""
    plot, rows = go.Figure(), []
    for index, (name, model) in enumerate(models.items()):
        found = model.get("landscape", {}).get("line")
        for number_, losses in enumerate(found["losses"] if found else []):
            line = {"color": series(index)["color"], "width": 1.8, "dash": ("solid", "dot", "dash")[number_ % 3]}
            title = f"{name}, direction {number_ + 1}"
            hover = "%{x:g}: %{y:.4g}<extra>" + escaped(title) + "</extra>"
            trace = go.Scatter(
                x=found["positions"], y=losses, name=escaped(title), mode="lines", line=line, hovertemplate=hover
            )
            plot.add_trace(trace)
            ends = (losses[0], losses[len(losses) // 2], losses[-1])
            rows.append([title, *(number(value) for value in ends)])
    if not rows:
        return None
    styled(plot, height=400, hovermode="closest")
    plot.update_xaxes(title_text="position, in lengths of the filters")
    known = [loss for trace in plot.data for loss in trace.y if loss is not None and loss > 0]
    decades = {"exponentformat": "power", "dtick": 1} if known and max(known) >= 100 * min(known) else {}
    plot.update_yaxes(title_text="loss", type="log", **decades)
    return Figure(
        key=key,
        title="Loss along random directions",
        caption="Each filter of a direction is as long as the filter of the model that it is added to, so models of "
        "different size and scale can be compared; norms and biases stay.",
        plot=plot,
        table=Table(["model", "left end", "middle", "right end"], rows),
    )


def loss_planes(models: Json, key: str) -> Figure | None:
    """Contours of the loss in a plane, a view for each model, in one scale."""
    found = {n: m["landscape"]["plane"] for n, m in models.items() if "plane" in m.get("landscape", {})}
    if not found:
        return None
    grids = {
        n: [[math.log10(max(v, 1e-12)) if v is not None else None for v in row] for row in p["losses"]]
        for n, p in found.items()
    }
    known = [v for grid in grids.values() for row in grid for v in row if v is not None]
    low, high = min(known), max(known)
    ticks = list(range(math.floor(low), math.ceil(high) + 1))
    plot = go.Figure(
        [
            go.Contour(
                x=part["positions"],
                y=part["positions"],
                z=grids[name],
                zmin=low,
                zmax=high,
                contours={"start": low, "end": high, "size": (high - low) / 16 or 1},
                colorscale=[[0, "var(--heat0)"], [1, "var(--heat1)"]],
                line={"width": 0.7, "color": "var(--axis)"},
                colorbar={"title": {"text": "loss"}, "tickvals": ticks, "ticktext": [f"{10.0**t:g}" for t in ticks]},
                visible=index == 0,
                hovertemplate="%{x:g}, %{y:g}: 10^%{z:.2f}<extra>" + escaped(name) + "</extra>",
            )
            for index, (name, part) in enumerate(found.items())
        ]
    )
    styled(plot, height=520)
    plot.update_yaxes(scaleanchor="x", constrain="domain", title_text="second direction")
    plot.update_xaxes(title_text="first direction, in lengths of the filters", constrain="domain")
    rows = [
        [name, *(number(f(v for row in p["losses"] for v in row if v is not None)) for f in (min, max))]
        for name, p in found.items()
    ]
    return Figure(
        key=key,
        title="Loss in a plane",
        caption="Contours of the loss, logarithmic, in the plane of the first two directions; all models in one scale.",
        plot=plot,
        table=Table(["model", "lowest", "highest"], rows),
        views=tuple(View(name, tuple(other == name for other in found)) for name in found) if len(found) > 1 else (),
    )
