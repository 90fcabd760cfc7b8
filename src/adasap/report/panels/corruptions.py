"""What each run gained on each corruption, its scores by severity, and what else was measured."""

from __future__ import annotations

from markupsafe import Markup

from adasap.report.comparison import Comparison, extra_metrics
from adasap.report.figures_scores import gain_bars, heat_map
from adasap.report.panel import Block, Content, Panel, blocks_by_run
from adasap.report.run_data import RunData
from adasap.report.table import Table

NO_SUITE = Markup("The recipe names no suite of corruptions. Add one to <code>data.suites</code>.")


class Corruptions(Panel):
    """Gains, the heat map, and the mean of every other metric."""

    key, heading = "corruptions", "Corruptions"

    def content(self, found: Comparison) -> Content | None:
        return blocks_by_run("Corruption by corruption", found, _blocks)


def _blocks(found: Comparison, place: int) -> list[Block]:
    run, blocks = found.runs[place], []
    if gains := found.gains[run.name]:
        figure = gain_bars(gains, found.over[run.name], found.metric, f"gains-{place}")
        blocks.append(Block(figure.title, figure=figure))
    suite = run.first_suite("corrupted")
    if suite in found.apart.get(run.name, {}) and not gains:
        reason = found.apart[run.name][suite]
        blocks.append(Block("Gain per corruption", f"Not comparable with {found.reference}: {reason}."))
    if suite is None:
        blocks.append(Block(text=NO_SUITE))
    else:
        figure = heat_map(run, suite, f"heat-{place}")
        blocks.append(Block(figure.title, figure=figure))
    table = _further_metrics(run)
    return [*blocks, Block("Further metrics", table=table)] if table.rows else blocks


def _further_metrics(run: RunData) -> Table:
    """Means over the cells of each suite."""
    rows = [
        [suite, metric.replace("_", " "), f"{before:.4f}", f"{after:.4f}"]
        for suite, metric, before, after in extra_metrics(run)
    ]
    return Table(["suite", "metric", "dense", "compressed"], rows)
