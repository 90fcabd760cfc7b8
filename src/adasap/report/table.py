"""One table for people: Markdown in files, aligned columns on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rich.box
import rich.table
from rich.text import Text


@dataclass(frozen=True)
class Table:
    """A header and rows of text; `str` gives Markdown, Rich prints it as a table.

    The first column is left-aligned, the others right.

    Example:
        >>> print(Table(["a", "b"], [["x", "1"]]))
        | a | b |
        |---|---:|
        | x | 1 |
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        rule = "|".join(["---"] + ["---:"] * (len(self.header) - 1))
        lines = [" | ".join(row) for row in (self.header, *self.rows)]
        return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])

    def __rich__(self) -> rich.table.Table:
        table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False)
        for place, name in enumerate(self.header):
            table.add_column(Text(name), justify="left" if place == 0 else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*map(Text, row))
        return table
