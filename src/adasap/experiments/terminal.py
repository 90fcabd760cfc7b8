"""Consoles and bars on which names and messages are printed as they are, and a console of JSON for programs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Literal

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


class JsonConsole(PlainConsole):
    """A console for programs: whatever is printed on it is one JSON object a line, with a `kind`.

    Sentences are objects of the kind `note` (`text`), tables of the kind `table` (`header`, `rows`); `docs/logs.md` has
    the others.

    Example:
        >>> import io
        >>> console = JsonConsole(file=io.StringIO())
        >>> console.print("[a]")
        >>> console.file.getvalue()
        '{"kind": "note", "text": "[a]"}\\n'
    """

    def print(self, *things: Any, **options: Any) -> None:
        for thing in things:
            if hasattr(thing, "rows"):
                self.tell("table", header=list(thing.header), rows=[list(row) for row in thing.rows])
            elif str(thing):
                self.tell("note", text=str(thing))

    def tell(self, kind: str, **keys: Any) -> None:
        """One object."""
        if not self.quiet:
            self.file.write(json.dumps({"kind": kind, **keys}, allow_nan=False) + "\n")
            self.file.flush()


AnyConsole = Console | bool | Literal["json"]
"""Where a function shows what it does: a console, `True` for the terminal or notebook, `json` for a program."""


def open_console(*, stderr: bool = False, quiet: bool = False, json: bool = False) -> Console:
    """A console that takes no text for markup and colours no numbers: `[red]` in a path is printed as `[red]`."""
    kind = JsonConsole if json else PlainConsole
    return kind(stderr=stderr, quiet=quiet, markup=False, emoji=False, highlight=False)


def console_of(shown: AnyConsole) -> Console:
    """The console that a function was given; `True` opens one, `False` a quiet one, `json` one for programs.

    Example:
        >>> console_of(False).quiet
        True
    """
    if isinstance(shown, Console):
        return shown
    return open_console(quiet=not shown, json=shown == "json")


def is_live(console: Console) -> bool:
    """Whether a bar can move on it; elsewhere, as in a log file, progress is told in lines."""
    moves = console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal)
    return moves and not isinstance(console, JsonConsole)


class Every:
    """Whether it is time for a line again: `seconds` after the last one, or after the beginning.

    Example:
        >>> now = iter([0.0, 20.0, 31.0, 40.0])
        >>> due = Every(30, clock=lambda: next(now))
        >>> due(), due(), due()
        (False, True, False)
    """

    def __init__(self, seconds: float = 30.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self.clock, self._last = seconds, clock, clock()

    def __call__(self) -> bool:
        now = self.clock()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


def open_progress(console: Console) -> Progress:
    """A bar that goes away when it is done; its descriptions are no markup, either."""
    columns = (PlainColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not is_live(console))


def lines_on(console: Console, what: str, *, seconds: float = 30.0) -> Callable[[int, int], None]:
    """A function of how many of how many are done: a line every 30 s where no bar can move, nothing elsewhere.

    Example:
        >>> lines_on(open_console(), "layers", seconds=0.0)(3, 40)
        layers: 3 of 40
    """
    due = Every(seconds)

    def tell(done: int, total: int) -> None:
        if not is_live(console) and not isinstance(console, JsonConsole) and due():
            console.print(f"{what}: {done:,} of {total:,}", soft_wrap=True)

    return tell


def print_parts(console: Console, parts: Iterable[Table | str]) -> None:
    """Prints tables aligned, and each text in one line that is not broken."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, str), markup=False, highlight=False)
