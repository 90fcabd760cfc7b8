"""`adasap compare RUN...`: finished runs side by side on one page, with the same numbers as JSON, CSV and Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from adasap.cli.runs import write_page
from adasap.report import PAGE
from adasap.report.comparison import Comparison, compare_runs
from adasap.report.files import comparison_table, write_summary
from adasap.report.run_data import RunData, read_runs


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `adasap compress` made.")],
    baseline: Annotated[
        str, typer.Option(metavar="RUN|dense", help="What gains are measured from: a run's name or folder, or dense.")
    ] = "dense",
    out: Annotated[Path, typer.Option(help="Folder for the page and its numbers.")] = Path("comparison"),
) -> None:
    """Show finished runs side by side on one page."""
    found = write_comparison(runs, out, baseline=baseline)
    console = Console()
    console.print(comparison_table(found))
    console.print(f"The page: {out / PAGE}", highlight=False, soft_wrap=True)


def write_comparison(folders: Sequence[Path], out: Path, *, baseline: str = "dense") -> Comparison:
    """Writes the page and its numbers into a folder."""
    runs = read_runs(folders)
    name = next((run.name for run in runs if Path(baseline) == run.folder), baseline)
    return write_side_by_side(runs, out, baseline=name)


def write_side_by_side(runs: Sequence[RunData], out: Path, *, baseline: str) -> Comparison:
    """The page and its numbers of runs that have been read."""
    found = compare_runs(runs, baseline)
    out.mkdir(parents=True, exist_ok=True)
    write_page(found, out)
    write_summary(found, out)
    return found
