"""`adasap profile MODEL`: parameters, MACs, peak memory, latency; dense beside pruned."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from adasap.cli.models import ModelArgument, SizeOption, TrustOption, WeightsOption, open_named
from adasap.report import profile_models, profile_table


def profile(
    model: ModelArgument,
    size: SizeOption = None,
    weights: WeightsOption = None,
    batch: Annotated[int, typer.Option(min=1, help="The larger batch; batch 1 is always measured.")] = 16,
    seconds: Annotated[float, typer.Option(help="Time for each batch size.")] = 4.0,
    trust_builder: TrustOption = False,
) -> None:
    """Measure what a model needs, the dense one beside it if the file is pruned."""
    opened = open_named(model, size, weights, trust_builder=trust_builder)
    models = {"dense": opened.dense, "pruned": opened.model} if opened.dense else {"model": opened.model}
    sizes = (1, batch) if batch > 1 else (1,)
    profiles = profile_models(
        {k: m for k, m in models.items() if m is not None}, opened.example_inputs, batch_sizes=sizes, seconds=seconds
    )
    console = Console()
    console.print(profile_table(profiles))
    for name, measured in profiles.items():
        if measured.uncounted:
            console.print(f"{name}: MACs do not count {', '.join(measured.uncounted)}", highlight=False)
