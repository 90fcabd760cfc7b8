"""Verbs about a model alone: `profile`, `groups`, `export`, `prune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from adasap.cli.options import DataOptions, Int8Given, ModelArgument, Named, SeedOption, with_model_options
from adasap.experiments import help_texts as text
from adasap.experiments.known_names import (
    ENGINES,
    TARGETS,
    Compensate,
    Precision,
    Ranking,
    complete_data,
    complete_path,
    one_of,
)
from adasap.experiments.terminal import open_console, print_parts
from adasap.experiments.words import listed


@with_model_options
def profile(
    model: ModelArgument,
    named: Named,
    batch: Annotated[int | None, Option(min=1, max=100_000, help=text.BATCH, show_default="16, table: 1")] = None,
    seconds: Annotated[float, Option(help="Time for each comparison of whole models, up to an hour.")] = 4.0,
    device: Annotated[str, Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, Option(min=1, max=1024, help="Threads of the CPU.", show_default="all")] = None,
    precision: Annotated[Precision, Option(help="Number type.")] = "float32",
    channels_last: Annotated[bool, Option("--channels-last/--contiguous", help="Memory format.")] = True,
    compiled: Annotated[bool, Option("--compiled", help="Through torch.compile.")] = False,
    engine: Annotated[str, Option(help=text.ENGINE, autocompletion=one_of(ENGINES))] = "torch",
    eight_bits: Annotated[bool, Option("--int8", help="Of 8 bits, quantised for the runtime.")] = False,
    latency_table: Annotated[Path | None, Option(metavar="FILE", help=text.TABLE, autocompletion=complete_path)] = None,
    plans: Annotated[int, Option(min=0, max=10_000, help=text.PLANS)] = 5,
    allow_inexact: Annotated[bool, Option("--allow-inexact", help=text.TABLE_INEXACT)] = False,
) -> None:
    """Measure what a model needs, the dense one beside it if the file is pruned."""
    from adasap.experiments import latency
    from adasap.experiments import profile as experiment
    from adasap.profiling.timing import Setting
    from adasap.report import Shown

    console, setting = open_console(), Setting(device, threads, precision, channels_last, compiled, engine, eight_bits)
    if latency_table is None:
        found: Shown = experiment.profile(named(model), batch=batch or 16, seconds=seconds, setting=setting)
    else:
        found = latency.latency_table(
            named(model),
            latency_table,
            batch=batch or 1,
            seconds=seconds,
            num_plans=plans,
            setting=setting,
            allow_inexact=allow_inexact,
            console=console,
        )
    print_parts(console, found.parts())


@with_model_options
def prune(
    model: ModelArgument,
    out: Annotated[Path, Argument(metavar="OUT", help="The model file to write.", autocompletion=complete_path)],
    named: Named,
    budget: Annotated[str, Option(metavar="KEY=VALUE", help=text.BUDGET)],
    data: Annotated[str | None, Option(help=text.DATA_PRUNE, autocompletion=complete_data)] = None,
    split: Annotated[str | None, Option(help=text.SPLIT_PRUNE, show_default="train")] = None,
    test_split: Annotated[str | None, Option(help="Of --data: what is scored.", show_default="test or val")] = None,
    data_option: DataOptions = None,
    criterion: Annotated[str, Option(help="Importance of a channel, such as l2 or taylor.")] = "l2",
    ranking: Annotated[Ranking, Option(help=text.RANKING)] = "global",
    min_kept: Annotated[float, Option(min=0, max=1, help="Fraction of its width that every group keeps.")] = 0.0,
    multiple_of: Annotated[int, Option(min=1, help="Widths are multiples of it.")] = 1,
    keep: Annotated[list[str] | None, Option(help=text.KEEP)] = None,
    allow_inexact: Annotated[bool, Option("--allow-inexact", help=text.ALLOW_INEXACT)] = False,
    compensate: Annotated[Compensate, Option(help=text.COMPENSATE)] = "none",
    renew_norms: Annotated[bool, Option("--renew-norms", help="Estimate statistics of norms anew on --data.")] = False,
    images: Annotated[int, Option(min=1, max=1_000_000, help="Of --data, for whatever looks at images.")] = 256,
    batch: Annotated[int, Option(min=1, max=100_000, help="Images per batch.")] = 32,
    limit: Annotated[int | None, Option(min=1, help="Score a sample of so many images.")] = None,
    seed: SeedOption = 0,
    task: Annotated[str | None, Option(help="Such as segmentation.", show_default="what the data are for")] = None,
) -> None:
    """Cut a model once, without training: proven, and scored before and after where data are given."""
    from adasap.experiments.prune import prune_model

    found = prune_model(
        named(model),
        out,
        budget,
        data=data,
        split=split,
        test_split=test_split,
        data_option=data_option or (),
        criterion=criterion,
        ranking=ranking,
        min_kept=min_kept,
        multiple_of=multiple_of,
        keep=listed(keep) or (),
        allow_inexact=allow_inexact,
        compensate=compensate,
        renew_norms=renew_norms,
        images=images,
        batch=batch,
        limit=limit,
        seed=seed,
        task=task,
    )
    print_parts(open_console(), found.parts())


@with_model_options
def groups(
    model: ModelArgument,
    named: Named,
    keep: Annotated[list[str] | None, Option(help=text.KEEP)] = None,
    allow_inexact: Annotated[bool, Option("--allow-inexact", help=text.ALLOW_INEXACT)] = False,
    depth: Annotated[bool, Option("--depth", help=text.DEPTH)] = False,
) -> None:
    """List the channel groups of a model."""
    from adasap.experiments.list_groups import list_groups

    found = list_groups(named(model), keep=listed(keep) or (), allow_inexact=allow_inexact, depth=depth)
    print_parts(open_console(), found.parts())


@with_model_options
def export(
    model: ModelArgument,
    out: Annotated[Path, Argument(metavar="OUT", help="The file to write.", autocompletion=complete_path)],
    to: Annotated[str, Option(help=text.TO, autocompletion=one_of(TARGETS))],
    named: Named,
    int8: Int8Given,
    fixed_batch: Annotated[int | None, Option(min=1, max=100_000, help=text.BATCH_EXPORT, show_default="any")] = None,
) -> None:
    """Write a model for a runtime, in float or of 8 bits, and compare it there."""
    from adasap.experiments.export import export_named

    found = export_named(named(model), out, to=to, fixed_batch=fixed_batch, int8=int8)
    print_parts(open_console(), found.parts())
