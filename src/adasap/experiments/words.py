"""Words of a command line, taken apart: lists with commas, numbers one after the other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from typer import BadParameter

from adasap.errors import DataError


def joined_numbers(args: Sequence[str]) -> list[str]:
    """The words of a command line, numbers after `--mean` and `--std` joined to one word.

    Example:
        >>> joined_numbers(["--mean", ".5", ".4", "net.safetensors", "--std", "1"])
        ['--mean', '.5,.4', 'net.safetensors', '--std', '1']
    """
    joined: list[str] = []
    option = ""
    for word in args:
        if option in ("--mean", "--std") and _is_number(word) and _is_number(joined[-1].rpartition(",")[2]):
            joined[-1] += f",{word}"
            continue
        option = word if word.startswith("--") else option if _is_number(word) else ""
        joined.append(word)
    return joined


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def listed(texts: Sequence[str] | None) -> list[str] | None:
    """What an option that takes a list was given: repeated, with commas, or both.

    Example:
        >>> listed(["fog,frost", "snow"])
        ['fog', 'frost', 'snow']
    """
    return None if texts is None else [name.strip() for text in texts for name in text.split(",") if name.strip()]


def severities_listed(texts: Sequence[str] | None) -> list[int] | None:
    """What `--severities` was given, repeated, with commas, or both.

    Raises:
        DataError: Unless they are whole numbers from 1 to 5.
    Example:
        >>> severities_listed(["1,3", "5"])
        [1, 3, 5]
    """
    texts = listed(texts)
    wrong = next((text for text in texts or () if text not in {"1", "2", "3", "4", "5"}), None)
    if wrong is not None:
        raise DataError(f"--severities {wrong}: give whole numbers from 1 to 5, such as --severities 1,3,5")
    return None if texts is None else [int(text) for text in texts]


class PerChannel(tuple[float, ...]):
    """A number for each channel; a class of its own, since Typer takes `tuple[...]` for a fixed number of words."""


def numbers_of(word: str) -> PerChannel:
    """The numbers of `.5,.5,.5`."""
    try:
        numbers = PerChannel(float(number) for number in word.split(","))
    except ValueError as error:
        raise BadParameter(f"{word!r} is not numbers; give one per channel, such as .5 .5 .5") from error
    if not all(map(math.isfinite, numbers)):
        raise BadParameter(f"{word!r}: give finite numbers, one per channel")
    return numbers
