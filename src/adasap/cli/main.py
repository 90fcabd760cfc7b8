"""Gathers the verbs; errors that a user can act on are printed as sentences."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from adasap.cli.analyze import analyze
from adasap.cli.compare import compare
from adasap.cli.compress import compress
from adasap.cli.demo import demo
from adasap.cli.evaluate import evaluate
from adasap.cli.export import export
from adasap.cli.groups import groups
from adasap.cli.profile import profile
from adasap.cli.sweep import sweep
from adasap.errors import AdasapError
from adasap.memory import kept_memory

app = typer.Typer(
    name="adasap",
    help="Make a vision model small, fast and robust: adaptive sharpness-aware pruning.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for verb in (demo, compress, compare, sweep, evaluate, analyze, profile, groups, export):
    app.command()(verb)


def main() -> None:
    """Runs a verb; exit code 2 and one sentence for what a user can mend."""
    try:
        with kept_memory():
            app()
    except (AdasapError, OSError) as error:
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; run the same command again to go on")
        sys.exit(130)
