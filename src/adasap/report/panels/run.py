"""What happened over a run's steps, and that every cut left the masked model's outputs as they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from markupsafe import Markup

from adasap.report.comparison import Comparison
from adasap.report.figures_run import run_curves
from adasap.report.panel import Block, Content, Panel, blocks_by_run
from adasap.report.table import Table

PROOF = Markup(
    "At every pruning event the cut model was compared, on random images, with the model whose channels were only "
    "masked. The largest difference was <strong>{:.1e}</strong> of the largest output; more than 1e-3 stops the run."
)


COMPENSATION = (
    "What its removed inputs cost each layer that lost some, relative to the mean square of its outputs on a few "
    "training batches: mean over the layers (and the largest), with the weights as they were and refitted."
)


class Run(Panel):
    """Curves over steps and the pruning events."""

    key, heading = "run", "Run"

    def content(self, found: Comparison) -> Content | None:
        return blocks_by_run("The run itself", found, _blocks)


def _blocks(found: Comparison, place: int) -> list[Block]:
    run = found.runs[place]
    curves = Block(figure=run_curves(run, f"curves-{place}"))
    events = run.of_kind("prune")
    if not events:
        return [curves, Block("Masked = cut", "Nothing was pruned.")]
    text = PROOF.format(max(event["mask_error"] for event in events))
    blocks = [curves, Block("Masked = cut", text, table=_event_table(events))]
    errors = _layer_errors(events)
    return [*blocks, Block("Compensation", COMPENSATION, table=errors)] if errors else blocks


def _layer_errors(events: Sequence[Mapping[str, Any]]) -> Table | None:
    """Mean and largest error of the layers that lost inputs, before and after compensation; None if there was none.

    Layers whose error was not finite, kept as None, are not counted.
    """
    rows = []
    for event in events:
        pairs = [pair for pair in (event.get("layer_errors") or {}).values() if None not in pair]
        if pairs:
            means = [f"{100 * fmean(part):.2f} % ({100 * max(part):.2f} %)" for part in zip(*pairs, strict=True)]
            left = ", ".join(f"{name}: {why}" for name, why in (event.get("uncompensated") or {}).items())
            rows.append([str(event["event"]), str(len(pairs)), *means, left])
    return Table(["event", "layers", "before", "after", "with their old weights"], rows) if rows else None


def _event_table(events: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        [
            str(event["event"]),
            str(event["step"]),
            str(event["removed"]),
            str(event.get("masked", 0)),
            f"{event['cost']:,.0f} {event['unit']}",
            f"{event['cost_limit']:,.0f}",
            f"{event['mask_error']:.1e}",
        ]
        for event in events
    ]
    return Table(["event", "step", "channels removed", "masked", "cost", "allowed", "masked − cut"], rows)  # noqa: RUF001
