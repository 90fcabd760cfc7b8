"""`adasap profile MODEL`: parameters, MACs, peak memory, latency; or a table of its layers' times on this device."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adasap.cli.latency import write_latency_table
from adasap.cli.models import ModelArgument, OpenedModel, SizeOption, TrustOption, WeightsOption, open_named
from adasap.errors import ModelError
from adasap.pruning.latency.timing import Precision, Setting
from adasap.report import profile_models, profile_table


def profile(
    model: ModelArgument,
    size: SizeOption = None,
    weights: WeightsOption = None,
    batch: Annotated[
        int | None,
        typer.Option(min=1, help="The larger batch; batch 1 is always measured.", show_default="16, table: 1"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="Time for each comparison of whole models.")] = 4.0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the CPU.", show_default="all")] = None,
    precision: Annotated[Precision, typer.Option(help="Number type.")] = "float32",
    channels_last: Annotated[bool, typer.Option("--channels-last/--contiguous", help="Memory format.")] = True,
    compiled: Annotated[bool, typer.Option("--compiled", help="Through torch.compile.")] = False,
    latency_table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Time the single layers instead, for latency budgets; resumes.")
    ] = None,
    plans: Annotated[int, typer.Option(min=0, help="Random plans that the latency table is tried on.")] = 5,
    trust_builder: TrustOption = False,
) -> None:
    """Measure what a model needs, the dense one beside it if the file is pruned."""
    _require_device(device)
    opened = open_named(model, size, weights, trust_builder=trust_builder)
    setting = Setting(device, threads, precision, channels_last, compiled)
    if latency_table is not None:
        write_latency_table(
            opened, latency_table, setting, batch=batch or 1, seconds=seconds, num_plans=plans, console=Console()
        )
        return
    _print_profiles(opened, setting, batch or 16, seconds)


def _print_profiles(opened: OpenedModel, setting: Setting, batch: int, seconds: float) -> None:
    models = {"dense": opened.dense, "pruned": opened.model} if opened.dense else {"model": opened.model}
    sizes = (1, batch) if batch > 1 else (1,)
    profiles = profile_models(
        {k: m for k, m in models.items() if m is not None},
        opened.example_inputs,
        batch_sizes=sizes,
        seconds=seconds,
        setting=setting,
    )
    console = Console()
    console.print(profile_table(profiles))
    for name, measured in profiles.items():
        if measured.uncounted:
            console.print(f"{name}: MACs do not count {', '.join(measured.uncounted)}", highlight=False)


def _require_device(device: str) -> None:
    import torch

    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"device {device!r} cannot be used ({first}); give --device cpu, or cuda where there is one"
        ) from None
