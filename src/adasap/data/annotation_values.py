"""Values of annotation files, which come as JSON numbers, as text, or as an exporter wrote them."""

from __future__ import annotations

import math
import re
from pathlib import PurePosixPath, PureWindowsPath

_WHOLE = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0+)?")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?")
_YES = frozenset({"1", "true", "yes", "y", "t", "on"})
_NO = frozenset({"", "0", "false", "no", "n", "f", "off", "none", "null", "unspecified"})
_MOST_CHARACTERS = 400


def identifier(value: object) -> int | str:
    """An id by which entries are joined: 1, 1.0, "1" and "1.0" are one id; "01" is another, and stays text.

    Raises:
        ValueError: For null, booleans, lists, fractions and empty text.

    Example:
        >>> identifier("12"), identifier(12.0), identifier("012"), identifier("img_12")
        (12, 12, '012', 'img_12')
    """
    if isinstance(value, str) and value.strip():
        text = value.strip()
        whole = _WHOLE.fullmatch(text)
        return int(whole[1]) if whole else text
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1:
        raise ValueError(f"{str(value)[:80]!r} is not an id")
    return int(value)


def number(value: object) -> float:
    """A finite number, also where it is written as text with a decimal point.

    Raises:
        ValueError: For everything else: `nan`, `inf`, `1e999`, `1,5`, `1_000`, null and booleans.

    Example:
        >>> number(3), number(" 2.5 ")
        (3.0, 2.5)
    """
    given = value.strip() if isinstance(value, str) else value
    text = isinstance(given, str) and len(given) <= _MOST_CHARACTERS and _DECIMAL.fullmatch(given)
    if not text and (isinstance(given, bool) or not isinstance(given, int | float)):
        raise ValueError(f"{str(value)[:80]!r} is not a number")
    try:
        found = float(given)  # type: ignore[arg-type]
    except OverflowError:
        found = math.inf
    if not math.isfinite(found):
        raise ValueError(f"{str(value)[:80]!r} is not a finite number")
    return found


def flag(value: object) -> bool | None:
    """Yes or no, as a boolean, a number or a word; null and `Unspecified` are no. None for anything else.

    Example:
        >>> flag("1"), flag("false"), flag("Unspecified"), flag(0.0), flag("2")
        (True, False, False, False, None)
    """
    if isinstance(value, int | float):
        return bool(value) if value in (0, 1) else None
    word = "" if value is None else str(value).strip().lower()
    return True if word in _YES else False if word in _NO else None


def leaves_folder(name: str) -> bool:
    """Whether a relative path, read as one of this system or of Windows, is absolute or goes up.

    Example:
        >>> leaves_folder("train/1.jpg"), leaves_folder("../1.jpg"), leaves_folder("/etc/passwd")
        (False, True, True)
    """
    kinds = PurePosixPath(name), PureWindowsPath(name)
    return any(path.anchor or ".." in path.parts for path in kinds)
