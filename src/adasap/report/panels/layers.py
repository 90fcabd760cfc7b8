"""What is left of each layer, and what had to stay whole."""

from __future__ import annotations

from adasap.report.comparison import Comparison
from adasap.report.figures_run import width_bars
from adasap.report.panel import Block, Content, Panel, blocks_by_run
from adasap.report.table import Table

NOT_EXACT = (
    "Norms or means over these channels see only those that stay, so the dense model with the others masked computes "
    "something else; what reads the channels is proven against a masked model whose norms see those alone."
)


class Layers(Panel):
    """Widths per group, groups that were not cut exactly, and the frozen ones with their reasons."""

    key, heading = "layers", "Layers"

    def content(self, found: Comparison) -> Content | None:
        return blocks_by_run("Layers", found, _blocks)


def _blocks(found: Comparison, place: int) -> list[Block]:
    run = found.runs[place]
    figure = width_bars(run, f"widths-{place}")
    widths = [Block(figure.title, figure=figure)]
    marked = [[width.group, width.not_exact] for width in run.widths if width.not_exact]
    if marked:
        widths.append(
            Block("What is not exact", NOT_EXACT, table=Table(["group", "what"], marked), prose=frozenset({"what"}))
        )
    rows = [[width.group, str(width.before), "; ".join(width.frozen)] for width in run.widths if width.frozen]
    title = "What was frozen, and why"
    if not rows:
        return [*widths, Block(title, "Nothing is on record as frozen.")]
    return [*widths, Block(title, table=Table(["group", "channels", "why"], rows), prose=frozenset({"why"}))]
