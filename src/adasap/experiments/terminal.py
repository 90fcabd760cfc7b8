"""Consoles and bars on which names and messages are printed as they are, whatever they contain."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from adasap.plain_text import plain

if TYPE_CHECKING:
    from adasap.report import Table


class PlainConsole(Console):
    """A console on which `[bold]`, `:smile:` and control characters in a text are nothing but characters."""

    def render_str(self, text: str, **options: Any) -> Text:
        """The text in its style, as it stands."""
        return super().render_str(plain(text), **options | {"markup": False, "emoji": False})


class PlainColumn(TextColumn):
    """A field of a progress bar, such as `{task.description}`, as it stands."""

    def __init__(self, template: str, style: str = "none") -> None:
        super().__init__(template, style=style, markup=False)

    def render(self, task: Task) -> Text:
        return Text(plain(super().render(task).plain), style=self.style)


def open_console(*, stderr: bool = False, quiet: bool = False) -> Console:
    """A console that takes no text for markup and colours no numbers: `[red]` in a path is printed as `[red]`."""
    return PlainConsole(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


def console_of(shown: Console | bool) -> Console:
    """The console that a function was given; `True` opens one, `False` a quiet one.

    Example:
        >>> console_of(False).quiet
        True
    """
    return shown if isinstance(shown, Console) else open_console(quiet=not shown)


def open_progress(console: Console) -> Progress:
    """A bar that goes away when it is done; its descriptions are no markup, either."""
    columns = (PlainColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True)


def print_parts(console: Console, parts: Iterable[Table | str]) -> None:
    """Prints tables aligned, and each text in one line that is not broken."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str), markup=False, highlight=False)
