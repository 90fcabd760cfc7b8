"""One table for people: Markdown in files, aligned columns on a terminal."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import rich.box
import rich.console
import rich.table
from rich.text import Text

from adasap.plain_text import plain


def _markdown(cell: str) -> str:
    """A cell that ends neither its column nor its line, and begins no tag of HTML."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(plain(cell).splitlines())).replace("|", "\\|")


@dataclass(frozen=True)
class Table:
    """A header and rows of text; `str` gives Markdown, Rich prints it as a table, a notebook shows it as one.

    Attributes:
        header: Titles of the columns.
        rows: As many cells each.
        left: Columns that are aligned left, from 0; the others are aligned right.

    Example:
        >>> print(Table(["a", "b"], [["x", "1"]]))
        | a | b |
        |---|---:|
        | x | 1 |
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[int] = (0,)

    def __str__(self) -> str:
        rule = "|".join("---" if place in self.left else "---:" for place in range(len(self.header)))
        lines = [" | ".join(map(_markdown, row)) for row in (self.header, *self.rows)]
        return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for place, name in enumerate(self.header):
            table.add_column(Text(plain(name)), justify="left" if place in self.left else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(plain(cell)) for cell in row))
        return table

    def _repr_markdown_(self) -> str:
        return str(self)


class Shown:
    """What came out of something: tables and lines; Markdown as text and in a notebook, aligned columns by Rich."""

    @abstractmethod
    def parts(self) -> Iterable[Table | str]:
        """Tables and lines, in their order."""

    def __str__(self) -> str:
        return "\n\n".join(map(str, self.parts()))

    __repr__ = __str__

    def _repr_markdown_(self) -> str:
        return str(self)

    def __rich__(self) -> rich.console.Group:
        return rich.console.Group(*(Text(plain(part)) if isinstance(part, str) else part for part in self.parts()))
