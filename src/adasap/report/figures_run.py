"""Figures of one run: what happened over its steps, and what is left of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from adasap.report.figures import SYMBOLS, Figure, escaped, plotted, styled
from adasap.report.format import axis_title, in_unit, score_number, unit_bracket
from adasap.report.run_data import RunData, Width
from adasap.report.table import Table

MAX_POINTS = 400
"""Points of a curve on the page; longer runs are averaged over stretches of steps."""


def run_curves(run: RunData, key: str) -> Figure:
    """Loss, loss gap, kept cost and scores over steps, with the three steps of the method shaded; with a budget of loss
    also the factor of the radii."""
    steps = run.of_kind("step")
    unit = next((f" ({record['unit']})" for record in run.of_kind("prune")), "")
    rows: dict[str, Sequence[go.Scatter]] = {
        "loss": [_curve(steps, "loss", "loss", "--c0")],
        "loss gap": [
            _curve(steps, "gap", "loss gap", "--c1"),
            *(
                [_curve(steps, "linear_rise", "gap if the loss were linear", "--muted")]
                if _any(steps, "linear_rise")
                else []
            ),
        ],
    }
    if _any(steps, "radius_factor"):
        rows["factor of radii"] = [_curve(steps, "radius_factor", "factor of the radii", "--c1")]
    rows |= {f"kept cost{unit}": [*_costs(run), *_limits(run)], axis_title(plotted(run.task.metric)): _scores(run)}
    plot = make_subplots(rows=len(rows), cols=1, shared_xaxes=True, vertical_spacing=0.22 / len(rows))
    for row, (title, traces) in enumerate(rows.items(), start=1):
        for trace in traces:
            plot.add_trace(trace, row, 1)
        plot.update_yaxes(title_text=title, row=row, col=1)
    styled(plot, height=190 * len(rows), hovermode="closest")
    plot.update_yaxes(rangemode="tozero", row=len(rows) - 1, col=1)
    plot.update_xaxes(title_text="training step", row=len(rows), col=1)
    plot.update_xaxes(range=[0, max([step["step"] for step in steps], default=1) * 1.01])
    _shade(plot, run)
    cells = [
        [r["stage"], str(r["step"]), *(score_number(score, run.task.metric) for score in r["scores"].values())]
        for r in run.of_kind("stage")
    ]
    suites = list(run.scores("compressed"))
    return Figure(
        key=key,
        title="The run",
        caption="Shaded: warm-up, pruning, fine-tuning. The loss gap is the loss at the perturbed weights minus the "
        "loss: how sharp the minimum is; empty where nothing is perturbed. Grey, where it was recorded: the gap "
        "if the loss were linear. Dashes are the budget of each pruning event.",
        plot=plot,
        table=Table(["stage", "step", *(f"{suite}{unit_bracket(run.task.metric)}" for suite in suites)], cells),
    )


def _any(steps: Sequence[Mapping[str, Any]], field: str) -> bool:
    """Whether some step has a value of this field, which records of earlier versions have not."""
    return any(step.get(field) is not None for step in steps)


def _curve(steps: Sequence[Mapping[str, Any]], field: str, name: str, colour: str) -> go.Scatter:
    x, y = averaged([(step["step"], step.get(field)) for step in steps])
    line = {"width": 1.6, "color": f"var({colour})"}
    hover = f"step %{{x}}: %{{y:.4f}}<extra>{name}</extra>"
    return go.Scatter(x=x, y=y, mode="lines", line=line, hovertemplate=hover, showlegend=False)


def averaged(points: Sequence[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    """At most `MAX_POINTS` points, each the mean over a stretch; steps without a value are left out.

    Example:
        >>> averaged([(1, 2.0), (2, None), (3, 4.0)])
        ([1, 3], [2.0, 4.0])
    """
    known = [(step, value) for step, value in points if value is not None]
    length = max(1, -(-len(known) // MAX_POINTS))
    stretches = [known[start : start + length] for start in range(0, len(known), length)]
    return (
        [part[len(part) // 2][0] for part in stretches],
        [sum(value for _, value in part) / len(part) for part in stretches],
    )


def _costs(run: RunData) -> list[go.Scatter]:
    events = run.of_kind("prune")
    if not events:
        return []
    last = max([r["step"] for r in run.records if "step" in r] + [0])
    x, y = [e["step"] for e in events], [e["cost"] for e in events]
    dense = run.profiles["dense"]
    before = {"MACs": dense.macs, "parameters": dense.parameters}.get(events[0]["unit"])
    if before is not None:
        x, y = [0, *x], [before, *y]
    return [
        go.Scatter(
            x=[*x, last],
            y=[*y, y[-1]],
            mode="lines",
            line={"shape": "hv", "width": 2, "color": "var(--c2)"},
            hovertemplate="after step %{x}: %{y:,.0f}<extra>kept cost</extra>",
            showlegend=False,
        )
    ]


def _limits(run: RunData) -> list[go.Scatter]:
    events = run.of_kind("prune")
    marker = {"symbol": "line-ew-open", "size": 12, "color": "var(--muted)", "line": {"width": 2}}
    x, y = [e["step"] for e in events], [e["cost_limit"] for e in events]
    hover = "step %{x}: at most %{y:,.0f}<extra>budget</extra>"
    return [go.Scatter(x=x, y=y, mode="markers", marker=marker, hovertemplate=hover, showlegend=False)] if x else []


def _scores(run: RunData) -> list[go.Scatter]:
    stages, metric, traces = run.of_kind("stage"), plotted(run.task.metric), []
    precision = ".1f" if metric.unit == "%" else ".3g"
    for index, suite in enumerate(run.scores("compressed")):
        seen = [r for r in stages if suite in r["scores"]]
        traces.append(
            go.Scatter(
                x=[r["step"] for r in seen],
                y=[in_unit(r["scores"][suite], metric) for r in seen],
                mode="lines+markers",
                name=escaped(suite),
                line={"width": 1.6, "color": f"var(--c{(index + 3) % 7})"},
                marker={"size": 8, "symbol": SYMBOLS[index % len(SYMBOLS)]},
                cliponaxis=False,
                text=[r["stage"] for r in seen],
                hovertemplate=f"%{{text}}: %{{y:{precision}}} {metric.unit}<extra>{escaped(suite)}</extra>",
            )
        )
    return traces


def phases(run: RunData) -> list[tuple[str, int, int]]:
    """Name, first and last step of each phase; a phase that a killed run began again is one."""
    found: dict[str, tuple[int, int]] = {}
    for step in run.of_kind("step"):
        first, _ = found.get(step["phase"], (step["step"] - 1, 0))
        found[step["phase"]] = (first, step["step"])
    return [(name, *ends) for name, ends in found.items()]


def _shade(plot: go.Figure, run: RunData) -> None:
    for index, (name, start, stop) in enumerate(phases(run)):
        across: dict[str, Any] = {"xref": "x", "yref": "paper"}
        shade = {"fillcolor": f"var(--phase{index % 3})", "line": {"width": 0}, "layer": "below"}
        plot.add_shape(type="rect", x0=start, x1=stop, y0=0, y1=1, **across, **shade)
        text = {"font": {"size": 12, "color": "var(--muted)"}, "showarrow": False, "yanchor": "bottom"}
        plot.add_annotation(x=(start + stop) / 2, y=1, text=name, **across, **text)
    plot.update_layout(margin={"t": 30}, legend={"y": -0.09, "yanchor": "top"})


def width_bars(run: RunData, key: str) -> Figure:
    """Channels of every group before (outline) and after (filled); groups that had to stay whole are grey."""
    groups = list(reversed(run.widths))
    before = go.Bar(
        orientation="h",
        y=[escaped(width.group) for width in groups],
        x=[width.before for width in groups],
        name="dense",
        marker={"color": "rgba(0,0,0,0)", "line": {"color": "var(--axis)", "width": 1.2}},
        hovertemplate="<b>%{y}</b><br>%{x} channels<extra>dense</extra>",
    )
    after = _filled([w for w in groups if not w.frozen], "compressed", "var(--c0)")
    whole = _filled([w for w in groups if w.frozen], "had to stay whole", "var(--dense)")
    height = 70 + max(14, min(26, 1400 // max(1, len(groups)))) * len(groups)
    plot = styled(go.Figure([before, after, whole]), height=height, barmode="overlay", bargap=0.3, hovermode="closest")
    plot.update_xaxes(title_text="channels")
    plot.update_yaxes(showgrid=False)
    rows = [[w.group, str(w.before), str(w.after), f"{w.after / w.before:.2f}"] for w in run.widths]
    return Figure(
        key=key,
        title="Widths per layer",
        caption="One bar per group of channels that go together, named after the layer that computes them, in the "
        "order of the network. Outline: dense. Filled: what is left. Grey: groups that had to stay whole.",
        plot=plot,
        table=Table(["group", "before", "after", "kept"], rows),
    )


def _filled(groups: Sequence[Width], name: str, colour: str) -> go.Bar:
    return go.Bar(
        orientation="h",
        y=[escaped(width.group) for width in groups],
        x=[width.after for width in groups],
        name=name,
        marker={"color": colour},
        customdata=[
            f"{w.after} of {w.before} channels" + "".join(f"<br>{escaped(reason)}" for reason in w.frozen)
            for w in groups
        ],
        hovertemplate="<b>%{y}</b><br>%{customdata}<extra></extra>",
    )
