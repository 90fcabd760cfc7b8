"""A cell of a suite: images as they are, or under one corruption at one severity."""

from __future__ import annotations

from dataclasses import dataclass

from adasap.errors import ArgumentError, DataError

_CLEAN = "clean"


@dataclass(frozen=True, order=True)
class Cell:
    """Images as they are, or under a corruption; a text only where a file or a person reads it.

    Cells are ordered: the clean one first, then by corruption and severity.

    Attributes:
        corruption: A name; empty for images as they are.
        severity: 1 (weak) upwards; 0 for images as they are.
    Raises:
        ArgumentError: For a corruption without a severity, or a severity without a corruption.

    Example:
        >>> str(Cell("fog", 3)), str(CLEAN), sorted([Cell("fog", 10), Cell("fog", 2), CLEAN])[0].is_clean
        ('fog/3', 'clean', True)
    """

    corruption: str = ""
    severity: int = 0

    def __post_init__(self) -> None:
        number = isinstance(self.severity, int) and not isinstance(self.severity, bool)
        if not number or not (self.severity >= 1 if self.corruption else self.severity == 0):
            raise ArgumentError(
                f"a cell of corruption {self.corruption!r:.80} and severity {self.severity!r:.20}; give a name and a "
                "whole number from 1, or neither for images as they are"
            )

    @property
    def is_clean(self) -> bool:
        """Whether images are as they are."""
        return not self.corruption

    def __str__(self) -> str:
        return f"{self.corruption}/{self.severity}" if self.corruption else _CLEAN

    @classmethod
    def parse(cls, text: str) -> Cell:
        """The cell that a file names `clean` or `CORRUPTION/SEVERITY`.

        Raises:
            DataError: For any other text.

        Example:
            >>> Cell.parse("gaussian_noise/5")
            Cell(corruption='gaussian_noise', severity=5)
            >>> Cell.parse("fog/strong")
            Traceback (most recent call last):
            adasap.errors.DataError: 'fog/strong' is not a cell; wanted `clean` or `CORRUPTION/SEVERITY`, such as fog/3
        """
        corruption, _, severity = text.rpartition("/")
        if text == _CLEAN:
            return CLEAN
        if corruption and severity.isascii() and severity.isdecimal() and len(severity) < 5 and severity[0] != "0":
            return cls(corruption, int(severity))
        raise DataError(f"{text[:80]!r} is not a cell; wanted `clean` or `CORRUPTION/SEVERITY`, such as fog/3")


CLEAN = Cell()
"""Images as they are."""
