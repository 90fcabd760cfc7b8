"""Figures of detectors: precision against recall by class, and average precision by corruption."""

from __future__ import annotations

import math

import plotly.graph_objects as go
import torch

from adasap.evaluation import CLEAN
from adasap.evaluation.statistics import Interval
from adasap.report.comparison import mean_of
from adasap.report.figures import Figure, View, escaped, spaced, styled
from adasap.report.run_data import Model, RunData
from adasap.report.table import Table
from adasap.tasks.detection.report.detections import NUM_RECALLS, DetectionRecord

MEAN = "mean of classes"
STYLES: dict[Model, tuple[str, str]] = {"dense": ("var(--dense)", "dash"), "compressed": ("var(--c0)", "solid")}
"""Colour and line of each model."""


def precision_curves(run: RunData, record: DetectionRecord, key: str) -> Figure:
    """Precision against recall of dense and compressed: the mean of the classes, and each class by its button."""
    classes = [MEAN, *record.curves["dense"]]
    plot, shown = go.Figure(), []
    for name in classes:
        for model, (colour, dash) in STYLES.items():
            plot.add_trace(
                go.Scatter(
                    x=[100 * step / (NUM_RECALLS - 1) for step in range(NUM_RECALLS)],
                    y=[100 * value for value in _curve(record.curves[model], name)],
                    mode="lines",
                    name=model,
                    line={"width": 2.2, "color": colour, "dash": dash},
                    visible=name == MEAN,
                    hovertemplate="recall %{x:.0f} %, precision %{y:.1f} %<extra>" + escaped(model) + "</extra>",
                )
            )
            shown.append(name)
    styled(plot, height=420, hovermode="x")
    plot.update_xaxes(title_text="recall (%)", range=[0, 100], showline=True)
    plot.update_yaxes(title_text="precision (%)", range=[0, 102], showline=True)
    return Figure(
        key=key,
        title="Precision and recall",
        caption="On the clean test images at IoU 0.5: the highest precision that is had with at least so much recall. "
        "The buttons choose a class.",
        plot=plot,
        table=_class_table(run, classes),
        views=tuple(View(name, tuple(other == name for other in shown)) for name in classes),
    )


def _curve(curves: dict[str, list[float]], name: str) -> list[float]:
    if name != MEAN:
        return curves.get(name, [0.0] * NUM_RECALLS)
    return [math.fsum(values) / len(curves) for values in zip(*curves.values(), strict=True)]


def _class_table(run: RunData, classes: list[str]) -> Table:
    """AP50 of each class on the clean test set."""
    before, after = (run.scores(model)["clean"].metrics[CLEAN] for model in STYLES)
    rows = []
    for name in classes:
        metric = "map50" if name == MEAN else f"ap50:{name}"
        values = before.get(metric, math.nan), after.get(metric, math.nan)
        rows.append([name, *(f"{100 * value:.1f}" for value in values), f"{100 * (values[1] - values[0]):+.1f}"])
    return Table(["class", "dense, AP50 (%)", "compressed, AP50 (%)", "difference (points)"], rows)


def corruption_bars(run: RunData, suite: str, key: str) -> Figure:
    """AP50 on clean images and under each corruption, dense beside compressed, with intervals."""
    heights = {model: _heights(run, model, suite) for model in STYLES}
    names = list(heights["dense"])
    plot = go.Figure(
        [
            go.Bar(
                name=model,
                orientation="h",
                y=[spaced(name) for name in names],
                x=[100 * heights[model][name].value for name in names],
                marker={
                    "color": colour,
                    "pattern": {"shape": "/" if model == "dense" else "", "fgcolor": "var(--surface)"},
                },
                error_x=_error([heights[model][name] for name in names]),
                hovertemplate="<b>%{y}</b><br>AP50 %{x:.1f} %<extra>" + model + "</extra>",
            )
            for (model, (colour, _)), stripes in reversed(list(zip(STYLES.items(), ("/", ""), strict=True)))  # upwards
        ]
    )
    styled(plot, height=130 + 44 * len(names), barmode="group", bargap=0.3)
    plot.update_layout(legend_traceorder="reversed")
    plot.update_xaxes(title_text="AP50 (%), mean over severities", rangemode="tozero")
    plot.update_yaxes(categoryorder="array", categoryarray=[spaced(name) for name in reversed(names)], showgrid=False)
    rows = [[name, *(f"{heights[model][name]:.1%}" for model in STYLES)] for name in names]
    return Figure(
        key=key,
        title="AP50 by corruption",
        caption="Clean images and each corruption, mean over severities, with 95 % intervals over test images (each "
        "model by itself; paired differences stand under gains).",
        plot=plot,
        table=Table(["corruption", "dense", "compressed"], rows),
    )


def _heights(run: RunData, model: Model, suite: str) -> dict[str, Interval]:
    scores = run.scores(model)
    cells, by_corruption = scores[suite].cells, scores[suite].by_corruption()
    means = {
        name: torch.stack([cells[cell].double() for cell in own]).mean(0) for name, own in by_corruption.items() if name
    }
    return {"clean": mean_of(scores["clean"].per_image())} | {name: mean_of(values) for name, values in means.items()}


def _error(intervals: list[Interval]) -> dict[str, object]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [100 * (one.high - one.value) for one in intervals],
        "arrayminus": [100 * min(one.value, one.value - one.low) for one in intervals],
        "color": "var(--ink)",
        "thickness": 1.2,
        "width": 3,
    }
