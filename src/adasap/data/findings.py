"""What a reader met in a data set and what it did about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

_NAMES_SHOWN = 3
_MOST_SHOWN = 100
Kind = TypeVar("Kind", bound=str)


@dataclass
class Findings(Generic[Kind]):
    """Each kind of finding with the names of the images, one per case.

    Attributes:
        meaning: Kind -> the sentence for it, in the order of the summary; a kind that is not there is its own sentence.
        names: Kind -> names of the images.

    Example:
        >>> findings = Findings()
        >>> findings.add("images without a mask, left out", "0016E5_08159")
        >>> findings.summary()
        '1 images without a mask, left out (0016E5_08159)'
    """

    meaning: Mapping[Kind, str] = field(default_factory=dict)
    names: dict[Kind, list[str]] = field(default_factory=dict)

    def add(self, kind: Kind, *names: str) -> None:
        """More cases of a kind."""
        if names:
            self.names.setdefault(kind, []).extend(names)

    def count(self, kind: Kind) -> int:
        """Number of cases."""
        return len(self.names.get(kind, []))

    def summary(self) -> str:
        """All kinds that occurred in one line, the first images by name; empty if there was nothing."""
        kinds = [kind for kind in dict.fromkeys((*self.meaning, *self.names)) if kind in self.names]
        return "; ".join(
            f"{self.count(kind):,} {self.meaning.get(kind, kind)} ({first_names(self.names[kind])})" for kind in kinds
        )


def first_names(names: Sequence[str]) -> str:
    """The first three different names, and whether there are more.

    Example:
        >>> first_names(["a", "b", "a", "c", "d"])
        'a, b, c, ...'
    """
    distinct = list(dict.fromkeys(names))
    more = ", ..." if len(distinct) > _NAMES_SHOWN else ""
    return ", ".join(shortened(name) for name in distinct[:_NAMES_SHOWN]) + more


def shortened(name: str) -> str:
    """A name as a message shows it, which nobody could read at any length."""
    return name if len(name) <= _MOST_SHOWN else f"{name[:_MOST_SHOWN]}..."
