"""IoU of each class, dense beside compressed, and mIoU, accuracy and boundary F under corruption."""

from __future__ import annotations

import plotly.graph_objects as go

from adasap.report.comparison import Comparison
from adasap.report.figures import Figure, View, escaped, styled
from adasap.report.panel import Block, Content, Panel, blocks_by_run
from adasap.report.run_data import Model, RunData
from adasap.tasks.segmentation.report.tables import class_shares, class_table, performance_table

STYLES: dict[Model, tuple[str, str]] = {"dense": ("var(--dense)", "/"), "compressed": ("var(--c0)", "")}
"""Colour and pattern of each model."""
IOU = (
    "IoU is the pixels that answer and mask both give to a class, of those that either gives to it, over all test "
    "images; mIoU is its mean over the classes."
)
UNDER_CORRUPTION = (
    "Corrupted numbers are means over severities and corruptions; masks stay as they are. Boundary F is the mean of "
    "precision and recall of the classes' boundaries, within 0.75 % of the image's diagonal."
)


class ClassesPanel(Panel):
    """Of runs whose scores hold an IoU by class."""

    key, heading, follows = "segmentation", "Classes", "all"

    def content(self, found: Comparison) -> Content | None:
        return blocks_by_run("IoU by class", found, _blocks)


def _blocks(found: Comparison, place: int) -> list[Block]:
    run = found.runs[place]
    if "clean" not in run.scores("dense") or not class_shares(run.scores("dense")["clean"]):
        return []
    blocks = [Block(text=IOU, figure=class_bars(run, f"classes-{place}"))]
    if (suite := run.first_suite("corrupted")) is not None:
        models = {"dense": run.scores("dense"), "compressed": run.scores("compressed")}
        table = performance_table(models, "clean", suite)
        blocks.append(Block("Performance under corruption", UNDER_CORRUPTION, table=table))
    return blocks


def class_bars(run: RunData, key: str) -> Figure:
    """IoU by class on the clean test images and, behind a button, under the corruptions of the first such suite."""
    suites = [suite for suite in ("clean", run.first_suite("corrupted")) if suite is not None]
    names = list(class_shares(run.scores("dense")["clean"]))
    plot, shown = go.Figure(), []
    for suite in suites:
        for model, (colour, pattern) in reversed(STYLES.items()):  # bars go upwards
            shares = class_shares(run.scores(model)[suite])
            plot.add_trace(
                go.Bar(
                    name=model,
                    orientation="h",
                    y=[escaped(name) for name in names],
                    x=[100 * shares.get(name, 0.0) for name in names],
                    marker={"color": colour, "pattern": {"shape": pattern, "fgcolor": "var(--surface)"}},
                    visible=suite == suites[0],
                    hovertemplate="<b>%{y}</b><br>IoU %{x:.1f} %<extra>" + escaped(model) + "</extra>",
                )
            )
            shown.append(suite)
    styled(plot, height=130 + 40 * len(names), barmode="group", bargap=0.3)
    plot.update_layout(legend_traceorder="reversed")
    plot.update_xaxes(title_text="IoU (%)", rangemode="tozero")
    plot.update_yaxes(categoryorder="array", categoryarray=[escaped(name) for name in reversed(names)], showgrid=False)
    return Figure(
        key=key,
        title="IoU by class",
        caption="Intersection over union of each class on the test images, dense beside compressed; under corruption "
        "the mean over corruptions and severities.",
        plot=plot,
        table=class_table(run.scores("dense")["clean"], run.scores("compressed")["clean"]),
        views=tuple(View(suite, tuple(other == suite for other in shown)) for suite in suites) if suites[1:] else (),
    )
