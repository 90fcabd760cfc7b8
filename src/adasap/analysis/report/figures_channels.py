"""Figures of single channels: are those that go flatter than those that stay, and does importance know it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from adasap.analysis.ranks import MEASURES
from adasap.analysis.report.tables import number
from adasap.report.figures import Figure, View, escaped, series, styled
from adasap.report.table import Table

Json = Mapping[str, Any]

TITLES = {
    "damage": "damage of removal",
    "predicted": "damage to second order",
    "slope": "slope",
    "curvature": "curvature towards removal",
    "trace": "trace of the channel's block",
}
SHOWN = ("damage", "predicted", "curvature", "trace")
FLOOR = 1e-5
"""Smaller values, negative ones among them, are drawn at this share of the largest: the axis is logarithmic."""


def removal_boxes(models: Json, key: str) -> Figure | None:
    """Boxes of every measure, channels that go beside channels that stay, model by model."""
    rows_of = {name: channel_rows(model) for name, model in models.items()}
    rows_of = {name: rows for name, rows in rows_of.items() if rows}
    if not rows_of:
        return None
    traces: list[tuple[str, go.Box]] = []
    for measure in SHOWN:
        values = [row[measure] for rows in rows_of.values() for row in rows if row.get(measure) is not None]
        if not values:
            continue
        floor = FLOOR * max(*map(abs, values), 1e-30)
        for goes, title, colour in ((True, "goes", "var(--c1)"), (False, "stays", "var(--c0)")):
            chosen = [
                (name, row)
                for name, rows in rows_of.items()
                for row in rows
                if row["goes"] is goes and row.get(measure) is not None
            ]
            traces.append((measure, _box(chosen, measure, floor, title, colour)))
    plot = styled(go.Figure([box for _, box in traces]), height=460, boxmode="group")
    plot.update_yaxes(type="log", exponentformat="power", dtick=1, title_text=TITLES["damage"])
    shown = list(dict.fromkeys(measure for measure, _ in traces))
    return Figure(
        key=key,
        title="Channels that go and channels that stay",
        caption="Each point is a channel. The argument of the method is that training with adaptive radii makes the "
        "channels that go flat. They go by the run's plan where it fits the model, else by the first criterion. Values "
        f"below {FLOOR:g} of the largest, negative ones too, are drawn there. Boxes are quartiles.",
        plot=plot,
        table=Table(["model", "measure", "median going", "median staying", "P(going is smaller)"], _half_rows(models)),
        views=tuple(
            View(TITLES[m], tuple(other == m for other, _ in traces), {"yaxis.title.text": TITLES[m]}) for m in shown
        ),
    )


def channel_rows(model: Json) -> list[dict[str, Any]]:
    """The channels of a model, with their traces where these are known."""
    found = model.get("channels", {}).get("channels", {}).get("rows", [])
    traces = model.get("trace", {}).get("trace", {}).get("channels", {})
    return [{**row, "trace": traces[row["group"]][row["channel"]] if row["group"] in traces else None} for row in found]


def _box(rows: Sequence[tuple[str, Json]], measure: str, floor: float, title: str, colour: str) -> go.Box:
    return go.Box(
        x=[escaped(name) for name, _ in rows],
        y=[max(row[measure], floor) for _, row in rows],
        name=title,
        marker={"color": colour, "size": 3, "opacity": 0.55},
        line={"width": 1.4},
        boxpoints="all",
        jitter=0.5,
        pointpos=0,
        text=[f"{escaped(row['group'])}, channel {row['channel']}: {number(row[measure])}" for _, row in rows],
        hovertemplate="%{text}<extra>" + title + "</extra>",
        visible=measure == SHOWN[0],
    )


def _half_rows(models: Json) -> list[list[str]]:
    return [
        [
            name,
            TITLES[measure],
            number(found["median_going"]),
            number(found["median_staying"]),
            number(found["probability_going_is_smaller"]),
        ]
        for name, model in models.items()
        for measure, found in model.get("summary", {}).get("channels", {}).get("going_against_staying", {}).items()
    ]


def importance_scatter(models: Json, key: str) -> Figure | None:
    """Damage of removal against importance, a view for each model and yardstick."""
    traces: list[tuple[str, go.Scatter]] = []
    rows = []
    for index, (name, model) in enumerate(models.items()):
        channels = [row for row in channel_rows(model) if row["damage"] is not None]
        if not channels:
            continue
        floor = FLOOR * max(*(abs(row["damage"]) for row in channels), 1e-30)
        for yardstick in channels[0]["importance"]:
            if yardstick == "radius":  # a falling function of l2 within each group
                continue
            view = f"{name}: {yardstick}" if len(models) > 1 else yardstick
            traces += [(view, _points(channels, yardstick, goes, floor, index, not traces)) for goes in (True, False)]
        correlations = model.get("summary", {}).get("channels", {}).get("correlations", {})
        rows += [
            [name, TITLES[measure], yardstick, number(found["pooled"]), number(found["within"])]
            for measure in MEASURES
            for yardstick, found in correlations.get(measure, {}).items()
        ]
    if not traces:
        return None
    plot = styled(go.Figure([trace for _, trace in traces]), height=460, hovermode="closest")
    plot.update_xaxes(title_text="importance", type="log", exponentformat="power")
    plot.update_yaxes(title_text=TITLES["damage"], type="log", exponentformat="power", dtick=1)
    shown = list(dict.fromkeys(view for view, _ in traces))
    return Figure(
        key=key,
        title="Does importance know the damage?",
        caption="Each point is a channel: the exact rise of the loss when it is removed, against its importance. "
        f"Values below {FLOOR:g} of the largest are drawn there. The table holds Spearman's rank correlations, of all "
        "channels together and within groups.",
        plot=plot,
        table=Table(["model", "measure", "against", "together", "within groups"], rows),
        views=tuple(View(view, tuple(other == view for other, _ in traces)) for view in shown),
    )


def _points(channels: Sequence[Json], yardstick: str, goes: bool, floor: float, index: int, first: bool) -> go.Scatter:
    chosen = [row for row in channels if row["goes"] is goes]
    look = series(1 if goes else 0)
    return go.Scatter(
        x=[max(row["importance"][yardstick], 1e-12) for row in chosen],
        y=[max(row["damage"], floor) for row in chosen],
        name="goes" if goes else "stays",
        mode="markers",
        marker={"color": look["color"], "symbol": look["symbol"], "size": 6, "opacity": 0.7},
        text=[f"{escaped(row['group'])}, channel {row['channel']}: {number(row['damage'])}" for row in chosen],
        hovertemplate="%{text}<extra>" + ("goes" if goes else "stays") + "</extra>",
    )
