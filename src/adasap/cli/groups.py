"""`adasap groups MODEL`: what would move together, what is frozen and why."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from adasap.cli.models import ModelArgument, SizeOption, TrustOption, WeightsOption, open_named
from adasap.groups import prunable, trace_groups
from adasap.pruning import MACs, Parameters


def groups(
    model: ModelArgument,
    size: SizeOption = None,
    weights: WeightsOption = None,
    keep: Annotated[list[str] | None, typer.Option(help="Pattern of modules whose channels stay.")] = None,
    trust_builder: TrustOption = False,
) -> None:
    """List the channel groups of a model."""
    console = Console()
    opened = open_named(model, size, weights, trust_builder=trust_builder)
    traced = trace_groups(opened.model, opened.example_inputs, keep=tuple(keep or ()))
    table = Table("group", "channels", "parameters it touches", "frozen because", title=model)
    for group in traced:
        names = sorted({slot.name for slot in group.slots if slot.role != "statistic"})
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        table.add_row(group.name, str(group.num_channels), shown, "\n".join(group.frozen))
    console.print(table)
    free = prunable(traced)
    parameters, macs = Parameters(opened.model, traced), MACs(opened.model, traced, opened.example_inputs)
    console.print(
        f"{len(free)} of {len(traced)} groups can be pruned, {sum(g.num_channels for g in free):,} channels; "
        f"{parameters.dense:,.0f} parameters, {macs.dense:,.0f} MACs at {opened.spec.input_size[-1]} px; "
        f"with one channel per group {parameters.total({g.name: 1 for g in free}):,.0f} parameters would be left.",
        highlight=False,
    )
