"""Gathers the verbs; errors that a user can act on are printed as sentences.

The modules of the verbs hold signatures; what a verb needs is imported when it runs, so that help and completion
come at once.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from adasap import __version__
from adasap.cli import measure, models, runs
from adasap.cli.messages import allow_any_text, print_sentence
from adasap.cli.options import VerbWithNumbers
from adasap.errors import AdasapError, AdasapWarning
from adasap.experiments.examples import EXAMPLES
from adasap.experiments.terminal import open_console
from adasap.memory import kept_memory

app = typer.Typer(
    name="adasap",
    help="Make a vision model small, fast and robust: adaptive sharpness-aware pruning.",
    epilog="`adasap VERB --help` has the options of a verb, and examples.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"adasap {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make a vision model small, fast and robust: adaptive sharpness-aware pruning."""


VERBS: tuple[Callable[..., None], ...] = (
    *(runs.demo, runs.init, runs.options, runs.compress, runs.compare, runs.sweep),
    *(measure.evaluate, measure.analyze, measure.check),
    *(models.profile, models.groups, models.export, models.prune),
)
for verb in VERBS:
    lines = ["Examples:", *(f"  {line}" for line in EXAMPLES[verb.__name__])]
    app.command(cls=VerbWithNumbers, epilog="\n\n".join(lines))(verb)


@contextmanager
def warnings_as_sentences() -> Iterator[None]:
    """Prints an `AdasapWarning` without the line of code that gave it, while it lasts."""
    with warnings.catch_warnings():
        as_code = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if isinstance(message, AdasapWarning):
                print_sentence(message, "Warning", "bold yellow")
            else:
                as_code(message, category, *place, **more)

        warnings.showwarning = show
        yield


def main() -> None:
    """Runs a verb; exit code 2 and one sentence for what a user can mend."""
    allow_any_text()
    try:
        with kept_memory(), warnings_as_sentences():
            app()
    except (AdasapError, OSError) as error:
        print_sentence(error, type(error).__name__, "bold red")
        sys.exit(2)
    except KeyboardInterrupt:
        open_console(stderr=True).print("stopped; run the same command again to go on")
        sys.exit(130)
