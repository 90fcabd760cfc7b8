"""What a part of the page is: a heading, and for each run sentences, figures, tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from adasap.errors import ArgumentError

if TYPE_CHECKING:
    from adasap.report.comparison import Comparison
    from adasap.report.figures import Figure
    from adasap.report.table import Table

BLOCKS = Path(__file__).with_name("template") / "blocks.html"


@dataclass(frozen=True)
class Block:
    """A piece of a panel, in this order: a heading, a sentence, a figure, a table; whichever of them are given.

    Attributes:
        text: Escaped, unless it is `markupsafe.Markup`.
        prose: Columns of the table that hold sentences.
    """

    title: str = ""
    text: str = ""
    figure: Figure | None = None
    table: Table | None = None
    prose: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Content:
    """What a panel shows.

    Attributes:
        title: Of the panel.
        shared: Blocks that speak of all runs together.
        by_run: Blocks of each run, in the order of the runs; empty for runs that the panel says nothing of.
        pictures: What its template part draws one by one; the last ones go where the page would be too large.
        values: What else the template part reads.
    """

    title: str
    shared: tuple[Block, ...] = ()
    by_run: tuple[tuple[Block, ...], ...] = ()
    pictures: tuple[Any, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> list[Figure]:
        """Those of all blocks."""
        blocks = [*self.shared, *(block for run in self.by_run for block in run)]
        return [block.figure for block in blocks if block.figure is not None]


class Panel(Protocol):
    """A part of the page, one file: derive from it, and give it to the task or to the page.

    Attributes:
        key: Unique on the page; the section's anchor is `part-KEY`.
        heading: Its name in the navigation; empty for none.
        follows: Key of the common panel that it stands behind.
        part: Jinja2 template of what stands below the title; it is given `content`, `runs`, `downloads` and the macros
            of `macros.html`. A file beside it that differs only in the ending `.css` is its style. The default draws
            the blocks.
    """

    key: str
    heading: str = ""
    follows: str = "layers"
    part: Path = BLOCKS

    def content(self, found: Comparison) -> Content | None:
        """What it shows of these runs; None where it has nothing to say."""


def blocks_by_run(title: str, found: Comparison, make: Callable[[Comparison, int], Sequence[Block]]) -> Content | None:
    """Content of a panel that speaks of each run by itself; None where it says nothing of any.

    Args:
        make: The runs and the place of one of them -> its blocks. Keys of figures end in that place.
    """
    by_run = tuple(tuple(make(found, place)) for place in range(len(found.runs)))
    return Content(title, by_run=by_run) if any(by_run) else None


def arranged(common: Sequence[Panel], others: Sequence[Panel]) -> list[Panel]:
    """The common panels with each other one behind the common one that it follows, and behind those already there.

    Raises:
        ArgumentError: For a key that is there twice, or one to follow that no common panel has.
    """
    keys = [panel.key for panel in (*common, *others)]
    if twice := [key for key in keys if keys.count(key) > 1]:
        raise ArgumentError(f"two panels have the key {twice[0]!r}; give each its own")
    known = [panel.key for panel in common]
    if lost := [panel for panel in others if panel.follows not in known]:
        raise ArgumentError(
            f"panel {lost[0].key!r} follows {lost[0].follows!r}, which is not a common panel; those are "
            f"{', '.join(known)}"
        )
    return [panel for first in common for panel in (first, *(p for p in others if p.follows == first.key))]
